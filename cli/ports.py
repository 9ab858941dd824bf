"""TCP ports on the loopback interface."""

from __future__ import annotations

import socket

from cli.failure import CommandError

LOOPBACK = "127.0.0.1"


def loopback_port(wanted: int | None, option: str) -> int:
    """`wanted` if nothing listens there; a free port if None.

    gRPC servers share a taken port silently (SO_REUSEPORT), so it is tried here without.

    Raises:
        CommandError: the port is taken; `option` is what the message tells to change.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is no obstacle
        try:
            probe.bind((LOOPBACK, wanted or 0))
            port: int = probe.getsockname()[1]
        except OSError as error:
            raise CommandError(
                f"port {wanted} is taken or not allowed ({error.strerror}); choose another with "
                f"{option}, or leave the option out for a free one"
            ) from error
    return port
