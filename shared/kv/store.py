"""What a store of KV entries must do; the contract tests hold every implementation to it."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import structlog

from shared.errors import StoreUnavailableError
from shared.kv.codec import EntryHeader

_log = structlog.get_logger()


class PutOutcome(Enum):
    """What became of a `put`."""

    STORED = "stored"
    STALE = "stale"
    """The store holds a newer history, which stays."""
    CONFLICT = "conflict"
    """The entry that was to be replaced is not the stored one any more."""


class KVStore(Protocol):
    """One value per user and model fingerprint.

    Every method raises `StoreUnavailableError` when the store does not answer in time or refuses.
    """

    async def get(self, user: str, fingerprint: str, *, limit: int | None = None) -> bytes | None:
        """The stored value, its first `limit` bytes where a limit is given; None: there is none."""
        ...

    async def get_header(self, user: str, fingerprint: str) -> bytes | None:
        """The first `codec.HEADER_LIMIT` bytes of the stored value, or None."""
        ...

    async def put(
        self, header: EntryHeader, value: bytes, *, replaces: bytes | None = None
    ) -> PutOutcome:
        """Store `value` under `header`'s user and fingerprint, atomically.

        Without `replaces`: unless the stored entry is newer by (history_version, tokens).
        With it: only if the stored value begins with exactly these header bytes.
        """
        ...

    async def delete(self, user: str) -> int:
        """Delete the user's values under every fingerprint; returns how many there were."""
        ...

    async def ping(self) -> None:
        """Return once the store has answered."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


async def greet(store: KVStore) -> None:
    """Connect before the first request does; a store that is down is logged, not fatal.

    A cluster's client learns the topology meanwhile, and while it does so it drops connections.
    """
    try:
        await store.ping()
    except StoreUnavailableError as error:
        _log.warning("store_unreachable", problem=str(error))
