"""A user with two crossing pods: affinity, prefetch, forgetting, and a client from reflection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ranking_client import Affinity, RankingClient
from shared.errors import KVMissError, MissCause
from tests.integration.oracle import Oracle, assert_right
from tests.integration.orchestrator import Orchestrator
from tests.integration.stack import Pod, Stack
from tests.tiny_model import tiny_checkpoint_dir, tiny_config

REVALIDATE_S = 0.5


@dataclass
class House:
    stack: Stack
    checkpoint: Path
    context: Pod
    crossing: list[Pod]
    oracle: Oracle

    def client(self, orchestrator: Orchestrator, affinity: Affinity = "auto") -> RankingClient:
        return RankingClient(
            [self.context.address],
            [pod.address for pod in self.crossing],
            timeout_s=20.0,
            load_history=orchestrator.load_history,
            affinity=affinity,
        )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory: Path = tmp_path_factory.mktemp("users")
    checkpoint = directory / "model"
    tiny_checkpoint_dir(checkpoint, tiny_config(router="tied", slices="coded"))
    with Stack(directory) as stack:
        context = stack.pod("context", checkpoint)
        crossing = [
            stack.pod("crossing", checkpoint, CROSSING_REVALIDATE_S=REVALIDATE_S) for _ in range(2)
        ]
        oracle = Oracle(checkpoint)
        stack.wait_until_serving()
        yield House(stack, checkpoint, context, crossing, oracle)


@pytest.fixture
def orchestrator(house: House) -> Orchestrator:
    return Orchestrator(house.checkpoint)


@pytest.fixture
async def client(house: House, orchestrator: Orchestrator) -> AsyncIterator[RankingClient]:
    async with house.client(orchestrator) as opened:
        yield opened


async def resident_users(pod: Pod, users: list[str]) -> set[str]:
    """Users whose entry is on the pod's device; it asks the store for none of the others."""
    found = set()
    async with RankingClient([pod.address], [pod.address], timeout_s=20.0) as client:
        for user in users:
            if (await client.prefetch(user)).entry_source == "device":
                found.add(user)
    return found


@pytest.mark.parametrize("affinity", ["ring_hash", "rendezvous"])
async def test_each_user_lives_on_one_pod(
    house: House, orchestrator: Orchestrator, affinity: Affinity
) -> None:
    users = [f"{affinity}-{number}" for number in range(24)]
    for user in users:
        orchestrator.add_user(user, 20)
    async with (
        house.client(orchestrator, affinity) as one,
        house.client(orchestrator, affinity) as other,
    ):
        for user in users:
            ranked = [await orchestrator.rank(c, user, t) for t in (0, 1) for c in (one, other)]
            sources = [r.scores.entry_source for r in ranked]
            assert sources == ["store", "device", "device", "device"]
            for answer in ranked:
                assert_right(answer, house.oracle, exactly=True)
    homes = [await resident_users(pod, users) for pod in house.crossing]
    assert homes[0] | homes[1] == set(users)
    assert not homes[0] & homes[1]
    assert min(map(len, homes)) >= 3


async def test_a_prefetched_user_is_scored_from_the_device(
    orchestrator: Orchestrator, client: RankingClient
) -> None:
    receipt = await client.encode("prefetched", orchestrator.add_user("prefetched", 30))
    prefetched = await client.prefetch("prefetched", min_history_version=receipt.history_version)
    assert (prefetched.entry_source, prefetched.history_tokens) == ("store", 30)
    assert (await orchestrator.rank(client, "prefetched")).scores.entry_source == "device"


async def test_a_deleted_user_leaves_no_key_and_is_soon_a_miss(
    house: House, orchestrator: Orchestrator
) -> None:
    users = ["gone", "gone{too}*", "stays"]
    addresses = [pod.address for pod in house.crossing]
    async with RankingClient([house.context.address], addresses, timeout_s=20.0) as client:
        for user in users:
            await client.encode(user, orchestrator.add_user(user, 20))
            await orchestrator.rank(client, user)
        before = house.stack.keys()
        assert [await client.delete(user) for user in users[:2]] == [1, 1]
        after = house.stack.keys()
        assert len(before) - len(after) == 2
        assert not [key for key in after if b"gone" in key]
        await asyncio.sleep(REVALIDATE_S)
        for user in users[:2]:
            with pytest.raises(KVMissError) as caught:
                await orchestrator.rank(client, user)
            assert (caught.value.user, caught.value.cause) == (user, MissCause.ABSENT)
        await orchestrator.rank(client, "stays")
        assert await client.delete("gone") == 0


async def test_an_older_history_never_replaces_a_newer_one(
    house: House, orchestrator: Orchestrator, client: RankingClient
) -> None:
    actions = orchestrator.add_user("racing", 50)
    await client.encode("racing", actions, 5)
    late = await client.encode("racing", actions[:30], 4)
    assert not late.published
    ranked = await orchestrator.rank(client, "racing")
    assert (ranked.scores.history_version, ranked.scores.history_tokens) == (5, 50)
    assert_right(ranked, house.oracle, exactly=True)


async def test_min_history_version_makes_an_older_entry_a_miss(
    house: House, orchestrator: Orchestrator, client: RankingClient
) -> None:
    actions = orchestrator.add_user("versioned", 50)
    await client.encode("versioned", actions[:40], 1)
    scores = await client.score("versioned", [1, 2], min_history_version=2)
    assert (scores.encoded, scores.history_version, scores.history_tokens) == (True, 2, 50)
    addresses = [pod.address for pod in house.crossing]
    async with RankingClient([house.context.address], addresses, timeout_s=20.0) as bare:
        with pytest.raises(KVMissError) as caught:
            await bare.score("versioned", [1, 2], min_history_version=3)
    assert caught.value.cause is MissCause.TOO_OLD


async def test_a_client_made_from_reflection_alone_scores(
    house: House, orchestrator: Orchestrator, client: RankingClient
) -> None:
    actions = orchestrator.add_user("reflected", 30)
    await client.encode("reflected", actions)
    expected = await client.score("reflected", [5, 6, 7], request_time_s=int(actions.times_s[-1]))
    async with grpc.aio.insecure_channel(house.crossing[0].address) as channel:
        method = (await reflected(channel, "crosskv.v1.CrossingService")).methods_by_name[
            "ScoreCandidates"
        ]
        request = GetMessageClass(method.input_type)(
            user_id="reflected", item_ids=[5, 6, 7], request_time_s=int(actions.times_s[-1])
        )
        reply_type = GetMessageClass(method.output_type)
        call: Any = channel.unary_unary(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply_type.FromString,
        )
        reply = await call(request, timeout=20.0)
    assert list(reply.tasks) == ["watch", "like"]
    assert np.array(reply.scores[:3], np.float32).tolist() == expected.by_task["watch"].tolist()


async def reflected(channel: grpc.aio.Channel, service: str) -> Any:
    """The service's descriptor, from the server's own word."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def ask(**question: Any) -> Any:
        request = reflection_pb2.ServerReflectionRequest(**question)
        async for reply in stub.ServerReflectionInfo(iter([request]), timeout=20.0):
            return reply

    listed = await ask(list_services="")
    assert service in {entry.name for entry in listed.list_services_response.service}
    files: dict[str, FileDescriptorProto] = {}
    reply = await ask(file_containing_symbol=service)
    waiting = list(reply.file_descriptor_response.file_descriptor_proto)
    while waiting:
        file = FileDescriptorProto.FromString(waiting.pop())
        if file.name in files:
            continue
        files[file.name] = file
        for name in file.dependency:
            answer = await ask(file_by_filename=name)
            waiting += answer.file_descriptor_response.file_descriptor_proto
    pool = DescriptorPool()

    def add(name: str) -> None:
        file = files.pop(name, None)
        if file is not None:
            for dependency in file.dependency:
                add(dependency)
            pool.Add(file)

    for name in list(files):
        add(name)
    return pool.FindServiceByName(service)
