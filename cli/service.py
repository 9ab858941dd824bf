"""A service of the local stack: how it is started, and whether it is healthy."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from shared.rpc.ports import LOOPBACK


def service_command(name: str) -> list[str]:
    """Command of the `name` service."""
    return [sys.executable, "-m", f"{name}_service"]


def service_environment(
    checkpoint: Path, store_url: str, port: int, metrics_port: int
) -> dict[str, str]:
    """This process's environment, with the settings of a service on the loopback ports."""
    return {
        # Two services and a client share the cores; the demo model's matrices are too small for
        # several threads each to pay.
        "OMP_NUM_THREADS": "1",
        **os.environ,
        "CROSSKV_SERVER_HOST": LOOPBACK,
        "CROSSKV_SERVER_PORT": str(port),
        "CROSSKV_SERVER_METRICS_PORT": str(metrics_port),
        "CROSSKV_SERVER_DRAIN_GRACE_S": "2",
        "CROSSKV_STORE_URL": store_url,
        "CROSSKV_MODEL_CHECKPOINT": str(checkpoint.resolve()),
    }


def service_healthy(name: str, address: str) -> bool:
    """Whether it is the `name` service that answers at host:port, and it reports SERVING."""
    import grpc  # noqa: PLC0415  --help must not wait for it
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    service = f"crosskv.v1.{name.capitalize()}Service"
    # an http_proxy of the shell is not for loopback
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=1.0)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
