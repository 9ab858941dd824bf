"""The shipped fake: the client's methods, and the same answers as a pod gives."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator

import numpy as np
import pytest

from ranking_client import Actions, FakeRankingClient, RankingClient
from shared.errors import (
    HistoryFullError,
    InvalidFieldError,
    KVMissError,
    MissCause,
    ModelMismatchError,
    StoreUnavailableError,
)

ACTIONS = Actions([5, 6], [0, 0], [10, 20])
LATER = Actions([7], [0], [30], [0])


@pytest.fixture
async def fake() -> AsyncIterator[FakeRankingClient]:
    async with FakeRankingClient() as opened:
        yield opened


def test_it_has_every_method_of_the_client_with_the_same_signature() -> None:
    for name, method in inspect.getmembers(RankingClient, inspect.iscoroutinefunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(FakeRankingClient, name)) == inspect.signature(method)


async def test_a_miss_then_an_encode_then_scores(fake: FakeRankingClient) -> None:
    with pytest.raises(KVMissError) as caught:
        await fake.score("u", [1, 2])
    assert caught.value.cause is MissCause.ABSENT
    receipt = await fake.encode("u", ACTIONS)
    assert (receipt.tokens, receipt.history_version, receipt.published) == (2, 20, True)
    scores = await fake.score("u", [1, 2], tasks=["like"])
    assert {task: v.tolist() for task, v in scores.by_task.items()} == {"like": [0.75, 0.25]}
    assert (scores.entry_source, scores.encoded) == ("store", False)
    assert (await fake.prefetch("u")).entry_source == "device"
    assert [call.method for call in fake.calls] == ["score", "encode", "score", "prefetch"]


async def test_the_loader_is_used_on_a_miss() -> None:
    async def load(user: str) -> Actions:
        return ACTIONS

    fake = FakeRankingClient(load_history=load)
    scores = await fake.score("u", [1], min_history_version=25)
    assert (scores.encoded, scores.attempts, scores.history_version) == (True, 2, 25)


async def test_a_script_sees_user_history_and_items() -> None:
    def script(user: str, history: Actions, ids: np.ndarray) -> dict[str, object]:
        return {"watch": ids + len(history), "like": [len(user)] * len(ids)}

    fake = FakeRankingClient(script)  # type: ignore[arg-type]
    await fake.encode("user", ACTIONS)
    scores = await fake.score("user", [1, 2])
    assert scores.by_task["watch"].tolist() == [3.0, 4.0]
    assert scores.by_task["like"].dtype == np.float32


async def test_versions_appends_and_limits(fake: FakeRankingClient) -> None:
    with pytest.raises(KVMissError):
        await fake.append("u", LATER)
    await fake.encode("u", ACTIONS)
    assert (await fake.append("u", LATER)).tokens == 3
    assert not (await fake.encode("u", ACTIONS)).published
    assert (await fake.describe("u")).history_version == 30
    with pytest.raises(InvalidFieldError, match="times_s"):
        await fake.append("u", ACTIONS)
    with pytest.raises(KVMissError) as caught:
        await fake.score("u", [1], min_history_version=31)
    assert caught.value.cause is MissCause.TOO_OLD
    many = Actions(np.arange(1030), np.zeros(1030, int), np.arange(1030))
    receipt = await fake.encode("long", many)
    assert (receipt.tokens, receipt.dropped_actions) == (1024, 6)
    with pytest.raises(HistoryFullError):
        await fake.append("long", Actions([1], [0], [2000]))


async def test_delete_forgets(fake: FakeRankingClient) -> None:
    await fake.encode("u", ACTIONS)
    assert [await fake.delete("u"), await fake.delete("u")] == [1, 0]
    with pytest.raises(KVMissError):
        await fake.score("u", [1])


async def test_bad_arguments_and_scripted_failures(fake: FakeRankingClient) -> None:
    await fake.encode("u", ACTIONS)
    fake.fail_next(StoreUnavailableError("store down"))
    with pytest.raises(StoreUnavailableError):
        await fake.score("u", [1])
    await fake.score("u", [1])
    for call, field in (
        (fake.score("", [1]), "user_id"),
        (fake.score("u", []), "item_ids"),
        (fake.score("u", range(4097)), "item_ids"),
        (fake.score("u", [1], tasks=["buy"]), "tasks"),
        (fake.encode("u", Actions([], [], [])), "actions"),
    ):
        with pytest.raises(InvalidFieldError, match=f"^{field}"):
            await call
    with pytest.raises(ModelMismatchError):
        await fake.score("u", [1], model_fingerprint="cd" * 16)
    assert (await fake.describe_model()).fingerprint == (await fake.describe("u")).model_fingerprint
