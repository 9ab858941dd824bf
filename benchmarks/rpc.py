"""Requests a second of ScoreCandidates with the model stubbed, against a bare grpc.aio echo.

The echo answers a request of the same bytes with a ready reply of the same bytes, so the ratio is
what CrossKV's own Python (parsing, validation, cache look-up, batching, errors, metrics) leaves of
gRPC's. Each server is a process of its own, the load generator is this one; the two servers are
measured in turn, so that a machine's drift hits both.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
import uvloop
from rich.progress import track

from crossing_service.arena import Arena
from crossing_service.candidates import CandidateReader
from crossing_service.residency import Residency
from crossing_service.scorer import Scored, ScoreWork
from crossing_service.service import CrossingServicer
from crosskv.v1 import crossing_pb2
from shared.kv.codec import EntryCodec, EntryHeader
from shared.kv.memory import MemoryStore
from shared.logs import configure_logs
from shared.model.checkpoint import Checkpoint
from shared.model.config import ItemHashConfig, ModelConfig
from shared.model.items import ItemHash
from shared.model.ranker import Ranker
from shared.provenance import provenance
from shared.rpc.batcher import Batcher
from shared.rpc.ports import free_port
from shared.rpc.server import serve
from shared.rpc.wire import build
from shared.settings import ServerSettings

CANDIDATES = 512
CONCURRENCY = 32
SECONDS = 3.0
ROUNDS = 5
TARGET_RATIO = 0.5

_METHOD = "/crosskv.v1.CrossingService/ScoreCandidates"
_USER = "42"
_FINGERPRINT = "0" * 32
_ITEMS = ItemHashConfig(rows=8)
_CONFIG = ModelConfig(
    embed_dim=8,
    layers=1,
    heads=1,
    kv_heads=1,
    head_dim=8,
    ffn_dim=8,
    tasks=("watch", "like"),
    action_types=("view",),
    items=_ITEMS,
)
_SCORES = np.random.default_rng(0).random((len(_CONFIG.tasks), CANDIDATES), np.float32)


def bench_rpc(out: Path | None) -> dict[str, Any]:
    """Measure both servers and write the record to `out` as JSON, if given.

    Returns:
        Requests a second of each round, their medians, the ratio and its target, payload sizes in
        bytes, provenance.
    """
    rates: dict[str, list[float]] = {"echo": [], "score_candidates": []}
    with _process(_serve_echo) as echo_port, _process(_serve_stubbed) as stubbed_port:
        ports = {"echo": echo_port, "score_candidates": stubbed_port}
        for _ in track(range(ROUNDS), description="Measuring both servers in turn"):
            for name, port in ports.items():
                rates[name].append(uvloop.run(_requests_per_second(port)))
    medians = {name: median(values) for name, values in rates.items()}
    record = {
        "benchmark": "rpc",
        "candidates": CANDIDATES,
        "concurrency": CONCURRENCY,
        "request_bytes": len(_request()),
        "reply_bytes": len(_reply()),
        "requests_per_s": {name: [round(rate) for rate in rates[name]] for name in rates},
        "median_requests_per_s": {name: round(rate) for name, rate in medians.items()},
        "ratio": round(medians["score_candidates"] / medians["echo"], 3),
        "target_ratio": TARGET_RATIO,
        "provenance": provenance(),
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=2) + "\n")
    return record


def _request() -> bytes:
    ids = np.random.default_rng(1).integers(0, 2**64, CANDIDATES, np.uint64)
    request = build(
        crossing_pb2.ScoreCandidatesRequest, user_id=_USER, item_ids=ids, request_time_s=2
    )
    return request.SerializeToString()


def _reply() -> bytes:
    reply = build(
        crossing_pb2.ScoreCandidatesResponse,
        scores=_SCORES,
        tasks=_CONFIG.tasks,
        model_fingerprint=_FINGERPRINT,
        history_version=1,
        history_tokens=1,
        entry_source=crossing_pb2.ENTRY_SOURCE_DEVICE,
    )
    return reply.SerializeToString()


async def _requests_per_second(port: int) -> float:
    """A closed loop of `CONCURRENCY` callers on one channel, after half a second of warm-up."""
    request, expected = _request(), len(_reply())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
        finished = 0

        async def caller(until: float) -> None:
            nonlocal finished
            while time.perf_counter() < until:
                reply = await call(request)
                if len(reply) != expected:
                    raise RuntimeError(f"reply of {len(reply)} bytes, expected {expected}")
                finished += 1

        async def load(seconds: float) -> float:
            nonlocal finished
            finished, started = 0, time.perf_counter()
            await asyncio.gather(*(caller(started + seconds) for _ in range(CONCURRENCY)))
            return finished / (time.perf_counter() - started)

        await load(0.5)
        return await load(SECONDS)


async def _serve_echo(port: int) -> None:
    reply = _reply()

    async def answer(request: bytes, context: object) -> bytes:
        return reply

    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
    service, method = _METHOD[1:].split("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def _serve_stubbed(port: int) -> None:
    """The crossing service as its app puts it together, but for the store and the scorer."""
    configure_logs("bench", "error")
    checkpoint = Checkpoint(Ranker(_CONFIG), ItemHash(_ITEMS), _FINGERPRINT)
    layout = checkpoint.ranker.layout
    codec = EntryCodec(layout, _FINGERPRINT, max_tokens=_CONFIG.max_history)
    header = EntryHeader(
        fingerprint=_FINGERPRINT,
        user=_USER,
        tokens=1,
        last_event_time_s=1,
        history_version=1,
        created_ms=0,
    )
    store = MemoryStore()
    await store.put(header, codec.encode(header, bytes(layout.payload_bytes(1))))
    arena = Arena(layout, cache_bytes=1 << 20, max_tokens=_CONFIG.max_history, device="cpu")

    def score(batch: list[ScoreWork]) -> list[Scored]:
        return [Scored(_SCORES, 0) for _ in batch]

    batcher: Batcher[ScoreWork, Scored] = Batcher(
        "crossing",
        score,
        cost=lambda work: work.tokens,
        max_batch_cost=65536,
        max_queue=512,
    )
    servicer = CrossingServicer(
        checkpoint,
        CandidateReader(_CONFIG, _FINGERPRINT, max_candidates=4096),
        Residency(arena, store, codec, _FINGERPRINT, revalidate_s=30.0),
        batcher,
        max_candidates=4096,
    )

    async def nothing() -> None:
        pass

    service = crossing_pb2.DESCRIPTOR.services_by_name["CrossingService"]
    await serve(servicer, service, ServerSettings(port=port), ready=nothing, stop=batcher.close)


@contextmanager
def _process(main: Callable[[int], Any]) -> Iterator[int]:
    """A server process on a free loopback port."""
    port = free_port()
    # spawn: gRPC's threads do not survive a fork
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(main, port))
    process.start()
    try:
        _wait_until_open(port)
        yield port
    finally:
        if process.pid is not None:
            os.kill(process.pid, signal.SIGTERM)
        process.join()


def _run(main: Callable[[int], Any], port: int) -> None:
    uvloop.run(main(port))


def _wait_until_open(port: int, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"the server on port {port} did not start within {seconds} s")
