"""Micro-batches: what queued while the last batch ran forms the next one.

An idle batcher starts a lone piece of work at once, so batching never adds waiting; under load the
batches grow by themselves. One batch runs at a time, on one worker thread.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

from shared.errors import DeadlineExceededError, QueueFullError
from shared.metrics import BATCH_COST, BATCH_SIZE, QUEUE_DEPTH, STAGE_SECONDS
from shared.rpc.deadline import Deadline

Work = TypeVar("Work")
Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class _Pending(Generic[Work, Result]):
    work: Work
    deadline: Deadline
    result: asyncio.Future[Result]
    since: float


class Batcher(Generic[Work, Result]):
    """Runs `run(list of work) -> list of results`, one a piece of work, in the same order.

    A result that is an exception is raised to the submitter of that piece alone; an exception from
    `run` itself fails the whole batch. To be used from one event loop.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[list[Work]], Sequence[Result | Exception]],
        *,
        cost: Callable[[Work], int],
        max_batch_cost: int,
        max_queue: int,
    ) -> None:
        """`cost` of a batch stays within `max_batch_cost`, unless one piece alone exceeds it."""
        self._name = name
        self._run = run
        self._cost = cost
        self._max_batch_cost = max_batch_cost
        self._max_queue = max_queue
        self._queue: deque[_Pending[Work, Result]] = deque()
        self._loop = asyncio.get_running_loop()
        # A bare thread and queue: an executor's futures wake both threads more often, and a thread
        # hand-over is the largest part of what a call costs beside gRPC (`crosskv bench rpc`).
        self._handover: SimpleQueue[list[_Pending[Work, Result]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._running = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._last_batch_s = 0.05
        self._depth = QUEUE_DEPTH.labels(name)
        self._batch_size = BATCH_SIZE.labels(name)
        self._batch_cost = BATCH_COST.labels(name)
        self._wait_seconds = STAGE_SECONDS.labels(f"{name}_queue")
        self._run_seconds = STAGE_SECONDS.labels(f"{name}_run")
        self._thread.start()

    async def submit(self, work: Work, deadline: Deadline) -> Result:
        """Run `work` in the next batch; cancelling takes it out of the queue.

        Raises:
            QueueFullError: too much work waits already.
            DeadlineExceededError: the deadline passed before its batch began.
            RuntimeError: `close` was called before: a server ends its calls first.
        """
        if self._closing:
            raise RuntimeError(f"{self._name}: work after close")
        deadline.check(self._name)
        if len(self._queue) >= self._max_queue:
            raise QueueFullError(
                f"{self._name} queue is full ({self._max_queue} waiting)", self._last_batch_s
            )
        result: asyncio.Future[Result] = self._loop.create_future()
        pending = _Pending(work, deadline, result, time.perf_counter())
        self._queue.append(pending)
        self._depth.set(len(self._queue))
        if not self._running:
            # at the end of this turn of the loop, so that calls read from the socket together
            # share a batch and its one hand-over
            self._running = True
            self._idle.clear()
            self._loop.call_soon(self._start_batch)
        try:
            return await result
        except asyncio.CancelledError:
            if pending in self._queue:
                self._queue.remove(pending)
            raise

    async def close(self) -> None:
        """Take no new work, finish what is queued, and end the thread."""
        self._closing = True
        await self._idle.wait()
        self._handover.put(None)
        # A thread that used torch and is still alive when the interpreter ends aborts the process.
        self._thread.join()

    def _start_batch(self) -> None:
        batch = self._take_batch()
        self._running = bool(batch)
        if not batch:
            self._idle.set()
            return
        started = time.perf_counter()
        for pending in batch:
            self._wait_seconds.observe(started - pending.since)
        # last, so that this thread soon sleeps and the other need not wait for the interpreter
        self._handover.put(batch)

    def _work(self) -> None:
        """The worker thread."""
        while (batch := self._handover.get()) is not None:
            started = time.perf_counter()
            outcome: Sequence[Result | Exception]
            try:
                outcome = self._run([pending.work for pending in batch])
                if len(outcome) != len(batch):
                    raise RuntimeError(f"{self._name}: {len(outcome)} results for {len(batch)}")
            except Exception as error:
                outcome = [error] * len(batch)
            seconds = time.perf_counter() - started
            self._loop.call_soon_threadsafe(self._finish, batch, outcome, seconds)

    def _take_batch(self) -> list[_Pending[Work, Result]]:
        batch: list[_Pending[Work, Result]] = []
        total = 0
        while self._queue:
            pending = self._queue[0]
            if pending.deadline.passed:
                self._queue.popleft()
                if not pending.result.done():
                    pending.result.set_exception(
                        DeadlineExceededError(
                            f"the deadline passed in the {self._name} queue; nothing was done"
                        )
                    )
                continue
            cost = self._cost(pending.work)
            if batch and total + cost > self._max_batch_cost:
                break
            total += cost
            batch.append(self._queue.popleft())
        self._depth.set(len(self._queue))
        if batch:
            self._batch_size.observe(len(batch))
            self._batch_cost.observe(total)
        return batch

    def _finish(
        self,
        batch: list[_Pending[Work, Result]],
        results: Sequence[Result | Exception],
        seconds: float,
    ) -> None:
        self._last_batch_s = seconds
        self._run_seconds.observe(seconds)
        for pending, result in zip(batch, results, strict=True):
            if pending.result.done():  # its submitter has gone
                continue
            if isinstance(result, Exception):
                pending.result.set_exception(result)
            else:
                pending.result.set_result(result)
        self._start_batch()
