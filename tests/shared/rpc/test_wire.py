"""Messages with numpy arrays are the public messages on the wire."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosskv.v1 import context_pb2, crossing_pb2
from shared.errors import InvalidFieldError
from shared.rpc.wire import build, packed, parse

u64 = st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(u64, max_size=40), st.lists(st.floats(width=32, allow_nan=False), max_size=9))
def test_parsing_reads_what_the_public_type_wrote(ids: list[int], features: list[float]) -> None:
    public = crossing_pb2.ScoreCandidatesRequest(user_id="ü", item_ids=ids, features=features)
    message = parse(crossing_pb2.ScoreCandidatesRequest, public.SerializeToString())
    assert message.user_id == "ü"
    assert packed(message, "item_ids").tolist() == ids
    assert packed(message, "item_ids").dtype == np.uint64
    assert packed(message, "features").tolist() == features


@given(st.lists(i64, max_size=40), st.lists(st.integers(0, 2**32 - 1), max_size=40))
def test_building_writes_what_the_public_type_writes(times: list[int], kinds: list[int]) -> None:
    actions = build(context_pb2.Actions, times_s=np.array(times, "<i8"), action_types=kinds)
    ours = build(context_pb2.EncodeContextRequest, user_id="7", actions=actions, history_version=9)
    public = context_pb2.EncodeContextRequest(
        user_id="7",
        actions=context_pb2.Actions(times_s=times, action_types=kinds),
        history_version=9,
    )
    assert ours.SerializeToString() == public.SerializeToString()


def test_nested_arrays_are_read() -> None:
    public = context_pb2.EncodeContextRequest(actions=context_pb2.Actions(times_s=[-3, 5]))
    message = parse(context_pb2.EncodeContextRequest, public.SerializeToString())
    assert packed(message, "actions.times_s").tolist() == [-3, 5]


def _field(number: int, wire_type: int) -> bytes:
    return bytes([number << 3 | wire_type])


def test_a_packed_field_in_several_runs_is_joined() -> None:
    runs = [np.arange(3, dtype="<u8").tobytes(), np.arange(3, 5, dtype="<u8").tobytes()]
    data = b"".join(_field(2, 2) + bytes([len(run)]) + run for run in runs)
    message = parse(crossing_pb2.ScoreCandidatesRequest, data)
    assert packed(message, "item_ids").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("nested", [False, True])
def test_an_unpacked_field_is_read_too(nested: bool) -> None:
    numbers = [7, 2**63]
    if nested:
        inner = b"".join(_field(1, 1) + number.to_bytes(8, "little") for number in numbers)
        data = _field(2, 2) + bytes([len(inner)]) + inner
        message = parse(context_pb2.EncodeContextRequest, data).actions
    else:
        data = b"".join(_field(2, 1) + number.to_bytes(8, "little") for number in numbers)
        message = parse(crossing_pb2.ScoreCandidatesRequest, data)
    assert packed(message, "item_ids").tolist() == numbers


def test_unknown_fields_are_ignored_as_protobuf_does() -> None:
    data = crossing_pb2.ScoreCandidatesRequest(item_ids=[1]).SerializeToString()
    message = parse(crossing_pb2.ScoreCandidatesRequest, data + _field(15, 0) + b"\x01")
    assert packed(message, "item_ids").tolist() == [1]


def test_unknown_fields_beside_an_unpacked_array_leave_it_whole() -> None:
    data = b"".join(_field(2, 1) + number.to_bytes(8, "little") for number in (5, 6))
    data += (_field(15, 0) + b"\x01") * 1000
    message = parse(crossing_pb2.ScoreCandidatesRequest, data)
    assert packed(message, "item_ids").tolist() == [5, 6]


def test_garbage_is_an_invalid_request() -> None:
    with pytest.raises(InvalidFieldError, match=r"request: 3 bytes that are no crosskv\.v1\.Score"):
        parse(crossing_pb2.ScoreCandidatesRequest, b"\xff\xff\xff")


def test_a_torn_array_names_its_field() -> None:
    data = _field(2, 2) + bytes([9]) + bytes(9)
    message = parse(crossing_pb2.ScoreCandidatesRequest, data)
    with pytest.raises(InvalidFieldError, match="item_ids: 9 bytes, expected a multiple of 8"):
        packed(message, "item_ids")


def test_a_torn_nested_array_names_its_path() -> None:
    inner = _field(3, 2) + bytes([5]) + bytes(5)
    message = parse(context_pb2.EncodeContextRequest, _field(2, 2) + bytes([len(inner)]) + inner)
    with pytest.raises(InvalidFieldError, match=r"actions\.times_s: 5 bytes, expected a multiple"):
        packed(message, "actions.times_s")


def test_views_cannot_be_written() -> None:
    data = crossing_pb2.ScoreCandidatesRequest(item_ids=[1]).SerializeToString()
    ids = packed(parse(crossing_pb2.ScoreCandidatesRequest, data), "item_ids")
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 2
