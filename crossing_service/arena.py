"""The device side of KV entries: one tensor of pages, filled and reused by least recent use.

An entry takes whole pages, anywhere. Readers find them through its page list and read as many
tokens as its header says: a reused page needs no clearing. Bookkeeping is under one lock, because
requests pin entries on the event loop and batches pin them on the worker thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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

    def stage(self, payload: NDArray[np.uint8]) -> Tensor:
        """Copy an entry's payload [n, page_bytes] to the device; safe on any thread.

        On an accelerator this is the entry's one copy over the bus, from page-locked memory.
        """
        host = torch.empty(
            payload.shape, dtype=torch.uint8, pin_memory=self.tensor.device.type == "cuda"
        )
        np.copyto(host.numpy(), payload)
        return host.to(self.tensor.device)

    def insert(self, entry: Entry, staged: Tensor, checked_s: float) -> ResidentEntry:
        """Give the entry pages and list it in place of its user's former one.

        Entries that nobody has pinned make room, the least recently used first.

        Raises:
            QueueFullError: what is pinned leaves no room now; nothing has changed.
            SettingsError: it could never fit.
        """
        self._require_room(entry.header.tokens)
        with self._lock:
            former = self._listed.get(entry.header.user)
            for victim in self._victims(len(staged), former):
                self._unlist(victim)
                EVICTIONS.inc()
            if former is not None:
                self._unlist(former)
            self._free_count -= len(staged)
            pages = self._free[self._free_count : self._free_count + len(staged)].copy()
        # these pages are in no list and in no entry, so nothing reads or takes them
        at = torch.from_numpy(pages).to(self.tensor.device, torch.int64)
        self.tensor.index_copy_(0, at, staged)
        resident = ResidentEntry(entry.header, entry.header_bytes, pages, checked_s)
        with self._lock:
            self._listed[entry.header.user] = resident
            self._measure()
        return resident

    def drop(self, user: str) -> None:
        """Unlist the user's entry, if there is one."""
        with self._lock:
            entry = self._listed.get(user)
            if entry is not None:
                self._unlist(entry)

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
            pinned = sum(1 for entry in self._listed.values() if entry.pins)
            raise QueueFullError("device cache", pinned, _RETRY_DELAY_S)
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
