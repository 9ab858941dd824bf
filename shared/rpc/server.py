"""A gRPC server's life: bind, become ready, serve, drain on SIGTERM, stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn

import grpc
import structlog
import uvloop
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from shared.errors import CrossKVError
from shared.metrics import serve_metrics
from shared.rpc.endpoint import Endpoint
from shared.settings import ServerSettings, SettingsError

EX_CONFIG = 78
_log = structlog.get_logger()


def run_service(main: Callable[[], Coroutine[Any, Any, None]]) -> NoReturn:
    """Run a service's `main` on uvloop and end the process with 0; does not return.

    A deployment error ends as one message and status 78.
    """
    # A process that is PID 1 of its container drops signals it has no handler for.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        uvloop.run(main())
    except (SettingsError, CrossKVError) as error:
        sys.stderr.write(f"cannot start: {error}\n")
        raise SystemExit(EX_CONFIG) from error
    # All is drained and closed. The interpreter's own end is skipped: it stops daemon threads
    # wherever they are, and gRPC's poller is one in C++, where that once ended in SIGABRT.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def serve(
    servicer: object,
    service: ServiceDescriptor,
    settings: ServerSettings,
    *,
    ready: Callable[[], Awaitable[None]],
    stop: Callable[[], Awaitable[None]],
) -> None:
    """Serve `service` until SIGTERM or SIGINT, then drain.

    Args:
        servicer: has one coroutine method a RPC, `(request, deadline) -> response`; requests come
            from `wire.parse`.
        service: the service's descriptor.
        settings: where to listen and how to drain.
        ready: awaited before health turns to SERVING.
        stop: awaited after the last call has been answered.

    Raises:
        SettingsError: the address cannot be bound.
    """
    health_servicer = health.aio.HealthServicer()
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_connection_age_ms", settings.max_connection_age_s * 1000),
            ("grpc.so_reuseport", 0),  # a taken port is an error, not a share of it
        ]
    )
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        method.name: grpc.unary_unary_rpc_method_handler(
            Endpoint(method, getattr(servicer, method.name)).answer
        )
        for method in service.methods
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service.full_name, handlers),)
    )
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    if settings.reflection:
        names = (service.full_name, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host  # IPv6
    address = f"{host}:{settings.port}"
    try:
        server.add_insecure_port(address)
        if settings.metrics_port:
            serve_metrics(settings.host, settings.metrics_port)
    except (RuntimeError, OSError) as error:
        raise SettingsError(
            f"CROSSKV_SERVER_HOST, _PORT or _METRICS_PORT: cannot listen on {address} and "
            f"{settings.metrics_port}: {error}; choose an address of this machine and free ports"
        ) from error

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    for name in ("", service.full_name):
        await health_servicer.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
    await server.start()
    await ready()
    if not stopping.is_set():
        for name in ("", service.full_name):
            await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        _log.info("serving", address=address, rpc_service=service.full_name)

    await stopping.wait()
    _log.info("draining", delay_s=settings.drain_delay_s, grace_s=settings.drain_grace_s)
    await health_servicer.enter_graceful_shutdown()
    await asyncio.sleep(settings.drain_delay_s)
    await server.stop(settings.drain_grace_s)
    await stop()
    _log.info("stopped")
