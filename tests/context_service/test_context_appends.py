"""Appends: the bytes of an encode, refusals by name, and races with other writers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crosskv.v1 import context_pb2
from shared.errors import (
    HistoryFullError,
    InvalidFieldError,
    KVMissError,
    MissCause,
    StaleHistoryError,
)
from shared.kv.codec import EntryHeader
from shared.kv.memory import MemoryStore
from shared.kv.store import PutOutcome
from tests.context_service.servicer_calls import actions, part, running_service
from tests.tiny_model import FORMS, tiny_config

forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@forms
async def test_append_publishes_the_bytes_of_an_encode(
    tmp_path: Path, form: dict[str, Any]
) -> None:
    async with running_service(tmp_path, tiny_config(**form)) as service:
        sent = actions(130)
        await service.call("EncodeContext", user_id="ada", actions=sent)
        whole = await service.payload()
        for cuts in ((1,), (16,), (45,), (128,), (129,), (15, 31), (16, 17, 100)):
            await service.call("DeleteContext", user_id="ada")
            await service.call("EncodeContext", user_id="ada", actions=part(sent, 0, cuts[0]))
            for first, last in zip(cuts, (*cuts[1:], 130), strict=True):
                answer = await service.call(
                    "AppendActions", user_id="ada", actions=part(sent, first, last)
                )
                assert (answer.receipt.tokens, answer.receipt.published) == (last, True)
            assert await service.payload() == whole, cuts
            value = await service.stored()
            assert value is not None
            header = service.codec.decode("ada", value).header
            assert header.history_version == header.last_event_time_s == sent.times_s[-1]


async def test_append_without_an_entry_is_a_miss(tmp_path: Path) -> None:
    async with running_service(tmp_path, tiny_config()) as service:
        with pytest.raises(KVMissError) as caught:
            await service.call("AppendActions", user_id="ada", actions=actions(3))
        assert caught.value.cause is MissCause.ABSENT
        with pytest.raises(KVMissError):
            await service.call("DescribeContext", user_id="ada")


async def test_appends_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    async with running_service(tmp_path, tiny_config(max_history=50)) as service:
        sent = actions(60)
        await service.call(
            "EncodeContext", user_id="ada", actions=part(sent, 0, 40), history_version=77
        )
        stored = await service.stored()
        last = sent.times_s[39]

        old = part(sent, 40, 42)
        old.times_s[0] = last - 1
        with pytest.raises(InvalidFieldError, match=rf"times_s\[0\]: {last - 1} is older .*{last}"):
            await service.call("AppendActions", user_id="ada", actions=old)
        with pytest.raises(InvalidFieldError, match=r"^history_version: 76 is below .* 77"):
            await service.call(
                "AppendActions", user_id="ada", actions=part(sent, 40, 42), history_version=76
            )
        with pytest.raises(HistoryFullError, match=r"40 stored and 11 new .* max_history 50"):
            await service.call("AppendActions", user_id="ada", actions=part(sent, 40, 51))
        assert await service.stored() == stored

        same = part(sent, 40, 41)
        same.times_s[0] = last
        answer = await service.call(
            "AppendActions", user_id="ada", actions=same, history_version=77
        )
        assert (answer.receipt.history_version, answer.receipt.tokens) == (77, 41)
        answer = await service.call("AppendActions", user_id="ada", actions=part(sent, 41, 50))
        assert answer.receipt.history_version == sent.times_s[49]
        assert answer.receipt.tokens == 50


async def test_an_unversioned_append_keeps_a_larger_version(tmp_path: Path) -> None:
    async with running_service(tmp_path, tiny_config()) as service:
        sent = actions(10)
        await service.call(
            "EncodeContext", user_id="ada", actions=part(sent, 0, 8), history_version=2**63 + 5
        )
        answer = await service.call("AppendActions", user_id="ada", actions=part(sent, 8))
        assert answer.receipt.history_version == 2**63 + 5
        assert answer.receipt.published


class RacingStore(MemoryStore):
    """Another writer slips in before each of the next `races` replacements."""

    def __init__(self, races: int, rival: list[tuple[EntryHeader, bytes]]) -> None:
        super().__init__()
        self.races = races
        self.rival = rival

    async def put(
        self, header: EntryHeader, value: bytes, *, replaces: bytes | None = None
    ) -> PutOutcome:
        if replaces is not None and self.races:
            self.races -= 1
            if self.rival:
                await super().put(*self.rival.pop(0))
            else:
                await self.delete(header.user)
        return await super().put(header, value, replaces=replaces)


async def _entry_of(tmp_path: Path, sent: context_pb2.Actions) -> tuple[EntryHeader, bytes]:
    """What a service of the same model would store for these actions."""
    async with running_service(tmp_path, tiny_config()) as other:
        await other.call("EncodeContext", user_id="ada", actions=sent)
        value = await other.stored()
        assert value is not None
        return other.codec.decode("ada", value).header, value


async def test_an_append_that_loses_a_race_builds_on_the_winner(tmp_path: Path) -> None:
    sent = actions(40)
    rivals = [await _entry_of(tmp_path, part(sent, 0, count)) for count in (25, 30)]
    store = RacingStore(2, rivals)
    async with running_service(tmp_path, tiny_config(), store=store, append_retries=2) as service:
        await service.call("EncodeContext", user_id="ada", actions=part(sent, 0, 20))
        answer = await service.call("AppendActions", user_id="ada", actions=part(sent, 30))
        assert (answer.receipt.tokens, answer.receipt.published) == (40, True)
        appended = await service.payload()
        await service.call("EncodeContext", user_id="ada", actions=sent)
        assert await service.payload() == appended


async def test_an_append_that_keeps_losing_gives_up(tmp_path: Path) -> None:
    sent = actions(40)
    rivals = [await _entry_of(tmp_path, part(sent, 0, count)) for count in (25, 30, 31)]
    store = RacingStore(3, rivals)
    async with running_service(tmp_path, tiny_config(), store=store, append_retries=1) as service:
        await service.call("EncodeContext", user_id="ada", actions=part(sent, 0, 20))
        with pytest.raises(StaleHistoryError, match="'ada' 2 times in a row"):
            await service.call("AppendActions", user_id="ada", actions=part(sent, 39))
        assert store.races == 1


async def test_an_append_does_not_bring_a_deleted_user_back(tmp_path: Path) -> None:
    async with running_service(tmp_path, tiny_config(), store=RacingStore(1, [])) as service:
        sent = actions(10)
        await service.call("EncodeContext", user_id="ada", actions=part(sent, 0, 9))
        with pytest.raises(KVMissError):
            await service.call("AppendActions", user_id="ada", actions=part(sent, 9))
        assert await service.stored() is None
