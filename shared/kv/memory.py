"""A store in this process' memory: for one process, and for tests of everything above a store."""

from __future__ import annotations

import time
from collections.abc import Callable

from shared.kv.codec import HEADER_LIMIT, MARKER, ORDER, EntryHeader
from shared.kv.store import PutOutcome

WEEK_S = 604_800.0


class MemoryStore:
    """The contract of `KVStore` on a dict.

    Every method runs without yielding to the event loop, so each one is atomic. `clock` gives
    seconds and only has to run forwards.
    """

    def __init__(
        self, *, ttl_s: float = WEEK_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if ttl_s <= 0:
            raise ValueError(f"ttl_s: {ttl_s} would store nothing; give seconds above 0")
        self._ttl_s = ttl_s
        self._clock = clock
        self._values: dict[tuple[str, str], tuple[bytes, float]] = {}

    async def get(self, user: str, fingerprint: str, *, limit: int | None = None) -> bytes | None:
        """The stored value, or None: see `KVStore.get`."""
        value = self._live(user, fingerprint)
        return None if value is None else value[:limit]

    async def get_header(self, user: str, fingerprint: str) -> bytes | None:
        """The first `codec.HEADER_LIMIT` bytes of the stored value, or None."""
        value = self._live(user, fingerprint)
        return None if value is None else value[:HEADER_LIMIT]

    async def put(
        self, header: EntryHeader, value: bytes, *, replaces: bytes | None = None
    ) -> PutOutcome:
        """Store `value`, atomically: see `KVStore.put`."""
        stored = self._live(header.user, header.fingerprint)
        if stored is not None and not stored.startswith(MARKER):
            stored = None
        if replaces is not None:
            if stored is None or not stored.startswith(replaces):
                return PutOutcome.CONFLICT
        elif stored is not None and value[ORDER] < stored[ORDER]:
            return PutOutcome.STALE
        expires = self._clock() + self._ttl_s
        self._values[header.user, header.fingerprint] = value, expires
        return PutOutcome.STORED

    async def delete(self, user: str) -> int:
        """Delete the user's values under every fingerprint; returns how many there were."""
        keys = [key for key in self._values if key[0] == user]
        live = sum(self._live(*key) is not None for key in keys)
        for key in keys:
            self._values.pop(key, None)
        return live

    async def ping(self) -> None:
        """Return: memory always answers."""

    async def close(self) -> None:
        """Forget every value."""
        self._values.clear()

    def _live(self, user: str, fingerprint: str) -> bytes | None:
        found = self._values.get((user, fingerprint))
        if found is None:
            return None
        value, expires = found
        if self._clock() >= expires:
            del self._values[user, fingerprint]
            return None
        return value
