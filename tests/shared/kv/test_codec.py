"""The codec: round trips, what each doubt about a value is called, sizes."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from shared.errors import KVMissError, MissCause
from shared.kv.codec import (
    HEADER_LIMIT,
    MARKER,
    ORDER,
    EntryCodec,
    EntryHeader,
    read_header,
)
from shared.kv.layout import EntryLayout
from shared.model.config import ModelConfig
from tests.shared.kv.entries import (
    FINGERPRINT,
    FORMS,
    OTHER_FINGERPRINT,
    codec_of,
    header_of,
    model_config,
    random_pages,
    sealed,
)

CONFIGS = {name: model_config(**changes) for name, changes in FORMS.items()}
WIDEST = EntryHeader(
    fingerprint=FINGERPRINT,
    user="é" * 128,
    tokens=20,
    last_event_time_s=(1 << 63) - 1,
    history_version=(1 << 64) - 1,
    created_ms=(1 << 63) - 1,
)


def encoded(config: ModelConfig, header: EntryHeader) -> bytes:
    return codec_of(config).encode(header, random_pages(config, header.tokens))


def cause_of(codec: EntryCodec, value: bytes, user: str = "42") -> MissCause:
    with pytest.raises(KVMissError) as raised:
        codec.decode(user, value)
    assert raised.value.user == user
    return raised.value.cause


def header_msgpack(*fields: Any) -> bytes:
    """A header of these fields after the marker, length and padding as the format wants them."""
    body = b"".join(msgpack.packb(field) for field in fields)
    padding = -(len(MARKER) + 1 + len(body) + 2) % 16
    length = len(MARKER) + 1 + len(body) + 2 + padding
    return MARKER + bytes([length // 16]) + body + msgpack.packb(bytes(padding))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 100])
def test_round_trip(config: ModelConfig, tokens: int) -> None:
    header = header_of(tokens=tokens)
    pages = random_pages(config, tokens)
    value = codec_of(config).encode(header, pages)
    assert value == codec_of(config).encode(header, pages.tobytes())
    entry = codec_of(config).decode("42", value)
    assert entry.header == header
    assert entry.payload.dtype == np.uint8
    assert entry.payload.shape == pages.shape
    assert entry.payload.tobytes() == pages.tobytes()
    assert value == entry.header_bytes + entry.payload.tobytes()


def test_payload_is_an_aligned_view() -> None:
    value = encoded(CONFIGS["tied"], header_of())
    entry = codec_of(CONFIGS["tied"]).decode("42", value)
    assert not entry.payload.flags.writeable
    assert np.shares_memory(entry.payload, np.frombuffer(value, np.uint8))
    assert len(entry.header_bytes) % 16 == 0
    assert entry.payload.ctypes.data % 16 == 0


@pytest.mark.parametrize("header", [header_of(), header_of(user="x", version=0), WIDEST])
def test_read_header(header: EntryHeader) -> None:
    value = encoded(CONFIGS["tied"], header)
    assert read_header(value)[0] == header
    assert read_header(value[:HEADER_LIMIT]) == read_header(value)
    header_bytes = read_header(value)[1]
    assert value.startswith(header_bytes)
    assert value[ORDER] == struct.pack(">QI", header.history_version, header.tokens)


def test_the_widest_header_is_the_limit() -> None:
    assert len(read_header(encoded(CONFIGS["tied"], WIDEST))[1]) == HEADER_LIMIT


def test_headers_are_small() -> None:
    for user in ("7", "a" * 36, "a" * 256):
        header = header_of(user=user, version=(1 << 64) - 1)
        assert len(read_header(encoded(CONFIGS["tied"], header))[1]) <= 100 + len(user)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"user": ""}, "user"),
        ({"user": "é" * 129}, "user"),
        ({"tokens": 0}, "tokens"),
        ({"tokens": 101}, "tokens"),
        ({"tokens": 33}, "payload"),
        ({"tokens": 18}, "not zero"),
        ({"history_version": -1}, "history_version"),
        ({"history_version": 1 << 64}, "history_version"),
        ({"last_event_time_s": -1}, "last_event_time_s"),
        ({"created_ms": 1 << 63}, "created_ms"),
        ({"fingerprint": OTHER_FINGERPRINT}, "fingerprint"),
    ],
)
def test_encode_refuses(change: dict[str, Any], names: str) -> None:
    codec, pages = codec_of(CONFIGS["tied"]), random_pages(CONFIGS["tied"], 20)
    with pytest.raises(ValueError, match=names):
        codec.encode(replace(header_of(), **change), pages)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_encode_refuses_padding_that_is_not_zero(config: ModelConfig) -> None:
    layout = EntryLayout(config)
    for layer in range(config.layers):
        for plane in layout.layers[layer]:
            pages = random_pages(config, 20)
            view = layout.planes(torch.from_numpy(pages), layer)[plane.name]
            view[-1, 4] = 1
            with pytest.raises(ValueError, match=f"layer {layer}, plane {plane.name}"):
                codec_of(config).encode(header_of(), pages)


@pytest.mark.parametrize("fingerprint", ["", "00", "0" * 33, "G" * 32, FINGERPRINT.upper()])
def test_a_fingerprint_is_32_hex_digits(fingerprint: str) -> None:
    with pytest.raises(ValueError, match="hex"):
        codec_of(CONFIGS["tied"], fingerprint)


def test_foreign_entries() -> None:
    config = CONFIGS["tied"]
    value = encoded(config, header_of())
    assert cause_of(codec_of(config), value, "4") is MissCause.FOREIGN_USER
    other = codec_of(config, OTHER_FINGERPRINT)
    assert cause_of(other, value) is MissCause.FOREIGN_FINGERPRINT


def test_wrong_sizes() -> None:
    codec = codec_of(CONFIGS["tied"])
    value = encoded(CONFIGS["tied"], header_of())
    assert cause_of(codec, value[:-1]) is MissCause.WRONG_SIZE
    assert cause_of(codec, value + b"\0") is MissCause.WRONG_SIZE
    assert cause_of(codec, value[: value[6] * 16]) is MissCause.WRONG_SIZE
    for length in range(value[6] * 16):
        assert cause_of(codec, value[:length]) is MissCause.MALFORMED


def test_oversized_before_anything_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIGS["tied"]
    codec = codec_of(config)
    value = encoded(config, header_of())
    limit = HEADER_LIMIT + EntryLayout(config).payload_bytes(config.max_history)
    assert cause_of(codec, value.ljust(limit, b"\0")) is MissCause.WRONG_SIZE
    monkeypatch.setattr(msgpack, "unpackb", None)
    assert cause_of(codec, value.ljust(limit + 1, b"\0")) is MissCause.OVERSIZED


def test_more_tokens_than_the_model_takes() -> None:
    config = CONFIGS["tied"]
    value = encoded(config, header_of(tokens=20))
    small = EntryCodec(EntryLayout(config), FINGERPRINT, max_tokens=19)
    assert cause_of(small, value) is MissCause.OVERSIZED


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_format_version(version: int) -> None:
    value = bytearray(encoded(CONFIGS["tied"], header_of()))
    value[5] = version
    assert cause_of(codec_of(CONFIGS["tied"]), sealed(bytes(value))) is MissCause.UNKNOWN_FORMAT
    with pytest.raises(ValueError, match="another format version"):
        read_header(bytes(value))


def _bounded_planes(config: ModelConfig) -> list[tuple[str, int]]:
    limits = {"key_code": config.code_vectors}
    names = [plane.name for plane in EntryLayout(config).layers[0]]
    bounded = ("row", "key_row", "value_row", "key_code")
    return [(name, limits.get(name, config.pool_rows)) for name in names if name in bounded]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_index_is_checked(config: ModelConfig) -> None:
    """In each layer, page and slot, padding included, with a digest that is right."""
    layout, codec = EntryLayout(config), codec_of(config)
    value = encoded(config, header_of(tokens=20))
    header_length = value[6] * 16
    bounded = _bounded_planes(config)
    assert bounded or config.kv == "dense"
    for layer in range(config.layers):
        for name, limit in bounded:
            for page, slot in ((0, 0), (0, 15), (1, 3), (1, 4), (1, 15)):
                pages = torch.from_numpy(np.frombuffer(value[header_length:], np.uint8).copy())
                planes = layout.planes(pages.view(2, -1), layer)
                for number, fits in ((limit - 1, True), (limit, False), (255, False)):
                    planes[name][page, slot] = number
                    wrong = sealed(value[:header_length] + pages.numpy().tobytes())
                    if fits:
                        codec.decode("42", wrong)
                    else:
                        assert cause_of(codec, wrong) is MissCause.INDEX_OUT_OF_RANGE


def test_a_full_range_needs_no_check() -> None:
    config = model_config(
        router="tied", slices="coded", pool_rows=1 << 16, code_vectors=256, slice_dims=1
    )
    pages = random_pages(config, 32)
    pages[:] = 255
    value = codec_of(config).encode(header_of(tokens=32), pages)
    assert codec_of(config).decode("42", value).payload.min() == 255


ORDER_BYTES = struct.pack(">QI", 5, 20)
RAW = bytes.fromhex(FINGERPRINT)


@pytest.mark.parametrize(
    "fields",
    [
        (ORDER_BYTES, bytes(8), RAW, 1, 2, b"42"),  # a binary user
        (ORDER_BYTES, bytes(8), RAW, 1, 2, 42),
        (ORDER_BYTES, bytes(8), RAW, 1, True, "42"),
        (ORDER_BYTES, bytes(8), RAW, 1.0, 2, "42"),
        (ORDER_BYTES, bytes(8), RAW, -1, 2, "42"),
        (ORDER_BYTES, bytes(8), RAW, 1, None, "42"),
        (ORDER_BYTES, bytes(8), RAW, 1, 1 << 63, "42"),
        (ORDER_BYTES, bytes(8), FINGERPRINT[:16], 1, 2, "42"),
        (ORDER_BYTES, bytes(8), RAW[:15], 1, 2, "42"),
        (ORDER_BYTES, bytes(8), 1.5, 1, 2, "42"),
        (ORDER_BYTES, bytes(9), RAW, 1, 2, "42"),
        (ORDER_BYTES[:11], bytes(8), RAW, 1, 2, "42"),
        (ORDER_BYTES + b"\0", bytes(8), RAW, 1, 2, "42"),
        (struct.pack(">QI", 5, 0), bytes(8), RAW, 1, 2, "42"),
        (ORDER_BYTES, bytes(8), RAW, 1, 2, ""),
        (ORDER_BYTES, bytes(8), RAW, 1, 2, "a" * 257),
        (ORDER_BYTES, bytes(8), RAW, 1, 2),
        (ORDER_BYTES, bytes(8), RAW, 1, 2, "42", 3),
        (ORDER_BYTES, bytes(8), RAW, {}, 2, "42"),
        (ORDER_BYTES, bytes(8), RAW, {1: 2}, 2, "42"),
        (ORDER_BYTES, bytes(8), RAW, [1], 2, "42"),
        (ORDER_BYTES, bytes(8), RAW, msgpack.Timestamp(1), 2, "42"),
        (ORDER_BYTES, bytes(8), RAW, msgpack.ExtType(5, b""), 2, "42"),
    ],
)
def test_fields_of_another_type(fields: tuple[Any, ...]) -> None:
    config = CONFIGS["tied"]
    payload = random_pages(config, 20).tobytes()
    good = header_msgpack(ORDER_BYTES, bytes(8), RAW, 1, 2, "42")
    codec_of(config).decode("42", sealed(good + payload))  # the test writes headers as it should
    assert cause_of(codec_of(config), header_msgpack(*fields) + payload) is MissCause.MALFORMED


BOMBS = {
    "array of 4 G": b"\xdd\xff\xff\xff\xff",
    "map of 4 G": b"\xdf\xff\xff\xff\xff",
    "string of 4 GB": b"\xdb\xff\xff\xff\xff",
    "binary of 4 GB": b"\xc6\xff\xff\xff\xff",
    "extension of 4 GB": b"\xc9\xff\xff\xff\xff\x01",
    "nested": b"\x91" * 400,
    "wide and nested": b"\x99" * 400,
    "nested maps": b"\x81" * 400,
    "reserved": b"\xc1",
    "not UTF-8": b"\xa2\xff\xfe",
    "timestamp": b"\xd7\xff" + b"\xff" * 8,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("at", [0, 7, 31, 49])
def test_msgpack_bombs(bomb: bytes, at: int) -> None:
    value = encoded(CONFIGS["tied"], header_of())
    for length in (5, 21):
        wrong = value[:at] + bomb.ljust(400, b"\0") + value[at:]
        if at > 6:
            wrong = wrong[:6] + bytes([length]) + wrong[7:]
        assert cause_of(codec_of(CONFIGS["tied"]), wrong) is MissCause.MALFORMED


def test_a_header_has_one_spelling() -> None:
    """Another spelling of the same fields, rightly sealed, is refused."""
    payload = random_pages(CONFIGS["tied"], 20).tobytes()
    header = header_msgpack(ORDER_BYTES, bytes(8), RAW, 1, 2, "42")
    at = header.index(RAW) + len(RAW)
    assert header[at] == 1  # one byte for a small integer, and zeros for padding behind the user
    long_integer = header[:at] + b"\xcc\x01" + header[at + 1 :]
    padding_at = long_integer.index(b"42") + 2
    shorter = bytearray(long_integer[:-1])
    shorter[padding_at + 1] -= 1
    dirty = header[:-1] + b"\x01"
    for other in (bytes(shorter), dirty):
        assert msgpack.unpackb(other)[4:8] == msgpack.unpackb(header)[4:8]
        wrong = sealed(other + payload)
        assert cause_of(codec_of(CONFIGS["tied"]), wrong) is MissCause.MALFORMED
