from __future__ import annotations

import errno
import os
import socket

import pytest

from shared.rpc.ports import LOOPBACK, free_port, held_port


def test_a_held_port_is_nobody_elses() -> None:
    taken = os.strerror(errno.EADDRINUSE)
    with held_port() as port, pytest.raises(OSError, match=taken), held_port(port):
        pass
    with held_port(port) as again:
        assert again == port


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server((LOOPBACK, free_port())) as server:
        assert server.getsockname()[1] > 0
