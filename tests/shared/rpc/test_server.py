"""A served endpoint through a real channel: replies, statuses with details, health, drain."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from crosskv.v1 import crossing_pb2, crossing_pb2_grpc
from shared.errors import InvalidFieldError, KVMissError, MissCause, QueueFullError
from shared.rpc.deadline import Deadline
from shared.rpc.ports import free_port
from shared.rpc.server import serve
from shared.rpc.wire import build, packed
from shared.settings import ServerSettings, SettingsError

SERVICE = crossing_pb2.DESCRIPTOR.services_by_name["CrossingService"]


class Servicer:
    """Scores an item id by itself; user ids choose what goes wrong."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.deadlines: list[Deadline] = []

    async def ScoreCandidates(  # noqa: N802
        self, request: crossing_pb2.ScoreCandidatesRequest, deadline: Deadline
    ) -> crossing_pb2.ScoreCandidatesResponse:
        self.deadlines.append(deadline)
        match request.user_id:
            case "invalid":
                raise InvalidFieldError("item_ids", "0 of them; send at least one")
            case "wordy":
                raise InvalidFieldError("surfaces", "ü" * 50_000)
            case "missing":
                raise KVMissError("missing", MissCause.ABSENT)
            case "busy":
                raise QueueFullError("crossing queue is full (8 waiting)", 0.25)
            case "bug":
                raise ZeroDivisionError
            case "slow":
                self.entered.set()
                await self.release.wait()
        scores = packed(request, "item_ids").astype("f4")
        return build(crossing_pb2.ScoreCandidatesResponse, scores=scores)

    async def PrefetchContext(self, request: object, deadline: Deadline) -> None:  # noqa: N802
        raise AssertionError("these tests do not call it")

    DescribeModel = PrefetchContext


@asynccontextmanager
async def serving(
    servicer: Servicer, **settings: object
) -> AsyncIterator[tuple[grpc.aio.Channel, asyncio.Task[None]]]:
    server_settings = ServerSettings(port=free_port(), **settings)
    is_ready = asyncio.Event()

    async def ready() -> None:
        is_ready.set()

    async def stop() -> None:
        pass

    task = asyncio.create_task(
        serve(servicer, SERVICE, server_settings, ready=ready, stop=stop), name="serve"
    )
    await asyncio.wait({task, asyncio.create_task(is_ready.wait())}, return_when="FIRST_COMPLETED")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server_settings.port}") as channel:
        yield channel, task
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)
            await task


def request(user: str, *ids: int) -> crossing_pb2.ScoreCandidatesRequest:
    return crossing_pb2.ScoreCandidatesRequest(user_id=user, item_ids=ids)


async def test_a_public_client_gets_the_scores_and_its_deadline_is_seen() -> None:
    servicer = Servicer()
    async with serving(servicer) as (channel, _):
        stub = crossing_pb2_grpc.CrossingServiceStub(channel)
        reply = await stub.ScoreCandidates(request("u", 3, 4), timeout=5)
        assert list(reply.scores) == [3, 4]
        await stub.ScoreCandidates(request("u", 3))
    assert 0 < servicer.deadlines[0].remaining_s() < 6  # gRPC rounds time-outs up
    assert servicer.deadlines[1].remaining_s() > 3600


@pytest.mark.parametrize(
    ("user", "code", "reason", "text"),
    [
        ("invalid", "INVALID_ARGUMENT", "INVALID_FIELD", "item_ids: 0 of them; send at least one"),
        ("missing", "NOT_FOUND", "KV_MISS", "no usable KV entry for user 'missing' (absent)"),
        ("busy", "RESOURCE_EXHAUSTED", "QUEUE_FULL", "crossing queue is full (8 waiting)"),
        ("bug", "INTERNAL", None, "unforeseen error"),
    ],
)
async def test_errors_arrive_with_code_reason_and_text(
    user: str, code: str, reason: str | None, text: str
) -> None:
    async with serving(Servicer()) as (channel, _):
        stub = crossing_pb2_grpc.CrossingServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.ScoreCandidates(request(user, 1), timeout=5)
        assert list((await stub.ScoreCandidates(request("u", 3), timeout=5)).scores) == [3]
    error = refusal.value
    assert error.code().name == code
    assert text in (error.details() or "")
    status = rpc_status.from_call(error)
    reasons = []
    for detail in status.details if status else []:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            reasons.append(info.reason)
            assert info.domain == "crosskv.v1"
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            assert retry.retry_delay.ToMilliseconds() == 250
    assert reasons == ([reason] if reason else [])


async def test_a_long_message_is_cut_to_what_peers_accept() -> None:
    async with serving(Servicer()) as (channel, _):
        stub = crossing_pb2_grpc.CrossingServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.ScoreCandidates(request("wordy", 1), timeout=5)
    assert refusal.value.code().name == "INVALID_ARGUMENT"
    assert (refusal.value.details() or "").startswith("surfaces: üüü")


async def test_garbage_and_oversize_are_refused_and_the_service_goes_on() -> None:
    async with serving(Servicer(), max_message_bytes=1024) as (channel, _):
        raw = channel.unary_unary(f"/{SERVICE.full_name}/ScoreCandidates")
        for data, code in ((b"\xff" * 9, "INVALID_ARGUMENT"), (bytes(5000), "RESOURCE_EXHAUSTED")):
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await raw(data, timeout=5)
            assert refusal.value.code().name == code
        stub = crossing_pb2_grpc.CrossingServiceStub(channel)
        assert list((await stub.ScoreCandidates(request("u", 3), timeout=5)).scores) == [3]


async def test_sigterm_turns_health_then_finishes_calls_in_flight() -> None:
    servicer = Servicer()
    async with serving(servicer, drain_delay_s=0.3, drain_grace_s=5.0) as (channel, task):
        stub = crossing_pb2_grpc.CrossingServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        check = health_pb2.HealthCheckRequest(service=SERVICE.full_name)
        status = health_pb2.HealthCheckResponse
        assert (await health.Check(check)).status == status.SERVING
        call = stub.ScoreCandidates(request("slow", 8), timeout=5)
        await asyncio.wait({asyncio.create_task(servicer.entered.wait())}, timeout=5)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.1)
        assert (await health.Check(check)).status == status.NOT_SERVING
        assert not task.done()
        servicer.release.set()
        assert list((await call).scores) == [8]
        await task


async def test_a_taken_port_is_a_settings_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = ServerSettings(port=taken.getsockname()[1])

        async def nothing() -> None:
            pass

        with pytest.raises(SettingsError, match="choose an address of this machine and free ports"):
            await serve(Servicer(), SERVICE, settings, ready=nothing, stop=nothing)
