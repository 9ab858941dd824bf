"""The device side of KV entries: one tensor of pages, filled and reused by least recent use.

An entry takes whole pages, anywhere. Readers find them through its page list and read as many
tokens as its header says: a reused page needs no clearing. Bookkeeping is under one lock, because
requests pin entries on the event loop, batches on the worker thread, and fetched entries come in on
threads of their own. Bytes are copied outside of it, into pages that are nobody else's.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from crossing_service.metrics import EVICTIONS, RESIDENT_BYTES, RESIDENT_ENTRIES
from shared.errors import QueueFullError
from shared.kv.codec import Entry, EntryHeader
from shared.kv.layout import EntryLayout
from shared.settings import SettingsError

_RETRY_DELAY_S = 0.05
"""Hint to a caller that found every page pinned: a few batches' time."""


@dataclass(eq=False, slots=True)
class ResidentEntry:
    """An entry in the arena. Its pages stay its own until it is unlisted and unpinned."""

    header: EntryHeader
    header_bytes: bytes
    """As stored: what a freshness check compares."""
    pages: NDArray[np.int32]
    """[page count] page numbers, in token order."""
    checked_s: float
    """When the store was last asked for it, on the clock of whoever inserted it."""
    pins: int = 0
    listed: bool = True
    """Whether `Arena.find` still hands it out."""


class Arena:
    """Pages for entries on the device, within a byte budget.

    Args:
        layout: what a page holds.
        cache_bytes: most bytes that the pages take.
        max_tokens: tokens of the largest entry that is to fit.
        device: where the pages lie.

    Raises:
        SettingsError: an entry of `max_tokens` exceeds `cache_bytes`.
    """

    def __init__(
        self,
        layout: EntryLayout,
        *,
        cache_bytes: int,
        max_tokens: int,
        device: str,
    ) -> None:
        self._layout = layout
        self._page_count = cache_bytes // layout.page_bytes
        self._require_room(max_tokens)
        self.tensor = torch.empty(
            (self._page_count, layout.page_bytes), dtype=torch.uint8, device=device
        )
        """[pages, page_bytes] uint8."""
        self._lock = threading.Lock()
        self._free = np.arange(self._page_count, dtype=np.int32)
        self._free_count = self._page_count
        self._listed: OrderedDict[str, ResidentEntry] = OrderedDict()  # least recently used first

    def find(self, user: str) -> ResidentEntry | None:
        """The user's entry, which becomes the most recently used one."""
        with self._lock:
            entry = self._listed.get(user)
            if entry is not None:
                self._listed.move_to_end(user)
            return entry

    def pin(self, entry: ResidentEntry) -> bool:
        """Keep the entry's pages until `unpin`. False: they are already someone else's."""
        with self._lock:
            if not entry.listed and not entry.pins:
                return False
            entry.pins += 1
            return True

    def unpin(self, entry: ResidentEntry) -> None:
        """Undo one `pin`; the last one of an unlisted entry frees its pages."""
        with self._lock:
            entry.pins -= 1
            self._free_if_unused(entry)

    def insert(self, entry: Entry, checked_s: float) -> ResidentEntry:
        """Copy the entry's payload into pages and list it in place of its user's former entry.

        Entries that nobody has pinned make room, the least recently used first. Safe on any thread,
        and best not on the event loop: 64 MiB take some 10 ms.

        Returns:
            The entry with one pin, which is the caller's: without it another thread's insert might
            evict it before the caller can look.

        Raises:
            QueueFullError: what is pinned leaves no room now; nothing has changed.
            SettingsError: it could never fit.
        """
        self._require_room(entry.header.tokens)
        wanted = len(entry.payload)
        with self._lock:
            former = self._listed.get(entry.header.user)
            for victim in self._victims(wanted, former):
                self._unlist(victim)
                EVICTIONS.inc()
            if former is not None:
                self._unlist(former)
            self._free_count -= wanted
            pages = self._free[self._free_count : self._free_count + wanted].copy()
        self._fill(pages, entry.payload)
        resident = ResidentEntry(entry.header, entry.header_bytes, pages, checked_s, pins=1)
        with self._lock:
            meanwhile = self._listed.get(entry.header.user)
            if meanwhile is not None:
                self._unlist(meanwhile)
            self._listed[entry.header.user] = resident
            self._measure()
        return resident

    def drop(self, user: str) -> None:
        """Unlist the user's entry, if there is one."""
        with self._lock:
            entry = self._listed.get(user)
            if entry is not None:
                self._unlist(entry)

    def _fill(self, pages: NDArray[np.int32], payload: NDArray[np.uint8]) -> None:
        """Copy `payload` [n, page_bytes] into `pages`, which are in no list and in no entry."""
        if self.tensor.device.type == "cpu":
            self.tensor.numpy()[pages] = payload
            return
        # one copy over the bus, from page-locked memory, then into place
        host = torch.empty(payload.shape, dtype=torch.uint8, pin_memory=True)
        np.copyto(host.numpy(), payload)
        at = torch.from_numpy(pages).to(self.tensor.device, torch.int64)
        self.tensor.index_copy_(0, at, host.to(self.tensor.device))

    def _victims(self, wanted: int, former: ResidentEntry | None) -> list[ResidentEntry]:
        """Entries to evict so that `wanted` pages are free once `former` has gone."""
        room = self._free_count
        if former is not None and not former.pins:
            room += len(former.pages)
        victims = []
        for entry in self._listed.values():
            if room >= wanted:
                break
            if entry is not former and not entry.pins:
                victims.append(entry)
                room += len(entry.pages)
        if room < wanted:
            raise QueueFullError(
                f"device cache: {self._page_count - room} of {self._page_count} pages are held by "
                f"requests under way, an entry wants {wanted}",
                _RETRY_DELAY_S,
            )
        return victims

    def _unlist(self, entry: ResidentEntry) -> None:
        del self._listed[entry.header.user]
        entry.listed = False
        self._free_if_unused(entry)
        self._measure()

    def _free_if_unused(self, entry: ResidentEntry) -> None:
        if not entry.listed and not entry.pins:
            after = self._free_count + len(entry.pages)
            self._free[self._free_count : after] = entry.pages
            self._free_count = after
            self._measure()

    def _measure(self) -> None:
        used = self._page_count - self._free_count
        RESIDENT_ENTRIES.set(len(self._listed))
        RESIDENT_BYTES.set(used * self._layout.page_bytes)

    def _require_room(self, tokens: int) -> None:
        if self._layout.page_count(tokens) > self._page_count:
            raise SettingsError(
                f"CROSSKV_CROSSING_CACHE_BYTES: room for {self._page_count} pages of "
                f"{self._layout.page_bytes} bytes holds no entry of {tokens} tokens; set it to at "
                f"least {self._layout.payload_bytes(tokens)}"
            )
