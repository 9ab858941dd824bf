"""Training runs side by side, a process a core and one thread each, with a progress bar."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from queue import Queue
from threading import Event
from typing import TypeAlias

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from shared.model.checkpoint import load_checkpoint, save_checkpoint
from training.evaluation import TaskMetrics, evaluate
from training.movielens import load_movielens
from training.trainer import Recipe, train
from training.variants import Variant

THREADS = 1
"""A job: two jobs of one thread each beat one of two on matrices this small."""

_POLL_S = 0.5


@dataclass(frozen=True)
class Job:
    """One training run."""

    variant: Variant
    seed: int
    recipe: Recipe
    data: Path | None
    """As for `load_movielens`."""
    directory: Path
    """Where its checkpoint goes."""

    @property
    def name(self) -> str:
        """Variant and seed."""
        return f"{self.variant}-{self.seed}"


@dataclass(frozen=True)
class JobResult:
    """What came of it, measured on the test cases with the checkpoint read back from disk."""

    job: Job
    metrics: dict[str, TaskMetrics]
    validation_auc: float
    epoch: int
    """After how many epochs the kept weights were reached."""
    fingerprint: str
    wall_s: float


Events: TypeAlias = "Queue[tuple[str, int]]"
"""Name of a job and how many epochs it has done."""


class StoppedError(Exception):
    """The study was given up while this job ran."""


def run_job(job: Job, events: Events, stop: Event) -> JobResult:
    """Train, save, load and evaluate.

    Raises:
        StoppedError: `stop` was set; it is looked at after every epoch.
    """

    def report(epoch: int) -> None:
        if stop.is_set():
            raise StoppedError(job.name)
        events.put((job.name, epoch))

    began = time.monotonic()
    report(0)
    data = load_movielens(job.data)
    trained = train(data, job.variant, job.seed, job.recipe, report)
    fingerprint = save_checkpoint(job.directory, trained.ranker, data.item_ids)
    cases = job.variant.cases(job.variant.sampler(data, job.seed).test_cases())
    metrics = evaluate(load_checkpoint(job.directory), cases)
    wall_s = time.monotonic() - began
    return JobResult(job, metrics, trained.validation_auc, trained.epoch, fingerprint, wall_s)


def run_jobs(jobs: list[Job], console: Console) -> list[JobResult]:
    """Run all; results in the order of `jobs`. The first failure ends the rest."""
    processes = get_context("spawn")
    pool = ProcessPoolExecutor(
        min(len(jobs), os.cpu_count() or 1), mp_context=processes, initializer=_begin_worker
    )
    with processes.Manager() as manager, pool as executor:
        events: Events = manager.Queue()
        stop = manager.Event()
        futures = [executor.submit(run_job, job, events, stop) for job in jobs]
        try:
            _watch(futures, jobs, events, console)
        finally:
            stop.set()
            for future in futures:
                future.cancel()
        return [future.result() for future in futures]


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    torch.set_num_threads(THREADS)


def _watch(
    futures: list[Future[JobResult]], jobs: list[Job], events: Events, console: Console
) -> None:
    """Show progress until every future is done; raises what the first failed one raised."""
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %")
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        every = progress.add_task("", total=sum(job.recipe.epochs for job in jobs))
        epochs = {job.name: 0 for job in jobs}
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            for future in done:
                job = future.result().job
                epochs[job.name] = job.recipe.epochs  # early stopping leaves some out
            while not events.empty():
                name, epoch = events.get()
                epochs[name] = max(epochs[name], epoch)
            _show(progress, every, epochs, len(jobs) - len(pending), len(jobs))


def _show(
    progress: Progress, every: TaskID, epochs: dict[str, int], finished: int, jobs: int
) -> None:
    total = sum(epochs.values())
    progress.update(
        every, completed=total, description=f"training: {finished} of {jobs} runs, {total} epochs"
    )
