"""The local stack: a Valkey server and both services, each a process of its own on loopback."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from cli.addresses import Addresses
from cli.checkpoint import require_checkpoint
from cli.child import ChildProcess
from cli.failure import CommandError
from cli.ports import WantedPorts, choose_ports
from cli.service import service_command, service_environment, service_healthy
from cli.valkey import valkey_answers, valkey_command

START_TIMEOUT_S = 60.0  # importing torch on a cold disk takes 10 s; three of them share two cores
_STOP_GRACE_S = 5.0
_POLL_S = 0.05
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


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
        ports: WantedPorts = WantedPorts(),
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
        ports = choose_ports(self._ports)
        addresses = ports.addresses
        with self._console.status("starting Valkey") as status:
            command = valkey_command(ports.store, self._logs)
            valkey = self._run("Valkey server", command, os.environ)
            self._await(valkey, lambda: valkey_answers(ports.store))
            status.update("starting the services")
            services = {
                name: self._run(
                    f"{name} service",
                    service_command(name),
                    service_environment(self._checkpoint, addresses.store, port, metrics_port),
                )
                for name, port, metrics_port in (
                    ("context", ports.context, ports.context_metrics),
                    ("crossing", ports.crossing, ports.crossing_metrics),
                )
            }
            for name, child in services.items():
                address = getattr(addresses, name)
                status.update(f"waiting for the {child.name} on {address} to be healthy")
                self._await(child, partial(service_healthy, name, address))
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
