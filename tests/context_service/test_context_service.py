"""What the context service publishes, describes and deletes, on a store in memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import REGISTRY

from shared.errors import (
    DeadlineExceededError,
    KVMissError,
    MissCause,
    StoreUnavailableError,
)
from shared.kv.codec import EntryHeader, read_header
from shared.kv.memory import MemoryStore
from shared.kv.store import PutOutcome
from shared.rpc.deadline import Deadline
from tests.context_service.servicer_calls import NOW_S, actions, part, running_service
from tests.tiny_model import FORMS, tiny_config

forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@forms
async def test_receipt_entry_and_description(tmp_path: Path, form: dict[str, Any]) -> None:
    async with running_service(tmp_path, tiny_config(**form)) as service:
        sent = actions(45)
        sent.item_ids[7] = sent.item_ids[30] = 12345
        answer = await service.call("EncodeContext", user_id="ada", actions=sent)
        receipt = answer.receipt
        assert receipt.model_fingerprint == service.checkpoint.fingerprint
        assert receipt.history_version == receipt.last_event_time_s == sent.times_s[-1]
        assert (receipt.tokens, receipt.dropped_actions, receipt.published) == (45, 0, True)
        assert receipt.unknown_items == (0 if form.get("items") else 2)
        value = await service.stored()
        assert value is not None
        assert receipt.stored_bytes == len(value)
        header = service.codec.decode("ada", value).header
        assert header == EntryHeader(
            service.checkpoint.fingerprint,
            "ada",
            45,
            sent.times_s[-1],
            sent.times_s[-1],
            1_700_000_123_456,
        )
        described = await service.call("DescribeContext", user_id="ada")
        assert described.model_fingerprint == receipt.model_fingerprint
        assert described.history_version == receipt.history_version
        assert described.tokens == 45
        assert described.stored_bytes == len(value)
        assert (
            described.dense_bytes == 45 * 3 * 2 * 2 * 8 * 2
        )  # tokens, layers, K and V, G, D, bf16
        assert described.last_event_time_s == sent.times_s[-1]
        assert described.created_ms == int(NOW_S * 1000)


@forms
async def test_rows_used_are_the_distinct_rows_of_real_tokens(
    tmp_path: Path, form: dict[str, Any]
) -> None:
    """Counted a second time here, token by token; padding slots hold row 0 and do not count."""
    async with running_service(tmp_path, tiny_config(**form)) as service:
        await service.call("EncodeContext", user_id="ada", actions=actions(45))
        described = await service.call("DescribeContext", user_id="ada")
        layout = service.checkpoint.ranker.layout
        pages = torch.frombuffer(bytearray(await service.payload()), dtype=torch.uint8)
        seen: list[dict[str, set[int]]] = []
        for layer in range(3):
            planes = layout.planes(pages.view(-1, layout.page_bytes), layer)
            names = [name for name in planes if name.endswith("row")]
            seen.append({n: {int(planes[n][t // 16, t % 16]) for t in range(45)} for n in names})
        if form.get("kv") == "dense":
            assert (list(described.key_rows_used), described.pool_rows) == ([], 0)
            assert list(described.value_rows_used) == []
            return
        tied = form["router"] == "tied"
        keys, values = ("row", "row") if tied else ("key_row", "value_row")
        assert list(described.key_rows_used) == [len(rows[keys]) for rows in seen]
        assert list(described.value_rows_used) == [len(rows[values]) for rows in seen]
        assert described.pool_rows == form.get("pool_rows", 37)
        assert any(0 not in rows[keys] for rows in seen)  # so that padding would show


async def test_long_histories_keep_the_newest(tmp_path: Path) -> None:
    """What is cut off leaves no trace, not even the gap to it."""
    async with running_service(tmp_path, tiny_config(max_history=50)) as service:
        sent = actions(63)
        answer = await service.call("EncodeContext", user_id="ada", actions=sent)
        assert (answer.receipt.tokens, answer.receipt.dropped_actions) == (50, 13)
        whole = await service.payload()
        answer = await service.call("EncodeContext", user_id="ada", actions=part(sent, 13))
        assert (answer.receipt.tokens, answer.receipt.dropped_actions) == (50, 0)
        assert await service.payload() == whole
        await service.call(
            "EncodeContext", user_id="ada", actions=part(sent, 12, 62), history_version=2**60
        )
        assert await service.payload() != whole


async def test_a_late_writer_does_not_replace_a_newer_history(tmp_path: Path) -> None:
    async with running_service(tmp_path, tiny_config()) as service:
        sent = actions(20)
        await service.call("EncodeContext", user_id="ada", actions=sent)
        newer = await service.stored()
        before = _puts("stale")
        answer = await service.call("EncodeContext", user_id="ada", actions=part(sent, 0, 19))
        assert answer.receipt.published is False
        assert answer.receipt.tokens == 19
        assert await service.stored() == newer
        assert _puts("stale") == before + 1
        # the version decides, not the time
        answer = await service.call(
            "EncodeContext", user_id="ada", actions=part(sent, 0, 19), history_version=2**62
        )
        assert (answer.receipt.published, answer.receipt.history_version) == (True, 2**62)


async def test_an_unreadable_value_that_claims_to_be_newer_is_replaced(tmp_path: Path) -> None:
    async with running_service(tmp_path, tiny_config()) as service:
        sent = actions(20)
        await service.call("EncodeContext", user_id="ada", actions=sent)
        good = await service.stored()
        await service.call(
            "EncodeContext", user_id="bob", actions=actions(17, seed=3), history_version=2**62
        )
        foreign = await service.stored("bob")
        own = read_header(good)[0]
        await service.store.put(replace(own, history_version=2**62), foreign)
        answer = await service.call("EncodeContext", user_id="ada", actions=sent)
        assert answer.receipt.published is True
        header, _ = read_header(await service.stored())
        assert (header.user, header.order) == ("ada", own.order)


async def test_what_cannot_be_proven_is_a_miss(tmp_path: Path) -> None:
    async with running_service(tmp_path, tiny_config()) as service:
        await service.call("EncodeContext", user_id="ada", actions=actions(20))
        value = bytearray(await service.stored() or b"")
        value[-9] ^= 1
        header = service.codec.decode("ada", await service.stored() or b"").header
        await service.store.put(header, bytes(value))
        for rpc, fields in (("AppendActions", {"actions": actions(3)}), ("DescribeContext", {})):
            with pytest.raises(KVMissError) as caught:
                await service.call(rpc, user_id="ada", **fields)
            assert caught.value.cause is MissCause.BAD_DIGEST


def _puts(outcome: str) -> float:
    return REGISTRY.get_sample_value("crosskv_context_puts_total", {"outcome": outcome}) or 0.0


async def test_delete_takes_every_fingerprint_of_one_user(tmp_path: Path) -> None:
    store = MemoryStore()
    fingerprints = []
    for seed in (1, 2, 3):
        async with running_service(
            tmp_path / str(seed), tiny_config(), seed=seed, store=store
        ) as service:
            for user in ("ada", "ada2"):
                await service.call("EncodeContext", user_id=user, actions=actions(5))
            fingerprints.append(service.checkpoint.fingerprint)
    assert len(set(fingerprints)) == 3
    async with running_service(tmp_path, tiny_config(), store=store) as service:
        assert (await service.call("DeleteContext", user_id="ada")).deleted_entries == 3
        assert (await service.call("DeleteContext", user_id="ada")).deleted_entries == 0
    for fingerprint in fingerprints:
        assert await store.get("ada", fingerprint) is None
        assert await store.get("ada2", fingerprint) is not None


class SilentStore(MemoryStore):
    """Takes every call and never answers."""

    async def _never(self) -> Any:
        await asyncio.get_running_loop().create_future()

    async def get(self, user: str, fingerprint: str, *, limit: int | None = None) -> bytes | None:
        await self._never()
        return None

    async def put(
        self, header: EntryHeader, value: bytes, *, replaces: bytes | None = None
    ) -> PutOutcome:
        await self._never()
        return PutOutcome.STORED

    async def delete(self, user: str) -> int:
        await self._never()
        return 0


class DownStore(SilentStore):
    """Refuses every call."""

    async def _never(self) -> Any:
        raise StoreUnavailableError("connection refused")


ALL_RPCS: list[tuple[str, dict[str, Any]]] = [
    ("EncodeContext", {"actions": actions(3)}),
    ("AppendActions", {"actions": actions(3)}),
    ("DescribeContext", {}),
    ("DeleteContext", {}),
]


@pytest.mark.parametrize(("rpc", "fields"), ALL_RPCS, ids=[rpc for rpc, _ in ALL_RPCS])
async def test_the_store_does_not_answer(tmp_path: Path, rpc: str, fields: dict[str, Any]) -> None:
    async with running_service(tmp_path, tiny_config(), store=SilentStore()) as service:
        with pytest.raises(StoreUnavailableError, match="within the caller's deadline"):
            await service.call(rpc, Deadline.after(0.2), user_id="ada", **fields)


@pytest.mark.parametrize(("rpc", "fields"), ALL_RPCS, ids=[rpc for rpc, _ in ALL_RPCS])
async def test_the_store_is_down(tmp_path: Path, rpc: str, fields: dict[str, Any]) -> None:
    async with running_service(tmp_path, tiny_config(), store=DownStore()) as service:
        with pytest.raises(StoreUnavailableError, match="connection refused"):
            await service.call(rpc, user_id="ada", **fields)


async def test_a_passed_deadline_encodes_nothing(tmp_path: Path) -> None:
    async with running_service(tmp_path, tiny_config()) as service:
        with pytest.raises(DeadlineExceededError):
            await service.call(
                "EncodeContext", Deadline.after(0.0), user_id="ada", actions=actions(3)
            )
        assert await service.stored() is None


async def test_model_description(tmp_path: Path) -> None:
    config = tiny_config()
    async with running_service(tmp_path, config) as service:
        model = (await service.call("DescribeModel")).model
        assert model.fingerprint == service.checkpoint.fingerprint
        assert list(model.tasks) == ["watch", "like"]
        assert list(model.action_types) == ["view", "click", "buy"]
        assert list(model.surfaces) == ["home", "search"]
        assert (model.feature_dim, model.max_history) == (3, 200)
        assert type(config).model_validate_json(model.config_json) == config


async def test_concurrent_users_get_their_own_entries(tmp_path: Path) -> None:
    """Batched by chance of timing; each entry equals that of a quiet service."""
    async with running_service(tmp_path, tiny_config()) as service:
        users = {f"user {n}": actions(1 + 7 * n, seed=n) for n in range(12)}
        await asyncio.gather(
            *(service.call("EncodeContext", user_id=u, actions=a) for u, a in users.items())
        )
        together = {user: await service.payload(user) for user in users}
        for user, sent in users.items():
            await service.call("EncodeContext", user_id=user, actions=sent)
            assert await service.payload(user) == together[user]
