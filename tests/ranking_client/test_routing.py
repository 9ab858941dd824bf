"""Where users go: stably, evenly, to the next pod when theirs is gone, and back."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, Literal

import pytest
from grpc_health.v1 import health_pb2

from ranking_client import (
    NoAnswerError,
    RankingClient,
    ServiceUnavailableError,
    ring_hash,
    routing,
)
from ranking_client.pod import RankedPod
from ranking_client.ring_hash import RingHash
from ranking_client.routing import Rendezvous
from shared.errors import InvalidFieldError, StoreUnavailableError
from shared.rpc.deadline import Deadline
from tests.ranking_client.stub_pod import StubPod

USERS = [f"user-{number}" for number in range(60)]
SCORE = "ScoreCandidates"
Policy = Literal["ring_hash", "rendezvous"]
POLICIES: tuple[Policy, ...] = ("ring_hash", "rendezvous")


@pytest.fixture
async def pods() -> AsyncIterator[list[StubPod]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(StubPod()) for _ in range(3)]


def connect(pods: list[StubPod], policy: Policy, max_attempts: int = 4) -> RankingClient:
    addresses = [pod.address for pod in pods]
    return RankingClient(
        addresses, addresses, affinity=policy, timeout_s=10.0, max_attempts=max_attempts
    )


async def placement(client: RankingClient, pods: list[StubPod]) -> dict[str, StubPod]:
    """The pod that answered each user, asked once."""
    for pod in pods:
        pod.calls.clear()
    for user in USERS:
        await client.score(user, [1])
    return {user: pod for pod in pods for user in pod.users(SCORE)}


async def placed(
    client: RankingClient, pods: list[StubPod], done: Callable[[dict[str, StubPod]], bool]
) -> None:
    """Wait until users are placed so."""
    async with asyncio.timeout(20):
        while not done(await placement(client, pods)):  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_user_stays_and_two_clients_agree(pods: list[StubPod], policy: Policy) -> None:
    async with connect(pods, policy) as one, connect(pods[::-1], policy) as other:
        first = await placement(one, pods)
        assert min(Counter(first.values()).values()) >= len(USERS) // 6  # a third each, roughly
        assert await placement(one, pods) == first
        assert await placement(other, pods) == first
        for user in USERS:
            await one.prefetch(user)
        assert {u: p for p in pods for u in p.users("PrefetchContext")} == first


@pytest.mark.parametrize("policy", POLICIES)
async def test_users_of_a_lost_pod_move_and_come_back(pods: list[StubPod], policy: Policy) -> None:
    async with connect(pods, policy) as client:
        before = await placement(client, pods)
        lost = before[USERS[0]]
        await lost.stop()
        during = await placement(client, pods)
        assert {u for u in USERS if during[u] is not before[u]} == {
            u for u in USERS if before[u] is lost
        }
        await lost.__aenter__()
        await placed(client, pods, lambda users: users == before)


async def test_a_pod_added_or_removed_moves_the_fewest_users(pods: list[StubPod]) -> None:
    async with connect(pods, "rendezvous") as three, connect(pods[:2], "rendezvous") as two:
        with_third, without = await placement(three, pods), await placement(two, pods)
    moved = {user for user in USERS if with_third[user] is not without[user]}
    assert moved == {user for user in USERS if with_third[user] is pods[2]}


async def test_a_draining_pod_loses_its_users_until_it_answers_again(pods: list[StubPod]) -> None:
    async with connect(pods, "rendezvous") as client:
        before = await placement(client, pods)
        draining = before[USERS[0]]
        draining.always[SCORE] = ServiceUnavailableError("its server stops")
        await placement(client, pods)
        assert len(draining.users(SCORE)) == 1  # one user met it; the rest were spared
        del draining.always[SCORE]
        await placed(client, pods, lambda users: users == before)


async def test_a_silent_pod_loses_its_users_until_it_answers_again(pods: list[StubPod]) -> None:
    async def hang(request: Any, deadline: Deadline) -> None:
        await asyncio.sleep(60)

    async with connect(pods, "rendezvous") as client:
        before = await placement(client, pods)
        silent = before[USERS[0]]
        silent.always[SCORE] = hang
        for timeout_s in (0.01, 0.05, 0.05, 0.05):  # the first proves nothing: it is too short
            with pytest.raises(NoAnswerError):
                await client.score(USERS[0], [1], timeout_s=timeout_s)
        await client.score(USERS[0], [1])
        del silent.always[SCORE]
        await placed(client, pods, lambda users: users == before)


async def test_a_store_that_is_down_moves_nobody(pods: list[StubPod]) -> None:
    async with connect(pods, "rendezvous") as client:
        before = await placement(client, pods)
        before[USERS[0]].next(SCORE, StoreUnavailableError("store down"))
        assert (await client.score(USERS[0], [1])).attempts == 2
        assert await placement(client, pods) == before


async def test_ring_hash_passes_over_a_pod_that_reports_not_serving(pods: list[StubPod]) -> None:
    async with connect(pods, "ring_hash") as client:
        before = await placement(client, pods)
        draining = before[USERS[0]]
        await draining.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        await placed(client, pods, lambda users: draining not in users.values())


async def test_ring_hash_repeats_at_another_pod(pods: list[StubPod]) -> None:
    async with connect(
        pods, "ring_hash", max_attempts=8
    ) as client:  # 8 keys on one of 3 pods: 1:2187
        pod = (await placement(client, pods))[USERS[0]]
        pod.always[SCORE] = StoreUnavailableError("its own connection is broken")
        assert (await client.score(USERS[0], [1])).attempts > 1


async def test_auto_is_ring_hash_for_a_name_and_rendezvous_for_a_list() -> None:
    name, listed = "localhost:1", ["localhost:1", "127.0.0.1:1"]
    for targets, kind in ((name, RingHash), (listed, Rendezvous)):
        chosen = await routing.router("crossing", targets, "auto")
        assert type(chosen) is kind
        await chosen.close()


async def test_grpc_is_asked_for_ring_hash_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def channel(target: str) -> Any:
        asked.append(target)
        return made(target)

    made = ring_hash._ring_channel
    monkeypatch.setattr(ring_hash, "_ring_channel", channel)
    monkeypatch.setattr(ring_hash, "_taken_with", set())
    for _ in range(2):
        assert await ring_hash.ring_hash_available()
    assert len(asked) == 1


async def test_a_name_is_resolved_for_rendezvous(pods: list[StubPod]) -> None:
    name = f"dns:///localhost:{pods[0].port}"
    async with RankingClient(name, name, affinity="rendezvous", timeout_s=10.0) as client:
        await client.score("u", [1])
    assert pods[0].users(SCORE) == ["u"]


async def test_where_grpc_refuses_ring_hash_rendezvous_takes_over_and_says_so(
    pods: list[StubPod], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GRPC_EXPERIMENTAL_RING_HASH_SET_REQUEST_HASH_KEY", "false")
    name = f"localhost:{pods[0].port}"
    with caplog.at_level(logging.WARNING, "ranking_client"):
        async with RankingClient(name, name, timeout_s=10.0) as client:
            await client.score("u", [1])
    assert "rendezvous" in caplog.text
    with pytest.raises(InvalidFieldError, match=r"^affinity: 'ring_hash'"):
        async with RankingClient(name, name, affinity="ring_hash"):
            pass


async def test_a_name_that_does_not_resolve_is_refused() -> None:
    with pytest.raises(InvalidFieldError, match=r"^context: 'nowhere.invalid:1' does not resolve"):
        async with RankingClient("nowhere.invalid:1", "localhost:1", affinity="rendezvous"):
            pass


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("user", ["ü", "a\nb", "日本" * 30, "\0"])
async def test_any_user_id_can_be_routed(pods: list[StubPod], policy: Policy, user: str) -> None:
    async with connect(pods, policy) as client:
        await client.score(user, [1])
    assert [seen for pod in pods for seen in pod.users(SCORE)] == [user]


async def test_a_long_outage_lengthens_breaks_no_further() -> None:
    pod = RankedPod("127.0.0.1:1")
    for _ in range(2000):
        pod.failed()
    assert not pod.usable()
