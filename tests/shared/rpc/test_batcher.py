"""Micro-batches: no waiting when idle, growth under load, limits, deadlines, cancellation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from shared.errors import DeadlineExceededError, QueueFullError
from shared.rpc.batcher import Batcher
from shared.rpc.deadline import Deadline

NEVER = Deadline.after(None)


class Gate:
    """A `run` whose batches wait until they are let through; remembers every batch."""

    def __init__(self, fail: Callable[[int], bool] = lambda _: False) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Semaphore(0)
        self.fail = fail

    def __call__(self, batch: list[int]) -> list[int | Exception]:
        self.batches.append(batch)
        self.open.acquire(timeout=10)
        return [ValueError(str(work)) if self.fail(work) else work * 10 for work in batch]


def batcher(run: Callable[[list[int]], list[int | Exception]], **limits: int) -> Batcher[int, int]:
    return Batcher(
        "test",
        run,
        cost=lambda work: work,
        max_batch_cost=limits.get("max_batch_cost", 100),
        max_queue=limits.get("max_queue", 100),
    )


async def queued(subject: Batcher[int, int], *works: int) -> list[asyncio.Task[int]]:
    """The first work starts a batch, unless one runs; the others queue behind it."""
    tasks = []
    for work in works:
        tasks.append(asyncio.create_task(subject.submit(work, NEVER)))
        for _ in range(2):  # one turn to submit, one to start the batch
            await asyncio.sleep(0)
    return tasks


async def test_lone_work_starts_at_once_and_what_queues_meanwhile_is_one_batch() -> None:
    gate = Gate()
    subject = batcher(gate)
    tasks = await queued(subject, 1, 2, 3, 4)
    for _ in range(2):
        gate.open.release()
    assert await asyncio.gather(*tasks) == [10, 20, 30, 40]
    assert gate.batches == [[1], [2, 3, 4]]
    await subject.close()


async def test_what_comes_in_one_turn_of_the_loop_is_one_batch() -> None:
    gate = Gate()
    subject = batcher(gate)
    tasks = [asyncio.create_task(subject.submit(work, NEVER)) for work in (1, 2, 3)]
    gate.open.release()
    assert await asyncio.gather(*tasks) == [10, 20, 30]
    assert gate.batches == [[1, 2, 3]]
    await subject.close()


async def test_a_batch_stays_within_its_cost_unless_one_piece_exceeds_it() -> None:
    gate = Gate()
    subject = batcher(gate, max_batch_cost=10)
    tasks = await queued(subject, 1, 6, 4, 1, 50, 2)
    for _ in range(5):
        gate.open.release()
    await asyncio.gather(*tasks)
    assert gate.batches == [[1], [6, 4], [1], [50], [2]]
    await subject.close()


async def test_a_full_queue_refuses_with_a_retry_delay() -> None:
    gate = Gate()
    subject = batcher(gate, max_queue=2)
    tasks = await queued(subject, 1, 2, 3)
    with pytest.raises(QueueFullError, match=r"test queue is full \(2 waiting\)") as refusal:
        await subject.submit(4, NEVER)
    assert refusal.value.retry_delay_s > 0
    gate.open.release()
    gate.open.release()
    assert await asyncio.gather(*tasks) == [10, 20, 30]
    await subject.close()


async def test_work_past_its_deadline_is_not_begun() -> None:
    gate = Gate()
    subject = batcher(gate)
    first = await queued(subject, 1)
    late = asyncio.create_task(subject.submit(2, Deadline.after(0.01)))
    await asyncio.sleep(0.05)
    gate.open.release()
    with pytest.raises(DeadlineExceededError, match="nothing was done"):
        await late
    assert await first[0] == 10
    with pytest.raises(DeadlineExceededError):
        await subject.submit(3, Deadline.after(0))
    assert gate.batches == [[1]]
    await subject.close()


async def test_cancelled_work_leaves_the_queue() -> None:
    gate = Gate()
    subject = batcher(gate, max_queue=1)
    first, second = await queued(subject, 1, 2)
    second.cancel()
    await asyncio.sleep(0)
    (third,) = await queued(subject, 3)  # there is room again
    gate.open.release()
    gate.open.release()
    assert await asyncio.gather(first, third) == [10, 30]
    assert gate.batches == [[1], [3]]
    await subject.close()


async def test_one_result_may_be_an_error_of_its_own() -> None:
    gate = Gate(fail=lambda work: work == 2)
    subject = batcher(gate)
    tasks = await queued(subject, 1, 2, 3)
    gate.open.release()
    gate.open.release()
    first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first, third) == (10, 30)
    assert isinstance(second, ValueError)
    await subject.close()


async def test_a_failing_run_fails_its_batch_and_the_next_one_runs() -> None:
    calls: list[list[int]] = []

    def run(batch: list[int]) -> list[int | Exception]:
        calls.append(batch)
        if len(calls) == 1:
            raise RuntimeError("broken")
        return list(batch)

    subject = batcher(run)
    with pytest.raises(RuntimeError, match="broken"):
        await subject.submit(1, NEVER)
    assert await subject.submit(2, NEVER) == 2
    await subject.close()


async def test_a_run_that_loses_a_result_fails_its_batch() -> None:
    subject = batcher(lambda batch: [])
    with pytest.raises(RuntimeError, match="test: 0 results for 1"):
        await subject.submit(1, NEVER)
    await subject.close()


async def test_close_finishes_what_is_queued_and_refuses_more() -> None:
    gate = Gate()
    subject = batcher(gate)
    tasks = await queued(subject, 1, 2)
    closing = asyncio.create_task(subject.close())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match=r"^test: work after close"):
        await subject.submit(3, NEVER)
    gate.open.release()
    gate.open.release()
    await closing
    assert [task.result() for task in tasks] == [10, 20]
