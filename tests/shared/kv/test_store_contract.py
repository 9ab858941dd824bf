"""What every store promises, on each implementation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from redis.asyncio import Redis

from shared.kv.codec import HEADER_LIMIT, read_header
from shared.kv.memory import MemoryStore
from shared.kv.store import KVStore, PutOutcome
from shared.kv.valkey import ValkeyStore, entry_key
from shared.settings import StoreSettings
from tests.shared.kv.entries import FINGERPRINT, OTHER_FINGERPRINT, header_of, value_of

STORED, STALE, CONFLICT = PutOutcome.STORED, PutOutcome.STALE, PutOutcome.CONFLICT

NAMES = ["a", "ab", "a*", "a?", "[a-z]*", "a}b", "{a}", "a b", "a:b", "a%2A", "ü", "é" * 128]
"""User ids that look like parts or patterns of each other; the last one is 256 bytes."""


class Bench:
    """One store, and the two things about it that its contract cannot say."""

    def __init__(
        self,
        store: KVStore,
        pass_time: Callable[[float], Awaitable[None]],
        write_raw: Callable[[str, bytes], Awaitable[None]],
    ) -> None:
        self.store = store
        self.pass_time = pass_time
        self.write_raw = write_raw


@pytest.fixture(params=["memory", "valkey"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A store whose entries live one second."""
    if request.param == "memory":
        now = [1000.0]
        memory = MemoryStore(ttl_s=1, clock=lambda: now[0])

        async def advance(seconds: float) -> None:
            now[0] += seconds

        async def write(user: str, value: bytes) -> None:
            memory._values[user, FINGERPRINT] = value, now[0] + 1000

        yield Bench(memory, advance, write)
        await memory.close()
        return
    url = request.getfixturevalue("valkey_url")
    client = Redis.from_url(url)
    await client.flushdb()

    async def write(user: str, value: bytes) -> None:
        await client.set(entry_key(user, FINGERPRINT), value)

    store = ValkeyStore.connect(
        StoreSettings(url=url, ttl_s=1, timeout_s=5, connect_timeout_s=5, max_connections=200)
    )
    yield Bench(store, asyncio.sleep, write)
    await store.close()
    await client.aclose()


async def test_put_then_get(bench: Bench) -> None:
    header = header_of()
    value = value_of(header)
    assert await bench.store.get("42", FINGERPRINT) is None
    assert await bench.store.get_header("42", FINGERPRINT) is None
    assert await bench.store.put(header, value) is STORED
    assert await bench.store.get("42", FINGERPRINT) == value
    assert await bench.store.get_header("42", FINGERPRINT) == value[:HEADER_LIMIT]
    assert await bench.store.get("42", OTHER_FINGERPRINT) is None
    assert await bench.store.get("4", FINGERPRINT) is None
    await bench.store.ping()


@pytest.mark.parametrize("limit", [1, 100, 10**6])
async def test_a_value_is_read_up_to_the_limit(bench: Bench, limit: int) -> None:
    value = value_of(header_of())
    assert await bench.store.get("42", FINGERPRINT, limit=limit) is None
    await bench.store.put(header_of(), value)
    assert 100 < len(value) < 10**6
    assert await bench.store.get("42", FINGERPRINT, limit=limit) == value[:limit]


# Byte values around 128 and in each place: an order of signed bytes, of locale or of
# little-endian numbers fails one of these.
ORDERED = [
    (0, 1),
    (1, 1),
    (1, 100),
    (127, 2),
    (128, 1),
    (255, 3),
    (256, 1),
    (0x4142, 1),
    (0x6141, 1),
    (1 << 31, 99),
    (1 << 32, 1),
    ((1 << 63) - 1, 100),
    (1 << 63, 1),
    ((1 << 64) - 1, 99),
    ((1 << 64) - 1, 100),
]


@pytest.mark.parametrize(("older", "newer"), list(pairwise(ORDERED)))
async def test_order(bench: Bench, older: tuple[int, int], newer: tuple[int, int]) -> None:
    old, new = (header_of(version=version, tokens=tokens) for version, tokens in (older, newer))
    assert old.order < new.order
    assert await bench.store.put(old, value_of(old)) is STORED
    assert await bench.store.put(new, value_of(new)) is STORED
    assert await bench.store.put(old, value_of(old)) is STALE
    assert await bench.store.get("42", FINGERPRINT) == value_of(new)


async def test_equal_order_replaces(bench: Bench) -> None:
    header = header_of()
    await bench.store.put(header, value_of(header, seed=0))
    assert await bench.store.put(header, value_of(header, seed=1)) is STORED
    assert await bench.store.get("42", FINGERPRINT) == value_of(header, seed=1)


async def test_replaces(bench: Bench) -> None:
    old, new = header_of(version=5), header_of(version=6)
    first = value_of(old)
    old_bytes = read_header(first)[1]
    assert await bench.store.put(new, value_of(new), replaces=old_bytes) is CONFLICT
    assert await bench.store.get("42", FINGERPRINT) is None
    await bench.store.put(old, first)
    assert await bench.store.put(new, value_of(new), replaces=old_bytes) is STORED
    assert await bench.store.get("42", FINGERPRINT) == value_of(new)
    assert await bench.store.put(new, value_of(new, seed=1), replaces=old_bytes) is CONFLICT
    assert await bench.store.get("42", FINGERPRINT) == value_of(new)


async def test_replaces_sees_a_change_of_the_payload_alone(bench: Bench) -> None:
    header = header_of(version=5)
    await bench.store.put(header, value_of(header, seed=0))
    seen = read_header(value_of(header, seed=0))[1]
    await bench.store.put(header, value_of(header, seed=1))
    newer = header_of(version=6)
    assert await bench.store.put(newer, value_of(newer), replaces=seen) is CONFLICT


@pytest.mark.parametrize("alien", [b"", b"x", b"\xff" * 500, b"\x99\xa4CKV\x02" + b"\xff" * 500])
async def test_what_is_no_entry_counts_as_absent(bench: Bench, alien: bytes) -> None:
    await bench.write_raw("42", alien)
    header = header_of(version=1)
    assert await bench.store.put(header, value_of(header), replaces=alien or b"x") is CONFLICT
    assert await bench.store.put(header, value_of(header)) is STORED
    assert await bench.store.get("42", FINGERPRINT) == value_of(header)


async def test_of_many_writers_the_newest_wins(bench: Bench) -> None:
    headers = [header_of(version=version) for version in range(1, 101)]
    shuffled = [headers[(index * 37) % 100] for index in range(100)]
    outcomes = await asyncio.gather(
        *(bench.store.put(header, value_of(header)) for header in shuffled)
    )
    assert await bench.store.get("42", FINGERPRINT) == value_of(headers[-1])
    assert set(outcomes) == {STORED, STALE}


async def test_of_many_replacers_one_wins(bench: Bench) -> None:
    base = header_of(version=1)
    await bench.store.put(base, value_of(base))
    seen = read_header(value_of(base))[1]
    headers = [header_of(version=2, tokens=tokens) for tokens in range(1, 51)]
    outcomes = await asyncio.gather(
        *(bench.store.put(header, value_of(header), replaces=seen) for header in headers)
    )
    assert outcomes.count(STORED) == 1
    assert outcomes.count(CONFLICT) == 49
    winner = headers[outcomes.index(STORED)]
    assert await bench.store.get("42", FINGERPRINT) == value_of(winner)


async def test_entries_expire(bench: Bench) -> None:
    header = header_of()
    await bench.store.put(header, value_of(header))
    await bench.pass_time(1.1)
    assert await bench.store.get("42", FINGERPRINT) is None
    assert await bench.store.get_header("42", FINGERPRINT) is None
    assert await bench.store.delete("42") == 0
    older = header_of(version=1)
    assert await bench.store.put(older, value_of(older)) is STORED


async def test_a_put_renews(bench: Bench) -> None:
    header = header_of()
    for _ in range(2):
        await bench.store.put(header, value_of(header))
        await bench.pass_time(0.6)
    assert await bench.store.get("42", FINGERPRINT) == value_of(header)


@pytest.mark.parametrize("user", NAMES)
async def test_delete_takes_all_of_one_user_and_nothing_else(bench: Bench, user: str) -> None:
    for name in NAMES:
        for fingerprint in (FINGERPRINT, OTHER_FINGERPRINT):
            header = header_of(user=name, tokens=1, fingerprint=fingerprint)
            await bench.store.put(header, value_of(header))
    assert await bench.store.delete(user) == 2
    for name in NAMES:
        for fingerprint in (FINGERPRINT, OTHER_FINGERPRINT):
            found = await bench.store.get(name, fingerprint)
            assert (found is None) == (name == user), name
    assert await bench.store.delete(user) == 0


async def test_large_values(bench: Bench) -> None:
    header = header_of()
    value = value_of(header) + bytes(range(256)) * (8 << 12)
    assert len(value) > 8 << 20
    assert await bench.store.put(header, value) is STORED
    assert await bench.store.get("42", FINGERPRINT) == value
    assert await bench.store.get_header("42", FINGERPRINT) == value[:HEADER_LIMIT]
    newer = replace(header, history_version=header.history_version + 1)
    assert await bench.store.put(newer, value_of(newer)) is STORED
    assert await bench.store.get("42", FINGERPRINT) == value_of(newer)
