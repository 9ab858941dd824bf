"""`python -m crossing_service` as a process of its own, with a real store."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from crosskv.v1 import crossing_pb2, crossing_pb2_grpc
from shared.kv.codec import EntryCodec
from shared.kv.valkey import ValkeyStore
from shared.model.checkpoint import Checkpoint, load_checkpoint
from shared.model.config import DTYPES
from shared.rpc.ports import free_port
from shared.settings import StoreSettings
from tests.crossing_service.house import House
from tests.tiny_model import tiny_checkpoint_dir, tiny_config

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def process(checkpoint: Path, **variables: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if "CROSSKV_" not in name}
    environment |= {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
        "OMP_NUM_THREADS": "1",
        "CROSSKV_SERVER_PORT": str(port),
        "CROSSKV_MODEL_CHECKPOINT": str(checkpoint),
        **{f"CROSSKV_{name}": str(value) for name, value in variables.items()},
    }
    running = subprocess.Popen(
        [sys.executable, "-m", "crossing_service"],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield running, f"127.0.0.1:{port}"
    finally:
        running.kill()
        running.communicate()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_serves_the_models_scores_and_ends_cleanly(
    dtype: str, tmp_path: Path, valkey_url: str
) -> None:
    house, user = House(), f"crossing-process-{dtype}"
    fingerprint = tiny_checkpoint_dir(tmp_path, tiny_config())
    loaded: Checkpoint = load_checkpoint(tmp_path, dtype=DTYPES[dtype])
    codec = EntryCodec(house.layout, fingerprint, max_tokens=house.config.max_history)
    made = house.codec.decode(user, house.value(user, 37, 9))
    header = type(made.header)(fingerprint, user, 37, made.header.last_event_time_s, 9, 0)
    value = codec.encode(header, made.payload)
    store = ValkeyStore.connect(StoreSettings(url=valkey_url))
    await store.put(header, value)
    await store.close()

    metrics_port = free_port()
    with process(
        tmp_path,
        STORE_URL=valkey_url,
        CROSSING_MAX_CANDIDATES=20,
        **({} if dtype == "float32" else {"CROSSING_DTYPE": dtype}),
        SERVER_METRICS_PORT=metrics_port,
    ) as (running, address):
        async with grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            name = "crosskv.v1.CrossingService"
            async for state in health.Watch(
                health_pb2.HealthCheckRequest(service=name), wait_for_ready=True, timeout=60
            ):
                if state.status == health_pb2.HealthCheckResponse.SERVING:
                    break
            crossing = crossing_pb2_grpc.CrossingServiceStub(channel)
            described = await crossing.DescribeModel(
                crossing_pb2.CrossingServiceDescribeModelRequest()
            )
            assert described.model.fingerprint == fingerprint
            assert described.model.max_candidates == 20

            candidates = house.candidates(13, seed=3)
            assert candidates.surfaces is not None
            assert candidates.features is not None
            request = crossing_pb2.ScoreCandidatesRequest(
                user_id=user,
                item_ids=candidates.item_ids,
                surfaces=candidates.surfaces,
                features=candidates.features.ravel(),
                request_time_s=candidates.request_time_s,
            )
            reply = await crossing.ScoreCandidates(request, timeout=10)
            assert loaded.fingerprint == reply.model_fingerprint
            house.codec, house.checkpoint = codec, loaded
            expected = house.direct(value, user, candidates)
            np.testing.assert_array_equal(np.array(reply.scores, np.float32), expected.ravel())

            url = f"http://127.0.0.1:{metrics_port}/metrics"
            metrics = (await asyncio.to_thread(urlopen, url)).read().decode()
            assert 'crosskv_batch_cost_sum{queue="crossing"} 50.0' in metrics  # 37 + 13 tokens

            request.user_id = "crossing-process-nobody"
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await crossing.ScoreCandidates(request, timeout=10)
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0


def test_a_cache_too_small_for_the_model_ends_the_start_with_what_to_set(tmp_path: Path) -> None:
    tiny_checkpoint_dir(tmp_path, tiny_config())
    with process(tmp_path, CROSSING_CACHE_BYTES=1000) as (running, _):
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 78
    assert "CROSSKV_CROSSING_CACHE_BYTES" in errors
    assert "Traceback" not in errors
