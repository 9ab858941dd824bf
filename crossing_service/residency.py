"""Brings users' entries onto the device and answers for their freshness.

An entry is scored only if the store vouched for it within the last `revalidate_s` seconds. Whatever
else is needed, a check or a fetch, is one trip to the store for a user, shared by all who ask for
that user meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from enum import Enum
from types import TracebackType
from typing import Any, Self

from crossing_service.arena import Arena, ResidentEntry
from shared.errors import KVMissError, MissCause
from shared.kv.codec import EntryCodec
from shared.kv.store import KVStore
from shared.metrics import STAGE_SECONDS
from shared.rpc.deadline import Deadline

_GET_SECONDS = STAGE_SECONDS.labels("store_get")
_CHECK_SECONDS = STAGE_SECONDS.labels("store_check")
_UPLOAD_SECONDS = STAGE_SECONDS.labels("entry_upload")


class Source(Enum):
    """Where an entry was found."""

    DEVICE = "device"
    STORE = "store"


class Lease:
    """A pinned entry: its pages stay as they are until the lease ends."""

    __slots__ = ("_arena", "_held", "entry", "source")

    def __init__(self, arena: Arena, entry: ResidentEntry, source: Source) -> None:
        """Takes over one pin of `entry`."""
        self._arena = arena
        self._held = True
        self.entry = entry
        self.source = source

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """End the lease; again is nothing."""
        if self._held:
            self._held = False
            self._arena.unpin(self.entry)

    def share(self) -> Lease:
        """A second lease on the same entry, while this one lasts."""
        self._arena.pin(self.entry)
        return Lease(self._arena, self.entry, self.source)


class _Trip:
    """One trip to the store, which nobody's cancellation or deadline stops for the others.

    It keeps what it brought pinned until the last of those who joined has a lease of their own.
    """

    def __init__(self, bring: Coroutine[Any, Any, Lease]) -> None:
        self.task = asyncio.create_task(bring)
        self._waiting = 0
        self.task.add_done_callback(lambda _: self._let_go())

    async def join(self, deadline: Deadline) -> Lease:
        """What the trip brings, by the deadline; raises what it raises."""
        self._waiting += 1
        try:
            # `wait` neither cancels the task nor raises from it
            await deadline.bound(asyncio.wait((self.task,)), "the store")
            return self.task.result().share()
        finally:
            self._waiting -= 1
            self._let_go()

    def _let_go(self) -> None:
        if self._waiting or not self.task.done() or self.task.cancelled():
            return
        if self.task.exception() is None:
            self.task.result().release()


class Residency:
    """Hands out leases on fresh, proven entries.

    Args:
        arena: where entries lie on the device.
        store: where they come from.
        codec: proves and views them.
        fingerprint: of the served model.
        revalidate_s: seconds for which the store's word holds.
        clock: seconds that run forwards.
    """

    def __init__(
        self,
        arena: Arena,
        store: KVStore,
        codec: EntryCodec,
        fingerprint: str,
        *,
        revalidate_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._arena = arena
        self._store = store
        self._codec = codec
        self._fingerprint = fingerprint
        self._revalidate_s = revalidate_s
        self._clock = clock
        self._trips: dict[str, _Trip] = {}

    async def acquire(self, user: str, min_version: int, deadline: Deadline) -> Lease:
        """A lease on the user's entry, of history version `min_version` or newer (0: any).

        Raises:
            KVMissError: the store has no usable entry, or only an older one.
            StoreUnavailableError: the store was needed and did not answer in time.
            DeadlineExceededError: no time was left to ask it.
            QueueFullError: every page on the device is in use just now.
        """
        entry = self._arena.find(user)
        if entry is not None and self._usable(entry, min_version) and self._arena.pin(entry):
            return Lease(self._arena, entry, Source.DEVICE)
        deadline.check("asking the store")
        return await self._refreshed(user, min_version, deadline)

    async def close(self) -> None:
        """Break off the trips that nobody waits for any more."""
        tasks = [trip.task for trip in self._trips.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _usable(self, entry: ResidentEntry, min_version: int) -> bool:
        return (
            self._clock() - entry.checked_s < self._revalidate_s
            and entry.header.history_version >= min_version
        )

    async def _refreshed(self, user: str, min_version: int, deadline: Deadline) -> Lease:
        under_way = self._trips.get(user)
        if under_way is not None and min_version:
            # It set out before this request, so it may miss the history that the caller knows of.
            try:
                lease = await self._at_least(min_version, under_way, deadline)
            except KVMissError:
                under_way = self._trips.get(user)  # one that set out since, if any
            else:
                return lease
        return await self._at_least(min_version, under_way or self._set_out(user), deadline)

    async def _at_least(self, min_version: int, trip: _Trip, deadline: Deadline) -> Lease:
        lease = await trip.join(deadline)
        if lease.entry.header.history_version < min_version:
            lease.release()
            raise KVMissError(lease.entry.header.user, MissCause.TOO_OLD)
        return lease

    def _set_out(self, user: str) -> _Trip:
        trip = _Trip(self._trip(user))
        self._trips[user] = trip
        return trip

    async def _trip(self, user: str) -> Lease:
        try:
            return await self._confirmed(user) or await self._fetched(user)
        except KVMissError:
            self._arena.drop(user)
            raise
        finally:
            del self._trips[user]

    async def _confirmed(self, user: str) -> Lease | None:
        """The entry on the device if the store still has the same one; None: fetch it."""
        entry = self._arena.find(user)
        if entry is None:
            return None
        asked_s = self._clock()
        with _CHECK_SECONDS.time():
            head = await self._store.get_header(user, self._fingerprint)
        if head is None:
            raise KVMissError(user, MissCause.ABSENT)
        if not head.startswith(entry.header_bytes) or not self._arena.pin(entry):
            return None
        entry.checked_s = asked_s
        return Lease(self._arena, entry, Source.DEVICE)

    async def _fetched(self, user: str) -> Lease:
        asked_s = self._clock()
        with _GET_SECONDS.time():
            # one byte more than an entry has proves a foreign value: no need for all of its 500 MB
            limit = self._codec.max_bytes + 1
            value = await self._store.get(user, self._fingerprint, limit=limit)
        if value is None:
            raise KVMissError(user, MissCause.ABSENT)
        with _UPLOAD_SECONDS.time():
            # a dense entry of 64 MiB takes 20 ms to prove and copy: not on the event loop
            resident = await asyncio.to_thread(self._brought, user, value, asked_s)
        return Lease(self._arena, resident, Source.STORE)

    def _brought(self, user: str, value: bytes, asked_s: float) -> ResidentEntry:
        """The value proven and on the device, with a pin."""
        return self._arena.insert(self._codec.decode(user, value), asked_s)
