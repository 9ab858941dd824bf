"""Things break in mid-traffic: no wrong score, no request lost within its deadline."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from crosskv.v1 import crossing_pb2
from ranking_client import Affinity, OutcomeUnknownError, RankingClient, ServiceUnavailableError
from shared.errors import DeadlineExceededError, KVMissError, StoreUnavailableError
from tests.integration.oracle import Oracle, assert_right
from tests.integration.orchestrator import Orchestrator, Ranked, Traffic
from tests.integration.stack import Pod, Stack
from tests.tiny_model import tiny_checkpoint_dir, tiny_config

USERS = [f"user-{number}" for number in range(18)]


@dataclass
class House:
    stack: Stack
    checkpoint: Path
    context: Pod
    crossing: list[Pod]
    oracle: Oracle
    orchestrator: Orchestrator

    def client(self, affinity: Affinity = "auto", *, loading: bool = True) -> RankingClient:
        return RankingClient(
            [self.context.address],
            [pod.address for pod in self.crossing],
            timeout_s=20.0,
            load_history=self.orchestrator.load_history if loading else None,
            affinity=affinity,
        )

    def assert_all_right(self, answers: list[Ranked]) -> None:
        for ranked in answers:
            assert_right(ranked, self.oracle, exactly=False)  # batches of several users


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory: Path = tmp_path_factory.mktemp("faults")
    checkpoint = directory / "model"
    tiny_checkpoint_dir(checkpoint, tiny_config(router="tied"))
    orchestrator = Orchestrator(checkpoint)
    for number, user in enumerate(USERS):
        orchestrator.add_user(user, 5 + 7 * number)
    with Stack(directory) as stack:
        context = stack.pod("context", checkpoint)
        crossing = [stack.pod("crossing", checkpoint) for _ in range(2)]
        oracle = Oracle(checkpoint)
        stack.wait_until_serving()
        yield House(stack, checkpoint, context, crossing, oracle, orchestrator)


@pytest.mark.parametrize("affinity", ["ring_hash", "rendezvous"])
async def test_a_crossing_pod_killed_in_mid_traffic(house: House, affinity: Affinity) -> None:
    users = [f"{affinity}-{number}" for number in range(18)]
    for number, user in enumerate(users):
        house.orchestrator.add_user(user, 5 + 7 * number)
    victim = house.crossing[0]
    async with (
        house.client(affinity) as client,
        Traffic(house.orchestrator, client, users) as traffic,
    ):
        await traffic.more(120)
        victim.kill()
        await traffic.more(120)
        victim.start()
        await asyncio.to_thread(victim.wait_until_serving)
        await traffic.more(120)
    fetched = Counter(r.user for r in traffic.ranked if r.scores.entry_source == "store")
    assert max(fetched.values()) > 1  # the victim's users moved to the other pod, and back
    assert min(fetched.values()) == 1  # and that one's own users stayed
    house.assert_all_right(traffic.ranked)


async def test_a_draining_pod_says_so_first_and_answers_what_it_took(house: House) -> None:
    pod = house.stack.pod("crossing", house.checkpoint, SERVER_DRAIN_DELAY_S=0.5)
    await asyncio.to_thread(pod.wait_until_serving)
    async with house.client() as client:
        await house.orchestrator.rank(client, USERS[0])  # its entry is in the store
    request = crossing_pb2.ScoreCandidatesRequest(
        user_id=USERS[0], item_ids=house.orchestrator.retrieve(USERS[0], 0, 30).item_ids.tolist()
    ).SerializeToString()
    async with grpc.aio.insecure_channel(pod.address) as channel:
        score: Any = channel.unary_unary("/crosskv.v1.CrossingService/ScoreCandidates")
        health: Any = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        serving = health_pb2.HealthCheckResponse.SERVING
        assert (await health.read()).status == serving
        draining = asyncio.Event()

        async def keep_calling() -> int:
            calls = 0
            while not draining.is_set():
                await score(request, timeout=20.0)  # raises for any call that is not answered
                calls += 1
            return calls

        callers = [asyncio.create_task(keep_calling()) for _ in range(8)]
        pod.drain()
        assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await score(request, timeout=20.0)  # within the delay new calls are still taken
        last = [asyncio.create_task(keep_calling()) for _ in range(8)]
        await asyncio.sleep(0)
        draining.set()
        assert all(await asyncio.gather(*callers))
        await asyncio.gather(*last)
    assert await asyncio.to_thread(pod.wait) == 0, pod.log()


async def test_the_context_service_down(house: House) -> None:
    house.orchestrator.add_user("newcomer", 9)
    async with house.client() as client:
        await house.orchestrator.rank(client, USERS[0])
        house.context.drain()
        assert await asyncio.to_thread(house.context.wait) == 0
        known = await house.orchestrator.rank(client, USERS[0])  # scoring does not need it
        with pytest.raises(ServiceUnavailableError, match="EncodeContext: no pod answered"):
            await house.orchestrator.rank(client, "newcomer", timeout_s=1.0)
        waiting = asyncio.create_task(house.orchestrator.rank(client, "newcomer"))
        house.context.start()
        house.assert_all_right([known, await waiting])


async def test_the_store_frozen_is_answered_within_the_deadline(house: House) -> None:
    async with house.client() as client:
        known = await house.orchestrator.rank(client, USERS[1])
        newcomer = house.orchestrator.add_user("frozen-out", 9)
        house.stack.freeze_store()
        try:
            for call in (
                client.score("frozen-out", [1], timeout_s=4.0),
                client.encode("frozen-out", newcomer, timeout_s=4.0),
                client.describe("frozen-out", timeout_s=4.0),
                client.delete("frozen-out", timeout_s=4.0),
            ):
                with pytest.raises(StoreUnavailableError):  # not DEADLINE_EXCEEDED: it came in time
                    await call
            resident = await house.orchestrator.rank(client, USERS[1])
            assert resident.scores.entry_source == "device"
        finally:
            house.stack.thaw_store()
        after = await house.orchestrator.rank(client, "frozen-out")
        house.assert_all_right([known, resident, after])


async def test_a_frozen_store_is_answered_within_deadlines_shorter_than_its_time_out(
    house: House,
) -> None:
    """0.1 s a call, while the services would wait 0.25 s for the store."""
    ended: Counter[str] = Counter()
    async with RankingClient(
        [house.context.address], [house.crossing[0].address], timeout_s=20.0, max_attempts=1
    ) as client:
        await client.describe_model("context")
        await client.describe_model("crossing")
        house.stack.freeze_store()
        try:
            for _ in range(10):
                for call in (
                    client.score("frozen-out-soon", [1], timeout_s=0.1),
                    client.describe("frozen-out-soon", timeout_s=0.1),
                ):
                    with pytest.raises((StoreUnavailableError, DeadlineExceededError)) as caught:
                        await call
                    ended[f"{call.__qualname__}: {type(caught.value).__name__}"] += 1
        finally:
            house.stack.thaw_store()
    # A busy machine may be late now and then; a service that goes by its own time-out always is.
    for rpc in ("score", "describe"):
        assert ended[f"RankingClient.{rpc}: StoreUnavailableError"], ended


async def test_the_store_down_then_back_empty(house: House) -> None:
    async with house.client() as client, house.client(loading=False) as bare:
        await house.orchestrator.rank(client, USERS[2])
        house.stack.store.stop()
        resident = await house.orchestrator.rank(client, USERS[2])
        assert resident.scores.entry_source == "device"
        for call in (
            bare.score("cold", [1]),
            bare.encode("cold", resident.actions),
            bare.append(USERS[3], resident.actions),
        ):
            with pytest.raises((StoreUnavailableError, OutcomeUnknownError)):
                await call
        house.stack.store.start()
        assert house.stack.keys() == []
        for pod in (house.context, *house.crossing):
            assert pod.health() == "SERVING"
        with pytest.raises(KVMissError):
            await bare.score("cold", [1])
        house.orchestrator.add_user("cold", 33)
        cold = await house.orchestrator.rank(client, "cold")
        assert cold.scores.encoded
        house.assert_all_right([resident, cold])


SPOILS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "empty": lambda value, other: b"",
    "truncated": lambda value, other: value[:-1],
    "flipped": lambda value, other: value[:200] + bytes([value[200] ^ 1]) + value[201:],
    "noise": lambda value, other: np.random.default_rng(0).bytes(len(value)),
    "of another user": lambda value, other: other,
}


@pytest.mark.parametrize("spoil", SPOILS)
async def test_a_spoilt_value_in_the_store_is_a_miss_and_replaced(house: House, spoil: str) -> None:
    user, other = f"spoilt {spoil}", f"other {spoil}"
    async with house.client(loading=False) as bare, house.client() as client:
        await bare.encode(user, house.orchestrator.add_user(user, 40))
        await bare.encode(other, house.orchestrator.add_user(other, 20), 2**40)
        fingerprint = house.oracle.fingerprint
        keys = [f"crosskv:{{{quote(name)}}}:{fingerprint}" for name in (user, other)]
        with house.stack.store.client() as store:
            store.set(keys[0], SPOILS[spoil](store.get(keys[0]), store.get(keys[1])))
        with pytest.raises(KVMissError):
            await bare.score(user, [1])
        house.assert_all_right([await house.orchestrator.rank(client, user)])
