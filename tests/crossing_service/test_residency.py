"""Leases: hits, shared trips, freshness, and every entry that must not be scored."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from crossing_service.residency import Lease, Source
from shared.errors import (
    DeadlineExceededError,
    KVMissError,
    MissCause,
    QueueFullError,
    StoreUnavailableError,
)
from shared.rpc.deadline import Deadline
from tests.crossing_service.house import FINGERPRINT, House

FOREVER = Deadline.after(None)


async def acquire(house: House, user: str = "u", min_version: int = 0) -> Lease:
    """A lease that has ended already: for what it says."""
    lease = await house.residency.acquire(user, min_version, FOREVER)
    lease.release()
    return lease


async def miss(house: House, user: str = "u", min_version: int = 0) -> MissCause:
    with pytest.raises(KVMissError) as raised:
        await acquire(house, user, min_version)
    return raised.value.cause


async def begun(count: int = 1) -> None:
    """Let tasks that were just made run until they wait."""
    for _ in range(4 + count):
        await asyncio.sleep(0)


async def test_an_entry_is_fetched_once_and_then_found_on_the_device() -> None:
    house = House()
    await house.publish("u", tokens=37, version=9)
    first = await acquire(house)
    assert first.source is Source.STORE
    assert (first.entry.header.history_version, first.entry.header.tokens) == (9, 37)
    payload = house.codec.decode("u", house.value("u", 37, 9)).payload
    assert (house.arena.tensor[first.entry.pages.tolist()].numpy() == payload).all()
    second = await acquire(house)
    assert second.source is Source.DEVICE
    assert second.entry is first.entry
    assert (house.store.gets, house.store.checks) == (1, 0)


async def test_concurrent_requests_share_one_fetch() -> None:
    house = House()
    await house.publish("u")
    await house.publish("v")
    house.store.gate.clear()
    tasks = [asyncio.create_task(acquire(house, user)) for user in "uuuvu"]
    await begun()
    house.store.gate.set()
    leases = await asyncio.gather(*tasks)
    assert house.store.gets == 2
    assert {lease.source for lease in leases} == {Source.STORE}
    assert len({lease.entry for lease in leases}) == 2
    assert [lease.entry.pins for lease in leases] == [0] * 5


async def test_concurrent_misses_of_nobody_fetch_once_and_all_miss() -> None:
    house = House()
    house.store.gate.clear()
    tasks = [asyncio.create_task(miss(house)) for _ in range(3)]
    await begun()
    house.store.gate.set()
    assert await asyncio.gather(*tasks) == [MissCause.ABSENT] * 3
    assert house.store.gets == 1


async def test_a_cancelled_request_does_not_stop_the_fetch_of_others() -> None:
    house = House()
    await house.publish("u")
    house.store.gate.clear()
    first, second = (asyncio.create_task(acquire(house)) for _ in range(2))
    await begun()
    first.cancel()
    await begun()
    assert first.cancelled()
    house.store.gate.set()
    lease = await second
    assert house.store.gets == 1
    assert lease.entry.pins == 0


async def abandoned_fetch(house: House) -> None:
    """A trip under way, its answer held back, whose only caller has gone."""
    house.store.gate.clear()
    task = asyncio.create_task(acquire(house))
    await begun()
    task.cancel()
    await begun()


async def test_a_fetch_that_everyone_left_still_fills_the_cache() -> None:
    house = House()
    await house.publish("u")
    await abandoned_fetch(house)
    [trip] = house.residency._trips.values()
    house.store.gate.set()
    entry = (await trip.task).entry
    await begun()
    assert entry.pins == 0
    assert (await acquire(house)).source is Source.DEVICE
    assert house.store.gets == 1


async def test_a_failed_fetch_that_everyone_left_is_forgotten() -> None:
    house = House()
    await abandoned_fetch(house)
    house.store.gate.set()
    await begun(10)
    await house.publish("u")
    assert (await acquire(house)).source is Source.STORE


async def test_each_request_waits_with_its_own_deadline() -> None:
    house = House()
    await house.publish("u")
    house.store.gate.clear()
    patient = asyncio.create_task(acquire(house))
    await begun()
    with pytest.raises(StoreUnavailableError, match="the store did not answer within"):
        await house.residency.acquire("u", 0, Deadline.after(0.2))
    assert not patient.done()
    house.store.gate.set()
    assert (await patient).source is Source.STORE
    assert house.store.gets == 1


async def test_no_trip_begins_once_the_deadline_has_passed() -> None:
    house = House()
    await house.publish("u")
    with pytest.raises(DeadlineExceededError):
        await house.residency.acquire("u", 0, Deadline.after(-1))
    assert house.store.gets == 0


async def test_the_store_is_asked_again_after_revalidate_s_only() -> None:
    house = House(revalidate_s=30)
    await house.publish("u")
    await acquire(house)
    house.clock.now += 29.9
    await acquire(house)
    assert house.store.checks == 0
    house.clock.now += 0.1
    lease = await acquire(house)
    assert lease.source is Source.DEVICE
    assert (house.store.gets, house.store.checks) == (1, 1)
    house.clock.now += 29.9
    await acquire(house)
    assert (house.store.gets, house.store.checks) == (1, 1)


async def test_freshness_counts_from_the_question_not_from_the_answer() -> None:
    house = House(revalidate_s=30)
    await house.publish("u")
    house.store.gate.clear()
    task = asyncio.create_task(acquire(house))
    await begun()
    house.clock.now += 25
    house.store.gate.set()
    await task
    house.clock.now += 5
    house.store.gate.clear()
    task = asyncio.create_task(acquire(house))
    await begun()
    house.clock.now += 25
    house.store.gate.set()
    await task
    assert house.store.checks == 1
    house.clock.now += 5
    await acquire(house)
    assert house.store.checks == 2


async def test_a_newer_entry_replaces_the_resident_one() -> None:
    house = House()
    await house.publish("u", version=7)
    await acquire(house)
    await house.publish("u", tokens=40, version=8)
    assert (await acquire(house)).entry.header.history_version == 7
    house.clock.now += 31
    lease = await acquire(house)
    assert lease.source is Source.STORE
    assert (lease.entry.header.history_version, lease.entry.header.tokens) == (8, 40)


async def test_an_entry_of_the_same_version_and_size_but_other_bytes_replaces_too() -> None:
    house = House()
    await house.publish("u")
    await acquire(house)
    entry = house.codec.decode("u", house.value("u"))
    payload = entry.payload.copy()
    payload[0, 0] ^= 1
    value = house.codec.encode(entry.header, payload)
    house.store.corrupt("u", value)
    house.clock.now += 31
    lease = await acquire(house)
    assert lease.source is Source.STORE
    assert house.arena.tensor[lease.entry.pages[0], 0] == payload[0, 0]


async def test_a_delete_is_seen() -> None:
    house = House()
    await house.publish("u")
    await acquire(house)
    await house.store.delete("u")
    house.clock.now += 31
    assert await miss(house) is MissCause.ABSENT
    assert house.arena.find("u") is None


async def test_a_wanted_version_is_fetched_at_once() -> None:
    house = House()
    await house.publish("u", version=7)
    await acquire(house)
    await house.publish("u", version=8)
    lease = await acquire(house, min_version=8)
    assert lease.entry.header.history_version == 8


async def test_a_wanted_version_that_is_nowhere_is_a_miss_after_one_question() -> None:
    house = House()
    await house.publish("u", version=7)
    assert await miss(house, min_version=8) is MissCause.TOO_OLD
    assert (house.store.gets, house.store.checks) == (1, 0)
    assert await miss(house, min_version=8) is MissCause.TOO_OLD
    assert (house.store.gets, house.store.checks) == (1, 1)
    lease = await acquire(house, min_version=7)
    assert lease.source is Source.DEVICE
    assert lease.entry.pins == 0
    assert house.store.checks == 1


@pytest.mark.parametrize("older", [False, True], ids=["absent", "older"])
async def test_a_wanted_version_is_not_denied_by_a_fetch_that_set_out_before_it(
    older: bool,
) -> None:
    house = House()
    if older:
        await house.publish("u", version=7)
    house.store.gate.clear()
    early = asyncio.create_task(house.residency.acquire("u", 0, FOREVER))
    await begun()
    await house.publish("u", version=8)
    late = [asyncio.create_task(acquire(house, min_version=8)) for _ in range(2)]
    await begun()
    house.store.gate.set()
    for lease in await asyncio.gather(*late):
        assert lease.entry.header.history_version == 8
    assert (house.store.gets, house.store.checks) == (2, int(older))
    if older:
        lease = await early
        assert lease.entry.header.history_version == 7  # still pinned, though replaced
        assert lease.entry.pins == 1
        lease.release()
        lease.release()
        assert lease.entry.pins == 0
    else:
        with pytest.raises(KVMissError):
            await early


async def test_the_store_is_down() -> None:
    house = House()
    await house.publish("u")
    await acquire(house)
    house.store.failure = StoreUnavailableError("down")
    assert (await acquire(house)).source is Source.DEVICE
    house.clock.now += 31
    with pytest.raises(StoreUnavailableError):
        await acquire(house)
    with pytest.raises(StoreUnavailableError):
        await acquire(house, "v")
    house.store.failure = None
    assert (await acquire(house)).source is Source.DEVICE  # it was kept, and is confirmed


def flip(value: bytes) -> bytes:
    return value[:-100] + bytes([value[-100] ^ 4]) + value[-99:]


BAD_VALUES: dict[MissCause, Callable[[House], bytes]] = {
    MissCause.MALFORMED: lambda house: b"garbage",
    MissCause.UNKNOWN_FORMAT: lambda house: house.value("u")[:5] + b"\x63" + house.value("u")[6:],
    MissCause.WRONG_SIZE: lambda house: house.value("u")[:-16],
    MissCause.BAD_DIGEST: lambda house: flip(house.value("u")),
    MissCause.FOREIGN_USER: lambda house: house.value("v"),
    MissCause.FOREIGN_FINGERPRINT: lambda house: house.value("u").replace(
        bytes.fromhex(FINGERPRINT), bytes(16)
    ),
    MissCause.OVERSIZED: lambda house: house.value("u", 200) * 2,
    MissCause.INDEX_OUT_OF_RANGE: lambda house: House(pool_rows=2000).value("u"),
}


@pytest.mark.parametrize("cause", BAD_VALUES)
@pytest.mark.parametrize("resident", [False, True], ids=["first", "after a good one"])
async def test_what_cannot_be_proven_is_a_miss_and_leaves_nothing(
    cause: MissCause, resident: bool
) -> None:
    house = House()
    if resident:
        await house.publish("u", tokens=20)
        await acquire(house)
        house.clock.now += 31
    house.store.corrupt("u", BAD_VALUES[cause](house))
    assert await miss(house) is cause
    assert house.arena.find("u") is None
    await house.publish("u")
    house.store.corrupt("u", house.value("u"))
    assert (await acquire(house)).source is Source.STORE


async def test_an_entry_is_proven_and_copied_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = House()
    await house.publish("u")
    threads: list[int] = []

    def noted(method: Callable[..., Any]) -> Callable[..., Any]:
        def note(*arguments: Any) -> Any:
            threads.append(threading.get_ident())
            return method(*arguments)

        return note

    monkeypatch.setattr(house.codec, "decode", noted(house.codec.decode))
    monkeypatch.setattr(house.arena, "insert", noted(house.arena.insert))
    await acquire(house)
    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_of_a_value_too_long_for_an_entry_no_more_is_read_than_proves_it() -> None:
    house = House()
    house.store.corrupt("u", house.value("u") + bytes(10 * house.codec.max_bytes))
    assert await miss(house) is MissCause.OVERSIZED
    assert house.store.longest == house.codec.max_bytes + 1


async def test_no_room_while_all_is_read() -> None:
    house = House(cache_pages=3)
    await house.publish("u", tokens=48)
    await house.publish("v", tokens=48)
    lease = await house.residency.acquire("u", 0, FOREVER)
    held = r"^device cache: 3 of 3 pages are held by requests under way, an entry wants 3; retry"
    with pytest.raises(QueueFullError, match=held):
        await acquire(house, "v")
    lease.release()
    assert (await acquire(house, "v")).source is Source.STORE
    assert house.arena.find("u") is None


async def test_what_a_trip_brought_stays_until_all_who_joined_have_it() -> None:
    house = House(cache_pages=2)
    await house.publish("u", tokens=32)
    house.store.gate.clear()
    tasks = [asyncio.create_task(house.residency.acquire("u", 0, FOREVER)) for _ in range(2)]
    await begun()
    refused = []

    def crowd_out(_: object) -> None:  # after the trip has ended, before its waiters wake
        try:
            house.reside("v", tokens=32)
        except QueueFullError as error:
            refused.append(error)

    house.residency._trips["u"].task.add_done_callback(crowd_out)
    house.store.gate.set()
    first, second = await asyncio.gather(*tasks)
    assert len(refused) == 1
    assert first.entry is second.entry
    assert first.entry.pins == 2
    first.release()
    with pytest.raises(QueueFullError):
        house.reside("v", tokens=32)
    second.release()
    house.reside("v", tokens=32)


async def test_close_breaks_off_what_is_under_way() -> None:
    house = House()
    await house.publish("u")
    await abandoned_fetch(house)
    await house.residency.close()
    house.store.gate.set()
    await begun(10)
    assert house.arena.find("u") is None
