"""The arena against a plain model of it, under random use."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prometheus_client import REGISTRY

from crossing_service.arena import Arena, ResidentEntry
from shared.errors import QueueFullError
from shared.kv.codec import Entry, EntryHeader
from shared.kv.layout import EntryLayout
from shared.settings import SettingsError
from tests.tiny_model import tiny_config

LAYOUT = EntryLayout(tiny_config(router="tied"))
PAGES = 8
USERS = "abcde"


def small_arena(pages: int = PAGES, **changes: int) -> Arena:
    arguments = {"cache_bytes": pages * LAYOUT.page_bytes, "max_tokens": 1, **changes}
    return Arena(LAYOUT, device="cpu", **arguments)


def entry_of(user: str, pages: int, fill: int) -> Entry:
    tokens = pages * LAYOUT.page_tokens - 3
    header = EntryHeader("00" * 16, user, tokens, 0, 1, 0)
    payload = np.full((pages, LAYOUT.page_bytes), fill, np.uint8)
    payload[:, 0] = np.arange(pages)  # so that a wrong page order shows
    return Entry(header, payload, b"header")


def insert(arena: Arena, user: str, pages: int, fill: int = 1) -> ResidentEntry:
    entry = arena.insert(entry_of(user, pages, fill), 0.0)
    assert entry.pins == 1
    arena.unpin(entry)
    return entry


def evictions() -> float:
    return REGISTRY.get_sample_value("crosskv_crossing_evictions_total") or 0.0


class ArenaMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.arena = small_arena()
        self.listed: OrderedDict[str, ResidentEntry] = OrderedDict()
        self.pinned: list[ResidentEntry] = []
        self.gone: list[ResidentEntry] = []
        self.fills: dict[ResidentEntry, int] = {}
        self.next_fill = 0

    @property
    def live(self) -> set[ResidentEntry]:
        return {*self.listed.values(), *self.pinned}

    def unlist(self, user: str) -> None:
        self.gone.append(self.listed.pop(user))

    @rule(user=st.sampled_from(USERS), pages=st.integers(1, 5))
    def insert(self, user: str, pages: int) -> None:
        self.next_fill = self.next_fill % 250 + 1
        room = PAGES - sum(len(entry.pages) for entry in self.live)
        former = self.listed.get(user)
        if former is not None and former not in self.pinned:
            room += len(former.pages)
        victims = []
        for other, entry in self.listed.items():
            if room < pages and other != user and entry not in self.pinned:
                victims.append(other)
                room += len(entry.pages)
        before = evictions()
        if room < pages:
            with pytest.raises(QueueFullError, match="device cache"):
                insert(self.arena, user, pages, self.next_fill)
            assert evictions() == before
            return
        new = insert(self.arena, user, pages, self.next_fill)
        assert evictions() - before == len(victims)
        for other in victims:
            self.unlist(other)
        if former is not None:
            self.unlist(user)
        self.listed[user] = new
        self.fills[new] = self.next_fill

    @rule(user=st.sampled_from(USERS))
    def find(self, user: str) -> None:
        assert self.arena.find(user) is self.listed.get(user)
        if user in self.listed:
            self.listed.move_to_end(user)

    @rule(user=st.sampled_from(USERS))
    def drop(self, user: str) -> None:
        self.arena.drop(user)
        if user in self.listed:
            self.unlist(user)

    @precondition(lambda self: self.fills)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(list(self.fills)))
        pinned = self.arena.pin(entry)
        assert pinned == (entry in self.live)
        if pinned:
            self.pinned.append(entry)

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.pinned) - 1))
        self.arena.unpin(self.pinned.pop(at))

    @invariant()
    def pages_belong_to_one_entry_and_keep_its_bytes(self) -> None:
        used = [page for entry in self.live for page in entry.pages]
        assert len(set(used)) == len(used)
        for entry in self.live:
            mine = self.arena.tensor[entry.pages.tolist()].numpy()
            expected = entry_of("x", len(entry.pages), self.fills[entry]).payload
            np.testing.assert_array_equal(mine, expected)

    @invariant()
    def metrics_tell_what_is_used(self) -> None:
        if not self.fills:
            return
        used = sum(len(entry.pages) for entry in self.live)
        resident = REGISTRY.get_sample_value("crosskv_crossing_resident_bytes")
        assert resident == used * LAYOUT.page_bytes
        assert REGISTRY.get_sample_value("crosskv_crossing_resident_entries") == len(self.listed)


ArenaMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestArenaMachine = ArenaMachine.TestCase


def test_least_recently_found_leaves_first() -> None:
    arena = small_arena(3)
    for user in "abc":
        insert(arena, user, 1)
    arena.find("a")
    insert(arena, "d", 1)
    assert [user for user in "abcd" if arena.find(user)] == ["a", "c", "d"]


def test_a_batch_keeps_the_pages_of_an_entry_that_was_replaced() -> None:
    arena = small_arena(2)
    old = insert(arena, "a", 1, fill=5)
    arena.pin(old)
    new = insert(arena, "a", 1, fill=6)
    assert arena.find("a") is new
    with pytest.raises(QueueFullError):
        insert(arena, "b", 2)  # the old page is still read
    assert arena.tensor[old.pages.tolist(), 1:].unique().tolist() == [5]
    arena.unpin(old)
    insert(arena, "b", 2)


def test_threads_that_insert_and_let_go_leave_every_page_whole() -> None:
    """Twelve threads in four entries' room, all over each other's users."""
    arena = small_arena(8)

    def churn(number: int) -> int:
        refused = 0
        for turn in range(200):
            try:
                entry = arena.insert(entry_of(USERS[(number + turn) % 5], 2, number), 0.0)
            except QueueFullError:
                refused += 1
                continue
            assert set(arena.tensor[entry.pages.tolist(), 1:].unique().tolist()) == {number}
            arena.unpin(entry)
        return refused

    with ThreadPoolExecutor(12) as threads:
        refused = sum(threads.map(churn, range(12)))
    assert refused < 12 * 200
    for user in USERS:
        arena.drop(user)
    insert(arena, "a", 8)  # nobody keeps a page


def test_budget_below_one_page_of_slack_is_kept() -> None:
    arena = small_arena(cache_bytes=3 * LAYOUT.page_bytes - 1)
    assert arena.tensor.nbytes == 2 * LAYOUT.page_bytes


def test_a_cache_too_small_for_the_longest_history_is_refused() -> None:
    longest = 2 * LAYOUT.page_tokens + 1
    wanted = rf"CROSSKV_CROSSING_CACHE_BYTES.*at least {3 * LAYOUT.page_bytes}"
    with pytest.raises(SettingsError, match=wanted):
        small_arena(2, max_tokens=longest)
    with pytest.raises(SettingsError, match=wanted):
        insert(small_arena(2), "a", 3)
    small_arena(3, max_tokens=longest)
