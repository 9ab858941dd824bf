"""Where the local stack listens, as `crosskv up` writes it down for the other commands."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil

from cli.failure import CommandError
from cli.program import program

STATE_FILE = Path("runs/up.json")


@dataclass(frozen=True)
class Addresses:
    """Addresses of one stack."""

    context: str
    """host:port of the context service."""
    crossing: str
    """host:port of the crossing service."""
    store: str
    """URL of the store."""
    context_metrics: str
    """URL of the context service's Prometheus metrics."""
    crossing_metrics: str
    """URL of the crossing service's, likewise."""


def require_no_stack() -> None:
    """Return if no stack is announced in this directory.

    Raises:
        CommandError: a live process has announced one.
    """
    if (other := _announced_by()) is not None:
        raise CommandError(
            f"a stack is already running here (process {other}, {STATE_FILE}); "
            f"stop it with `kill {other}`, or work in another directory"
        )


@contextmanager
def announced(addresses: Addresses) -> Iterator[None]:
    """`addresses` stand in the state file inside this, under this process's id.

    Raises:
        CommandError: another live process has announced a stack there.
    """
    require_no_stack()
    STATE_FILE.parent.mkdir(parents=True, exist_ok=True)
    state = {"pid": os.getpid(), "started": psutil.Process().create_time(), **asdict(addresses)}
    try:
        STATE_FILE.write_text(json.dumps(state, indent=2) + "\n")
        yield
    finally:
        STATE_FILE.unlink(missing_ok=True)


def find_address(service: Literal["context", "crossing"], given: str | None) -> str:
    """host:port of the `service`: the `given` one, else the running stack's.

    Raises:
        CommandError: none is given and no stack is running.
    """
    if given:
        return given
    if _announced_by() is None:
        stale = f"{STATE_FILE} is left over from one that has ended" if STATE_FILE.exists() else ""
        raise CommandError(
            f"no stack is running here{f' ({stale})' if stale else ''}; start one with "
            f"`{program()} up` in another terminal, or pass --{service} HOST:PORT"
        )
    return str(json.loads(STATE_FILE.read_text())[service])


def _announced_by() -> int | None:
    """Process id in the state file, if that very process is alive."""
    try:
        state = json.loads(STATE_FILE.read_text())
        pid, started = int(state["pid"]), state["started"]
        alive = psutil.Process(pid).create_time() == started  # ids are used again
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
        return None
    return pid if alive else None
