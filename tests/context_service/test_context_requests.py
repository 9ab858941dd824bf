"""Every way a request can be wrong: the error names field, value and way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crosskv.v1 import context_pb2
from shared.errors import InvalidFieldError
from tests.context_service.servicer_calls import actions, running_service
from tests.tiny_model import tiny_config


def _like(**fields: Any) -> context_pb2.Actions:
    return actions(4, **fields)


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    # name: request fields, field named, words of the message
    "user empty": ({"user_id": ""}, "user_id", "empty; send 1 to 256 bytes"),
    "user oversized": ({"user_id": "é" * 129}, "user_id", "258 bytes"),
    "no actions message": ({"actions": None}, "actions.item_ids", "send at least one"),
    "no actions": ({"actions": context_pb2.Actions()}, "actions.item_ids", "send at least one"),
    "too many actions": (
        {"actions": actions(301)},
        "actions.item_ids",
        "301 actions, the limit is 300",
    ),
    "ragged types": (
        {"actions": _like(action_types=[0, 1, 2])},
        "actions.action_types",
        "3 values for 4 item_ids",
    ),
    "no types": ({"actions": _like(action_types=[])}, "actions.action_types", "0 values for 4"),
    "ragged times": (
        {"actions": _like(times_s=[1] * 5)},
        "actions.times_s",
        "5 values for 4 item_ids",
    ),
    "ragged surfaces": ({"actions": _like(surfaces=[1])}, "actions.surfaces", "1 values for 4"),
    "type out of range": (
        {"actions": _like(action_types=[0, 2, 3, 4])},
        "actions.action_types[2]",
        "3, the model knows 0 to 2 (view, click, buy)",
    ),
    "type at the u32 end": (
        {"actions": _like(action_types=[2**32 - 1, 0, 0, 0])},
        "actions.action_types[0]",
        "4294967295, the model",
    ),
    "surface out of range": (
        {"actions": _like(surfaces=[0, 1, 0, 2])},
        "actions.surfaces[3]",
        "2, the model knows 0 to 1 (home, search)",
    ),
    "negative time": (
        {"actions": _like(times_s=[-7, 1, 2, 3])},
        "actions.times_s[0]",
        "-7 is negative; send seconds",
    ),
    "milliseconds": (
        {"actions": _like(times_s=[1, 2, 3, 1_700_000_000_000])},
        "actions.times_s[3]",
        "1700000000000 is past the year 5138; send seconds, not milliseconds",
    ),
    "falling times": (
        {"actions": _like(times_s=[5, 9, 8, 9])},
        "actions.times_s[2]",
        "8 comes before 9 at 1; send actions oldest first",
    ),
    "falling from end to start": (
        {"actions": _like(times_s=[10**11, 0, 0, 0])},
        "actions.times_s[1]",
        "0 comes before 100000000000",
    ),
}


@pytest.mark.parametrize("rpc", ["EncodeContext", "AppendActions"])
@pytest.mark.parametrize(("fields", "field", "words"), BAD.values(), ids=BAD)
async def test_bad_requests(
    tmp_path: Path, rpc: str, fields: dict[str, Any], field: str, words: str
) -> None:
    async with running_service(tmp_path, tiny_config(), max_actions=300) as service:
        request = {"user_id": "ada", "actions": actions(4), **fields}
        with pytest.raises(InvalidFieldError) as caught:
            await service.call(rpc, **request)
        assert caught.value.field == field
        assert words in str(caught.value)
        assert await service.stored() is None
        await service.call("EncodeContext", user_id="ada", actions=actions(4))


@pytest.mark.parametrize("rpc", ["DescribeContext", "DeleteContext"])
@pytest.mark.parametrize("user", ["", "x" * 257])
async def test_bad_users(tmp_path: Path, rpc: str, user: str) -> None:
    async with running_service(tmp_path, tiny_config()) as service:
        with pytest.raises(InvalidFieldError, match=r"^user_id: "):
            await service.call(rpc, user_id=user)


async def test_what_is_at_the_limits_is_taken(tmp_path: Path) -> None:
    async with running_service(tmp_path, tiny_config(), max_actions=5) as service:
        widest = _like(
            item_ids=[0, 2**64 - 1, 2**63, 7],
            action_types=[2, 2, 2, 2],
            surfaces=[],
            times_s=[0, 0, 10**11, 10**11],
        )
        answer = await service.call("EncodeContext", user_id="é" * 128, actions=widest)
        assert answer.receipt.tokens == 4
        assert answer.receipt.unknown_items == 1
        assert answer.receipt.history_version == 10**11
        five = await service.call("EncodeContext", user_id="x" * 256, actions=actions(5))
        assert five.receipt.tokens == 5


async def test_absent_surfaces_are_surface_0(tmp_path: Path) -> None:
    async with running_service(tmp_path, tiny_config()) as service:
        payloads = []
        for surfaces in ([], [0] * 4, [1] * 4):
            sent = _like(surfaces=surfaces)
            await service.call("EncodeContext", user_id="ada", actions=sent)
            payloads.append(await service.payload())
        assert payloads[0] == payloads[1] != payloads[2]
