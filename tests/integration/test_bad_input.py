"""Every wrong request gets its code and a message with field and value; services stay well."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from ranking_client import Actions, FakeRankingClient, RankingClient, RemoteError
from shared.errors import InvalidFieldError, KVMissError, MissCause, ModelMismatchError
from tests.integration.oracle import Oracle, assert_right
from tests.integration.orchestrator import Orchestrator
from tests.integration.stack import Pod, Stack
from tests.tiny_model import tiny_checkpoint_dir, tiny_config

Call = Callable[[RankingClient], Coroutine[Any, Any, Any]]
USER = "well"
LONG = "é" * 129
ITEMS = [5, 6]


@dataclass
class House:
    context: Pod
    crossing: Pod
    oracle: Oracle
    orchestrator: Orchestrator


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory: Path = tmp_path_factory.mktemp("bad-input")
    checkpoint = directory / "model"
    tiny_checkpoint_dir(checkpoint, tiny_config())
    orchestrator = Orchestrator(checkpoint)
    orchestrator.add_user(USER, 30)
    with Stack(directory) as stack:
        context, crossing = (
            stack.pod("context", checkpoint, CONTEXT_MAX_ACTIONS=1000),
            stack.pod("crossing", checkpoint),
        )
        oracle = Oracle(checkpoint)
        stack.wait_until_serving()
        yield House(context, crossing, oracle, orchestrator)


@pytest.fixture
async def client(house: House) -> AsyncIterator[RankingClient]:
    """After the test's bad call, the services must still answer rightly."""
    addresses = [house.context.address], [house.crossing.address]
    async with RankingClient(*addresses, timeout_s=20.0) as opened:
        yield opened
        assert (house.context.health(), house.crossing.health()) == ("SERVING", "SERVING")
        await opened.encode(USER, house.orchestrator.histories[USER])
        assert_right(await house.orchestrator.rank(opened, USER), house.oracle, exactly=True)


def actions(
    items: Any = (5, 6), types: Any = (0, 1), times: Any = (10, 20), surfaces: Any = None
) -> Actions:
    return Actions(list(items), list(types), list(times), surfaces)  # type: ignore[arg-type]


USER_CALLS: dict[str, Callable[[str], Call]] = {
    "score": lambda user: lambda client: client.score(user, ITEMS),
    "prefetch": lambda user: lambda client: client.prefetch(user),
    "encode": lambda user: lambda client: client.encode(user, actions()),
    "append": lambda user: lambda client: client.append(user, actions()),
    "describe": lambda user: lambda client: client.describe(user),
    "delete": lambda user: lambda client: client.delete(user),
}


@pytest.mark.parametrize(("user", "says"), [("", "empty"), (LONG, "258 bytes")])
@pytest.mark.parametrize("method", USER_CALLS)
async def test_user_ids(client: RankingClient, method: str, user: str, says: str) -> None:
    with pytest.raises(InvalidFieldError, match=f"^user_id: {says}"):
        await USER_CALLS[method](user)(client)


BAD_ACTIONS: dict[str, tuple[Actions, str]] = {
    "none": (actions((), (), ()), r"actions.item_ids: no actions"),
    "too many": (actions([1] * 1001, [0] * 1001, [1] * 1001), r"actions.item_ids: 1001 actions"),
    "ragged types": (actions(types=(0,)), r"actions.action_types: 1 values for 2"),
    "ragged times": (actions(times=(1, 2, 3)), r"actions.times_s: 3 values for 2"),
    "ragged surfaces": (actions(surfaces=[0]), r"actions.surfaces: 1 values for 2"),
    "falling times": (actions(times=(20, 10)), r"actions.times_s\[1\]: 10 comes before 20"),
    "negative times": (actions(times=(-7, 10)), r"actions.times_s\[0\]: -7 is negative"),
    "milliseconds": (
        actions(times=(1, 17 * 10**11)),
        r"actions.times_s\[1\]: 1700000000000 is past",
    ),
    "unknown type": (actions(types=(0, 9)), r"actions.action_types\[1\]: 9"),
    "unknown surface": (actions(surfaces=[0, 4]), r"actions.surfaces\[1\]: 4"),
}


@pytest.mark.parametrize("case", BAD_ACTIONS)
@pytest.mark.parametrize("method", ["encode", "append"])
async def test_actions(client: RankingClient, method: str, case: str) -> None:
    bad, message = BAD_ACTIONS[case]
    with pytest.raises(InvalidFieldError, match=f"^{message}"):
        await getattr(client, method)("bad", bad)


BAD_CANDIDATES: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({"item_ids": []}, "item_ids: no candidates"),
    "too many": ({"item_ids": range(4097)}, "item_ids: 4097 candidates"),
    "NaN": ({"features": [[0, 1, 2], [0, np.nan, 2]]}, "features: nan at candidate 1, feature 1"),
    "infinity": ({"features": [[0, 1, -np.inf]] * 2}, "features: -inf at candidate 0, feature 2"),
    "width": ({"features": [[0, 1]] * 2}, "features: 4 values, expected 6"),
    "ragged surfaces": ({"surfaces": [0]}, "surfaces: 1 values for 2"),
    "unknown surface": ({"surfaces": [0, 7]}, r"surfaces\[1\]: 7, the model knows"),
    "unknown task": ({"tasks": ["watch", "buy"]}, "tasks: 'buy' is unknown"),
    "task twice": ({"tasks": ["like", "like"]}, "tasks: 'like' is named twice"),
    "negative time": ({"request_time_s": -5}, "request_time_s: -5 is negative"),
    "milliseconds": ({"request_time_s": 17 * 10**11}, "request_time_s: 1700000000000 is "),
}


@pytest.mark.parametrize("case", BAD_CANDIDATES)
async def test_candidates(client: RankingClient, case: str) -> None:
    arguments, message = BAD_CANDIDATES[case]
    with pytest.raises(InvalidFieldError, match=f"^{message}"):
        await client.score(USER, **{"item_ids": ITEMS, **arguments})


@pytest.fixture
async def fake(client: RankingClient) -> FakeRankingClient:
    """With the served model, a good entry, and one to append to."""
    fake = FakeRankingClient(model=await client.describe_model())
    for user in (USER, "bad"):
        await fake.encode(user, actions(times=(0, 0)))
    return fake


@pytest.mark.parametrize("case", [case for case in BAD_ACTIONS if case != "too many"])
@pytest.mark.parametrize("method", ["encode", "append"])
async def test_the_fake_refuses_the_same_actions(
    fake: FakeRankingClient, method: str, case: str
) -> None:
    bad, message = BAD_ACTIONS[case]
    with pytest.raises(InvalidFieldError) as refusal:
        await getattr(fake, method)("bad", bad)
    assert message.startswith(refusal.value.field)


@pytest.mark.parametrize("case", BAD_CANDIDATES)
async def test_the_fake_refuses_the_same_candidates(fake: FakeRankingClient, case: str) -> None:
    arguments, message = BAD_CANDIDATES[case]
    with pytest.raises(InvalidFieldError) as refusal:
        await fake.score(USER, **{"item_ids": ITEMS, **arguments})
    assert message.startswith(refusal.value.field)


@pytest.mark.parametrize("user", ["", LONG])
@pytest.mark.parametrize("method", USER_CALLS)
async def test_the_fake_refuses_the_same_users(
    fake: FakeRankingClient, method: str, user: str
) -> None:
    with pytest.raises(InvalidFieldError, match=r"^user_id"):
        await USER_CALLS[method](user)(fake)  # type: ignore[arg-type]


async def test_features_of_a_wrong_shape_are_not_scored(client: RankingClient) -> None:
    three_by_two = np.zeros((3, 2), np.float32)
    for features in (three_by_two, three_by_two.ravel()):
        with pytest.raises(InvalidFieldError, match=r"^features: shape"):
            await client.score(USER, ITEMS, features=features)


async def test_another_model(client: RankingClient) -> None:
    with pytest.raises(ModelMismatchError, match="cdcdcd"):
        await client.score(USER, ITEMS, model_fingerprint="cd" * 16)


async def test_an_unknown_user_is_a_miss(client: RankingClient) -> None:
    for call in (client.score("nobody", ITEMS), client.append("nobody", actions())):
        with pytest.raises(KVMissError, match="user 'nobody'") as caught:
            await call
        assert caught.value.cause is MissCause.ABSENT


async def test_an_append_from_before_the_history(client: RankingClient) -> None:
    await client.encode("before", actions(times=(100, 200)))
    with pytest.raises(InvalidFieldError, match=r"^actions.times_s\[0\]: 150 is older"):
        await client.append("before", actions(times=(150, 300)))


@pytest.mark.parametrize("service", ["context", "crossing"])
async def test_garbage_bytes(house: House, client: RankingClient, service: str) -> None:
    pod, path = {
        "context": (house.context, "/crosskv.v1.ContextService/EncodeContext"),
        "crossing": (house.crossing, "/crosskv.v1.CrossingService/ScoreCandidates"),
    }[service]
    async with grpc.aio.insecure_channel(pod.address) as channel:
        call: Any = channel.unary_unary(path)
        for garbage in (b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(garbage, timeout=20.0)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
            assert f"request: {len(garbage)} bytes" in (caught.value.details() or "")


async def test_an_array_of_broken_length(house: House, client: RankingClient) -> None:
    async with grpc.aio.insecure_channel(house.crossing.address) as channel:
        call: Any = channel.unary_unary("/crosskv.v1.CrossingService/ScoreCandidates")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\x0a\x01u\x12\x07" + b"1234567", timeout=20.0)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "item_ids: 7 bytes" in (caught.value.details() or "")


async def test_a_message_over_the_size_limit(client: RankingClient) -> None:
    many = 1 << 18
    for call in (
        client.score(USER, np.arange(3 * many)),
        client.encode(USER, actions([1] * many, [0] * many, [1] * many)),
    ):
        with pytest.raises(RemoteError, match="larger than max") as caught:
            await call
        assert caught.value.status is grpc.StatusCode.RESOURCE_EXHAUSTED
