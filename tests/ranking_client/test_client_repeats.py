"""What is repeated, where, how often, and that the deadline bounds all of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from ranking_client import (
    Actions,
    Affinity,
    NoAnswerError,
    OutcomeUnknownError,
    RankingClient,
    RemoteError,
    ServiceUnavailableError,
)
from shared.errors import (
    CrossKVError,
    DeadlineExceededError,
    HistoryFullError,
    InvalidFieldError,
    KVMissError,
    MissCause,
    ModelMismatchError,
    QueueFullError,
    StaleHistoryError,
    StoreUnavailableError,
)
from shared.rpc.deadline import Deadline
from tests.ranking_client.stub_pod import FINGERPRINT, StubPod

ACTIONS = Actions([5], [0], [10])
METHODS = {
    "ScoreCandidates": lambda client: client.score("u", [1]),
    "PrefetchContext": lambda client: client.prefetch("u"),
    "DescribeContext": lambda client: client.describe("u"),
    "DeleteContext": lambda client: client.delete("u"),
    "EncodeContext": lambda client: client.encode("u", ACTIONS),
}
APPEND = "AppendActions"


@pytest.fixture
async def pods() -> AsyncIterator[tuple[StubPod, StubPod]]:
    async with StubPod() as first, StubPod() as second:
        yield first, second


def connect(pods: tuple[StubPod, ...], **options: Any) -> RankingClient:
    addresses = [pod.address for pod in pods]
    return RankingClient(addresses, addresses, **{"timeout_s": 10.0, **options})


def count(pods: tuple[StubPod, ...], rpc: str) -> list[int]:
    return sorted(len(pod.users(rpc)) for pod in pods)


async def hang(request: Any, deadline: Deadline) -> None:
    await asyncio.sleep(60)


def fail_once(pods: tuple[StubPod, ...], rpc: str, error: CrossKVError) -> None:
    """Whichever pod is asked first fails; it alone."""
    left = [error]

    def step(request: Any, deadline: Deadline) -> None:
        if left:
            raise left.pop()

    for pod in pods:
        pod.always[rpc] = step


@pytest.mark.parametrize("rpc", METHODS)
@pytest.mark.parametrize(
    "error", [ServiceUnavailableError("its server stops"), StoreUnavailableError("store down")]
)
async def test_an_unavailable_pod_is_followed_by_the_next(
    pods: tuple[StubPod, StubPod], rpc: str, error: CrossKVError
) -> None:
    fail_once(pods, rpc, error)
    async with connect(pods) as client:
        await METHODS[rpc](client)
    assert count(pods, rpc) == [1, 1]


@pytest.mark.parametrize("rpc", METHODS)
async def test_a_pod_that_is_gone_is_followed_by_the_next(
    pods: tuple[StubPod, StubPod], rpc: str
) -> None:
    for gone, left in ((0, 1), (1, 0)):  # whichever is the user's own
        async with connect(pods) as client:
            await pods[gone].stop()
            await METHODS[rpc](client)
            assert pods[left].users(rpc)
            await pods[gone].__aenter__()


@pytest.mark.parametrize(
    "error",
    [
        InvalidFieldError("item_ids", "none"),
        KVMissError("u", MissCause.ABSENT),
        HistoryFullError("full"),
        StaleHistoryError("stale"),
        DeadlineExceededError("passed"),
    ],
)
async def test_what_would_fail_again_is_not_repeated(
    pods: tuple[StubPod, StubPod], error: CrossKVError
) -> None:
    for pod in pods:
        pod.always["ScoreCandidates"] = error
    async with connect(pods) as client:
        with pytest.raises(type(error)) as caught:
            await client.score("u", [1])
    assert str(caught.value) == str(error)
    assert count(pods, "ScoreCandidates") == [0, 1]


async def test_repeats_end_at_max_attempts(pods: tuple[StubPod, StubPod]) -> None:
    for pod in pods:
        pod.always["ScoreCandidates"] = StoreUnavailableError("store down")
    async with connect(pods, max_attempts=3) as client:
        with pytest.raises(StoreUnavailableError, match=r"^store down$"):
            await client.score("u", [1])
    assert count(pods, "ScoreCandidates") == [1, 2]


async def test_nobody_there_is_service_unavailable() -> None:
    async with RankingClient(["127.0.0.1:1"], ["127.0.0.1:1"]) as client:
        with pytest.raises(ServiceUnavailableError, match=r"^ScoreCandidates: no pod answered"):
            await client.score("u", [1], timeout_s=0.3)


@pytest.mark.parametrize("affinity", ["ring_hash", "rendezvous"])
async def test_a_restart_of_the_only_pod_is_waited_for(affinity: Affinity) -> None:
    async with StubPod() as pod, connect((pod,), affinity=affinity) as client:
        await client.score("u", [1])
        await pod.stop()
        scoring = asyncio.create_task(client.score("u", [1]))
        await asyncio.sleep(0.3)
        assert not scoring.done()
        await pod.__aenter__()
        assert (await scoring).attempts > 4


async def test_a_request_that_kills_pods_kills_no_more_than_max_attempts() -> None:
    async def restart() -> None:
        await pod.stop()
        await pod.__aenter__()

    async def die(request: Any, deadline: Deadline) -> None:
        restarts.append(asyncio.create_task(restart()))
        await asyncio.sleep(60)

    restarts: list[asyncio.Task[None]] = []
    async with StubPod() as pod:
        pod.always["ScoreCandidates"] = die
        async with connect((pod,), max_attempts=3) as client:
            with pytest.raises(ServiceUnavailableError):
                await client.score("u", [1])
        assert len(pod.calls) == 3
        await asyncio.gather(*restarts)


async def test_a_full_queue_is_asked_again_at_the_same_pod_after_its_delay(
    pods: tuple[StubPod, StubPod],
) -> None:
    fail_once(pods, "ScoreCandidates", QueueFullError("score queue is full", 0.2))
    async with connect(pods) as client:
        started = time.monotonic()
        scores = await client.score("u", [1])
        assert time.monotonic() - started >= 0.2
    assert scores.attempts == 2
    assert count(pods, "ScoreCandidates") == [0, 2]


async def test_a_delay_past_the_deadline_is_not_waited_for(pods: tuple[StubPod, StubPod]) -> None:
    for pod in pods:
        pod.always["ScoreCandidates"] = QueueFullError("score queue is full", 60.0)
    async with connect(pods) as client:
        with pytest.raises(QueueFullError, match="score queue is full") as caught:
            await client.score("u", [1])
    assert caught.value.retry_delay_s == 60.0
    assert count(pods, "ScoreCandidates") == [0, 1]


@pytest.mark.parametrize("silent", [False, True])
async def test_an_append_that_may_have_been_applied_is_not_repeated(
    pods: tuple[StubPod, StubPod], silent: bool
) -> None:
    for pod in pods:
        pod.always[APPEND] = hang if silent else StoreUnavailableError("store down")
    async with connect(pods) as client:
        with pytest.raises(OutcomeUnknownError, match="may have been applied"):
            await client.append("u", ACTIONS, timeout_s=0.5)
    assert count(pods, APPEND) == [0, 1]


async def test_an_append_that_was_too_late_to_begin_says_so(pods: tuple[StubPod, StubPod]) -> None:
    fail_once(pods, APPEND, DeadlineExceededError("passed before it began"))
    async with connect(pods) as client:
        with pytest.raises(DeadlineExceededError, match="before it began"):
            await client.append("u", ACTIONS)
    assert count(pods, APPEND) == [0, 1]


async def test_an_append_cut_off_in_flight_is_not_repeated(pods: tuple[StubPod, StubPod]) -> None:
    async def cut_off(request: Any, deadline: Deadline) -> None:
        for pod in pods:
            asyncio.get_running_loop().create_task(pod.stop())
        await asyncio.sleep(60)

    for pod in pods:
        pod.always[APPEND] = cut_off
    async with connect(pods) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.append("u", ACTIONS)
    assert count(pods, APPEND) == [0, 1]


async def test_an_append_that_was_not_begun_is_repeated(pods: tuple[StubPod, StubPod]) -> None:
    fail_once(pods, APPEND, QueueFullError("encode queue is full", 0.01))
    async with connect(pods) as client:
        assert (await client.append("u", ACTIONS)).published
    assert sum(count(pods, APPEND)) == 2


async def test_a_deletion_gets_time_to_walk_the_store(pods: tuple[StubPod, StubPod]) -> None:
    async with connect(pods) as client:
        await client.delete("u")
        await client.delete("u", timeout_s=9.0)
    first, second = (left for pod in pods for left in pod.remaining_s)
    assert first > 15
    assert second < 10  # gRPC rounds it up


async def test_one_score_encodes_on_few_pods(pods: tuple[StubPod, StubPod]) -> None:
    async def load(user: str) -> Actions:
        return ACTIONS

    fail_once(pods, "ScoreCandidates", KVMissError("u", MissCause.ABSENT))
    async with connect((pods[0],), load_history=load, affinity="ring_hash") as client:
        with pytest.raises(ModelMismatchError, match="no context service pod asked"):
            await client.score("u", [1], model_fingerprint="00" * 16)
    assert len(pods[0].users("EncodeContext")) == 4


async def test_each_attempt_gets_what_is_left_of_the_deadline(
    pods: tuple[StubPod, StubPod],
) -> None:
    async def slow_then_down(request: Any, deadline: Deadline) -> None:
        if sum(count(pods, "ScoreCandidates")) == 1:
            await asyncio.sleep(0.3)
            raise StoreUnavailableError("store down")

    for pod in pods:
        pod.always["ScoreCandidates"] = slow_then_down
    async with connect(pods) as client:
        await client.score("u", [1], timeout_s=2.0)
    second, first = sorted(pods[0].remaining_s + pods[1].remaining_s)
    assert first < 2.5  # gRPC rounds it up
    assert second <= 1.8


async def test_the_deadline_ends_a_call_that_hangs(pods: tuple[StubPod, StubPod]) -> None:
    for pod in pods:
        pod.always["ScoreCandidates"] = hang
    async with connect(pods) as client:
        with pytest.raises(NoAnswerError, match=r"^ScoreCandidates: no answer"):
            await client.score("u", [1], timeout_s=0.2)
    assert count(pods, "ScoreCandidates") == [0, 1]


async def test_the_deadline_bounds_the_loader_too(pods: tuple[StubPod, StubPod]) -> None:
    async def load(user: str) -> Actions:
        await asyncio.sleep(60)
        return ACTIONS

    for pod in pods:
        pod.always["ScoreCandidates"] = KVMissError("u", MissCause.ABSENT)
    async with connect(pods, load_history=load) as client:
        with pytest.raises(DeadlineExceededError, match=r"^load_history"):
            await client.score("u", [1], timeout_s=0.2)


async def test_a_request_over_the_size_limit_names_the_status(
    pods: tuple[StubPod, StubPod],
) -> None:
    async with connect(pods) as client:
        with pytest.raises(RemoteError, match=r"RESOURCE_EXHAUSTED.*larger than max") as caught:
            await client.score("u", range(1 << 20))
    assert caught.value.status is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_another_model_is_looked_for_at_the_other_pods() -> None:
    async with StubPod() as first, StubPod() as second, StubPod() as third:
        pods = (first, second, third)
        for pod in pods:
            pod.always["ScoreCandidates"] = ModelMismatchError("another model")
        async with connect(pods, max_attempts=1) as client:
            with pytest.raises(ModelMismatchError):
                await client.score("u", [1], model_fingerprint="cd" * 16)
            assert count(pods, "ScoreCandidates") == [1, 1, 1]
            del third.always["ScoreCandidates"]
            await client.score("u", [1])


async def test_mid_rollout_the_pair_that_fits_is_found() -> None:
    new = "cd" * 16
    asked = []

    async def load(user: str) -> Actions:
        asked.append(user)
        return ACTIONS

    async with StubPod() as old_context, StubPod(new) as new_context, StubPod(new) as crossing:
        contexts = (old_context, new_context)

        def score(request: Any, deadline: Deadline) -> None:
            if request.model_fingerprint == FINGERPRINT:
                raise ModelMismatchError(f"{FINGERPRINT} is not served here")
            if not new_context.users("EncodeContext"):
                raise KVMissError(request.user_id, MissCause.ABSENT)

        crossing.always["ScoreCandidates"] = score
        addresses = [pod.address for pod in contexts]
        async with RankingClient(addresses, [crossing.address], load_history=load) as client:
            for number in range(8):  # some users prefer the old context pod, some the new one
                new_context.calls.clear()
                scores = await client.score(f"u{number}", [1])
                assert scores.model_fingerprint == new
                assert scores.encoded
        assert len(asked) == 8
        assert old_context.users("EncodeContext")
