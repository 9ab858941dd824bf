"""A caller that gives up, seen from the other side of a channel."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np

from crossing_service.scorer import Scored, ScoreWork
from crossing_service.service import CrossingServicer
from crosskv.v1 import crossing_pb2
from shared.rpc.batcher import Batcher
from shared.rpc.endpoint import Endpoint
from tests.crossing_service.house import House

CROSSING = crossing_pb2.DESCRIPTOR.services_by_name["CrossingService"]


class Gate:
    """Scores one batch a permit; knows the entries it was given."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.permits = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.users: list[str] = []

    def score(self, batch: list[ScoreWork]) -> Sequence[Any]:
        self.begun.release()
        self.permits.acquire()
        self.users += [work.entry.header.user for work in batch]
        return self._house.scorer.score(batch)


async def test_a_cancelled_call_leaves_the_queue_and_the_others_are_answered() -> None:
    house = House()
    gate = Gate(house)
    batcher: Batcher[ScoreWork, Scored] = Batcher(
        "cancelled_test", gate.score, cost=lambda work: work.tokens, max_batch_cost=999, max_queue=8
    )
    servicer = CrossingServicer(house.checkpoint, house.reader, house.residency, batcher, 64)
    score = next(method for method in CROSSING.methods if method.name == "ScoreCandidates")
    handler = grpc.unary_unary_rpc_method_handler(Endpoint(score, servicer.ScoreCandidates).answer)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(CROSSING.full_name, {score.name: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    values = {user: await house.publish(user) for user in ("running", "leaving", "staying")}

    def queued() -> set[str]:
        return {pending.work.entry.header.user for pending in batcher._queue}

    async def until(users: set[str]) -> None:
        async with asyncio.timeout(20):
            while queued() != users:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        rpc: Any = channel.unary_unary(f"/{CROSSING.full_name}/{score.name}")
        calls = {"running": rpc(house.request("running", 5).SerializeToString(), timeout=60)}
        await asyncio.to_thread(gate.begun.acquire)
        for user in ("leaving", "staying"):
            calls[user] = rpc(house.request(user, 5).SerializeToString(), timeout=60)
        await until({"leaving", "staying"})
        calls["leaving"].cancel()
        await until({"staying"})
        for _ in range(2):
            gate.permits.release()
        for user in ("running", "staying"):
            reply = crossing_pb2.ScoreCandidatesResponse.FromString(await calls[user])
            expected = house.direct(values[user], user, house.candidates(5))
            scores = np.array(reply.scores, np.float32).reshape(expected.shape)
            np.testing.assert_allclose(scores, expected, atol=1e-6, rtol=0)
    assert gate.users == ["running", "staying"]
    for user in values:
        entry = house.arena.find(user)
        assert entry is not None
        assert entry.pins == 0
    await server.stop(None)
    await batcher.close()
