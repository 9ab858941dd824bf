"""TCP ports on the loopback interface, for processes that are started on this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

LOOPBACK = "127.0.0.1"


@contextmanager
def held_port(wanted: int = 0) -> Iterator[int]:
    """A loopback port that nobody else gets inside this: `wanted`, or a free one if that is 0.

    gRPC servers share a taken port silently (SO_REUSEPORT), so it is tried here without.

    Raises:
        OSError: the port is taken or not allowed.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is no obstacle
        probe.bind((LOOPBACK, wanted))
        probe.listen()  # under SO_REUSEADDR two that are only bound may share a port
        yield int(probe.getsockname()[1])


def free_port() -> int:
    """A loopback port that nothing listens on; another process may take it at any time."""
    with held_port() as port:
        return port
