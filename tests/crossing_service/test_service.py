"""The servicer over a real batcher, arena and model, with entries from the context pass."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from crossing_service.scorer import Scored, ScoreWork
from crossing_service.service import CrossingServicer
from crosskv.v1 import crossing_pb2
from shared.errors import InvalidFieldError, KVMissError, ModelMismatchError, QueueFullError
from shared.rpc.batcher import Batcher
from shared.rpc.deadline import Deadline
from shared.rpc.wire import parse
from tests.crossing_service.house import FINGERPRINT, House
from tests.tiny_model import FORMS

FOREVER = Deadline.after(None)


class Service:
    """A servicer whose replies come back as a client reads them."""

    def __init__(self, house: House, batcher: Batcher[ScoreWork, Scored]) -> None:
        self.house = house
        self.servicer = CrossingServicer(
            house.checkpoint, house.reader, house.residency, batcher, max_candidates=64
        )

    async def score(
        self, user: str, count: int, seed: int = 0, **changes: Any
    ) -> crossing_pb2.ScoreCandidatesResponse:
        request = self.house.request(user, count, seed, **changes)
        reply = await self.servicer.ScoreCandidates(request, FOREVER)
        return crossing_pb2.ScoreCandidatesResponse.FromString(reply.SerializeToString())

    async def prefetch(self, **fields: Any) -> crossing_pb2.PrefetchContextResponse:
        message = crossing_pb2.PrefetchContextRequest(**fields)
        request = parse(crossing_pb2.PrefetchContextRequest, message.SerializeToString())
        reply = await self.servicer.PrefetchContext(request, FOREVER)
        return crossing_pb2.PrefetchContextResponse.FromString(reply.SerializeToString())


@asynccontextmanager
async def service(**form: Any) -> AsyncIterator[Service]:
    house = House(**form)
    batcher: Batcher[ScoreWork, Scored] = Batcher(
        "crossing_test",
        house.scorer.score,
        cost=lambda work: work.tokens,
        max_batch_cost=250,
        max_queue=64,
    )
    yield Service(house, batcher)
    await batcher.close()


def scores_of(reply: crossing_pb2.ScoreCandidatesResponse) -> NDArray[np.float32]:
    return np.array(reply.scores, np.float32).reshape(len(reply.tasks), -1)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_encode_store_fetch_score_equals_the_model_bit_for_bit(form: dict[str, Any]) -> None:
    async with service(**form) as crossing:
        value = await crossing.house.publish("u", tokens=37, version=9)
        reply = await crossing.score("u", 13, seed=3)
        candidates = crossing.house.candidates(13, seed=3)
        expected = crossing.house.direct(value, "u", candidates)
        np.testing.assert_array_equal(scores_of(reply), expected)
        assert list(reply.tasks) == ["watch", "like"]
        assert reply.model_fingerprint == FINGERPRINT
        assert (reply.history_version, reply.history_tokens) == (9, 37)
        assert reply.unknown_items == (0 if "items" in form else 2)
        assert reply.entry_source == crossing_pb2.ENTRY_SOURCE_STORE
        again = await crossing.score("u", 13, seed=3)
        assert again.entry_source == crossing_pb2.ENTRY_SOURCE_DEVICE
        assert again.scores == reply.scores


async def test_concurrent_requests_get_their_own_scores() -> None:
    async with service() as crossing:
        for user in "abc":
            await crossing.house.publish(user, tokens=10 + ord(user) % 7)
        asked = [("abc"[seed % 3], 1 + 3 * seed, seed) for seed in range(20)]
        replies = await asyncio.gather(*(crossing.score(*one) for one in asked))
        for one, reply in zip(asked, replies, strict=True):
            alone = await crossing.score(*one)
            np.testing.assert_allclose(scores_of(reply), scores_of(alone), atol=1e-6, rtol=0)
            assert len(reply.scores) == 2 * one[1]
        for user in "abc":
            entry = crossing.house.arena.find(user)
            assert entry is not None
            assert entry.pins == 0


async def test_no_wrong_score_while_a_small_cache_churns() -> None:
    """Fetches, evictions, replacements and cancellations, with a third of the requests cut off."""
    tokens = {"a": 5, "b": 30, "c": 48, "d": 33, "e": 16}
    async with service(cache_pages=6) as crossing:
        house = crossing.house
        values = {user: await house.publish(user, count) for user, count in tokens.items()}

        turns = asyncio.Semaphore(3)  # of up to three pages each, in a cache of six

        async def ask(number: int) -> str:
            user, count = "abcde"[number * 7 % 5], 1 + number % 9
            async with turns:
                request = asyncio.create_task(crossing.score(user, count, seed=number))
                if number % 3 == 0:
                    for _ in range(number % 11):
                        await asyncio.sleep(0)
                    request.cancel()
                if number % 10 == 0:
                    house.arena.drop(user)
                try:
                    reply = await request
                except asyncio.CancelledError:
                    return "cancelled"
                except QueueFullError:
                    return "refused"
            expected = house.direct(values[user], user, house.candidates(count, seed=number))
            np.testing.assert_allclose(scores_of(reply), expected, atol=1e-6, rtol=0)
            return "scored"

        outcomes = await asyncio.gather(*map(ask, range(150)))
        assert {"scored", "cancelled"} <= set(outcomes)
        assert house.store.gets > len(tokens)
        await crossing.score("a", 1)  # behind whatever cancelled ones had begun
        for user in tokens:
            entry = house.arena.find(user)
            assert entry is None or entry.pins == 0


async def test_asked_tasks_only_in_asked_order() -> None:
    async with service() as crossing:
        await crossing.house.publish("u")
        both = await crossing.score("u", 5)
        reply = await crossing.score("u", 5, tasks=["like"])
        assert list(reply.tasks) == ["like"]
        np.testing.assert_array_equal(scores_of(reply)[0], scores_of(both)[1])


async def test_prefetch_spares_the_score_the_store() -> None:
    def used() -> dict[str, float]:
        name = "crosskv_crossing_entries_used_total"
        return {
            source: REGISTRY.get_sample_value(name, {"source": source}) or 0.0
            for source in ("device", "store")
        }

    async with service() as crossing:
        before = used()
        await crossing.house.publish("u", tokens=30, version=5)
        await crossing.house.publish("v")
        first = await crossing.prefetch(user_id="u")
        assert (first.history_version, first.history_tokens) == (5, 30)
        assert first.entry_source == crossing_pb2.ENTRY_SOURCE_STORE
        second = await crossing.prefetch(user_id="u", min_history_version=5)
        assert second.entry_source == crossing_pb2.ENTRY_SOURCE_DEVICE
        reply = await crossing.score("u", 3)
        assert reply.entry_source == crossing_pb2.ENTRY_SOURCE_DEVICE
        await crossing.score("v", 3)
        # a prefetch is no request for scores: it would turn each hit it makes into half of one
        assert used() == {source: count + 1 for source, count in before.items()}
        entry = crossing.house.arena.find("u")
        assert entry is not None
        assert entry.pins == 0


REFUSED: dict[str, tuple[Callable[[Service], Awaitable[Message]], type[Exception], str]] = {
    "score, no user": (lambda s: s.score("", 3), InvalidFieldError, "user_id"),
    "score, long user": (lambda s: s.score("é" * 129, 3), InvalidFieldError, "258 bytes"),
    "prefetch, no user": (lambda s: s.prefetch(), InvalidFieldError, "user_id"),
    "score, bad field": (lambda s: s.score("u", 65), InvalidFieldError, "65 candidates"),
    "score, other model": (
        lambda s: s.score("u", 3, model_fingerprint="0" * 32),
        ModelMismatchError,
        "model_fingerprint",
    ),
    "score, unknown user": (lambda s: s.score("v", 3), KVMissError, "absent"),
    "score, too old": (lambda s: s.score("u", 3, min_history_version=8), KVMissError, "too_old"),
    "prefetch, too old": (
        lambda s: s.prefetch(user_id="u", min_history_version=8),
        KVMissError,
        "too_old",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
async def test_refusals(
    call: Callable[[Service], Awaitable[Message]], error: type[Exception], message: str
) -> None:
    async with service() as crossing:
        await crossing.house.publish("u", version=7)
        with pytest.raises(error, match=message):
            await call(crossing)
        assert len((await crossing.score("u", 2)).scores) == 4


async def test_the_longest_user_id_is_served() -> None:
    async with service() as crossing:
        await crossing.house.publish("é" * 128)
        assert len((await crossing.score("é" * 128, 3)).scores) == 6


async def test_a_cancelled_request_gives_its_entry_back() -> None:
    async with service() as crossing:
        await crossing.house.publish("u")
        await crossing.prefetch(user_id="u")
        task = asyncio.create_task(crossing.score("u", 3))
        await asyncio.sleep(0)
        entry = crossing.house.arena.find("u")
        assert entry is not None
        assert entry.pins > 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await crossing.score("u", 3)  # behind whatever the cancelled one had begun
        assert entry.pins == 0


async def test_unknown_items_are_metered() -> None:
    def metered() -> float:
        return REGISTRY.get_sample_value("crosskv_unknown_items_total") or 0.0

    async with service() as crossing:
        await crossing.house.publish("u")
        before = metered()
        reply = await crossing.score("u", 20)
        assert reply.unknown_items == 3
        assert metered() - before == 3


async def test_the_model_is_described() -> None:
    async with service() as crossing:
        request = crossing_pb2.CrossingServiceDescribeModelRequest()
        reply = await crossing.servicer.DescribeModel(request, FOREVER)
        model = crossing_pb2.CrossingServiceDescribeModelResponse.FromString(
            reply.SerializeToString()
        ).model
        assert (model.fingerprint, list(model.tasks)) == (FINGERPRINT, ["watch", "like"])
        assert model.max_candidates == 64
        assert json.loads(model.config_json)["pool_rows"] == 37
