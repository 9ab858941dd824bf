"""Replays ranking cases through the client: every history encoded, then every case scored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress, TaskID

from ranking_client import Actions, RankingClient, Scores
from training.cases import TASKS, RankingCase

Reply = TypeVar("Reply")


@dataclass(frozen=True)
class Replay:
    """What came back for each case, in their order."""

    scores: list[NDArray[np.float32]]
    """[tasks, candidates] each, tasks as in `TASKS`."""
    tokens: NDArray[np.int64]
    """Actions in each stored entry."""
    stored_bytes: NDArray[np.int64]
    encode_ms: NDArray[np.float64]
    """From the call to its reply, waiting behind other calls in flight included."""
    score_ms: NDArray[np.float64]
    seconds: float
    """Both phases together."""


async def replay(
    client: RankingClient, cases: Sequence[RankingCase], concurrency: int, progress: Progress
) -> Replay:
    """Encode all, then score all, `concurrency` calls in flight: so a score's latency holds no
    encode, and its entry comes from the store.
    """
    bars = [
        progress.add_task(what, total=len(cases))
        for what in ("encoding histories", "scoring candidates")
    ]
    started = time.perf_counter()
    receipts, encode_ms = await _timed(
        [partial(client.encode, case.user, history_of(case)) for case in cases],
        concurrency,
        progress,
        bars[0],
    )
    replies, score_ms = await _timed(
        [
            partial(client.score, case.user, case.candidate_ids, request_time_s=case.request_time_s)
            for case in cases
        ],
        concurrency,
        progress,
        bars[1],
    )
    seconds = time.perf_counter() - started
    return Replay(
        [task_scores(reply) for reply in replies],
        np.array([receipt.tokens for receipt in receipts], np.int64),
        np.array([receipt.stored_bytes for receipt in receipts], np.int64),
        encode_ms,
        score_ms,
        seconds,
    )


def history_of(case: RankingCase) -> Actions:
    """The case's history as the client sends it."""
    return Actions(case.item_ids, case.action_types.astype(np.uint32), case.times_s)


def task_scores(reply: Scores) -> NDArray[np.float32]:
    """A reply's scores [tasks, candidates], tasks as in `TASKS`."""
    return np.stack([reply.by_task[task] for task in TASKS])


async def _timed(
    calls: Sequence[Callable[[], Coroutine[Any, Any, Reply]]],
    concurrency: int,
    progress: Progress,
    bar: TaskID,
) -> tuple[list[Reply], NDArray[np.float64]]:
    """Replies and milliseconds of every call, in order; the first failure ends all."""
    replies: dict[int, Reply] = {}
    took_ms = np.zeros(len(calls))
    waiting = iter(enumerate(calls))

    async def worker() -> None:
        for number, call in waiting:  # the workers share one iterator
            began = time.perf_counter()
            replies[number] = await call()
            took_ms[number] = (time.perf_counter() - began) * 1e3
            progress.advance(bar)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    except BaseExceptionGroup as failures:  # the others were cancelled because of the first
        raise failures.exceptions[0] from failures
    return [replies[number] for number in range(len(calls))], took_ms
