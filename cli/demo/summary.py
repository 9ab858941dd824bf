"""What the demo measured, as `summary.json` holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cli.counted import counted
from cli.demo.replay import Replay
from cli.failure import CommandError

if TYPE_CHECKING:
    from training.cases import RankingCase
    from training.evaluation import TaskMetrics

TOLERANCE = 1e-4
"""Largest difference between a metric through the services and the same offline."""


@dataclass(frozen=True)
class TaskFigures:
    """One task's quality, through the services and in process."""

    auc: float
    gauc: float
    offline_auc: float
    offline_gauc: float


@dataclass(frozen=True)
class Summary:
    """The figures of one demo; `asdict` is `summary.json`."""

    users: int
    requests: int
    """Encodes and scores together."""
    candidates: int
    tasks: dict[str, TaskFigures]
    stored_bytes_per_user: float
    dense_bytes_per_user: float
    """The same histories as dense bf16 keys and values."""
    encode_ms_p50: float
    encode_ms_p99: float
    score_ms_p50: float
    score_ms_p99: float
    requests_per_s: float
    """Requests by the time the two measured phases took."""
    wall_s: float
    """From the start of the command to the last reply, loading and starting included."""

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def summarise(
    replay: Replay,
    *,
    dense_bytes: NDArray[np.int64],
    candidates: int,
    served: Mapping[str, TaskMetrics],
    offline: Mapping[str, TaskMetrics],
    wall_s: float,
) -> Summary:
    """Figures of `replay`.

    Args:
        replay: what came over the wire.
        dense_bytes: [users] size of each history as dense bf16 keys and values.
        candidates: how many were scored, over all users.
        served: metrics of the replayed scores.
        offline: metrics of the same cases scored in process.
        wall_s: seconds from the start of the command to the last reply.
    """
    requests = len(replay.encode_ms) + len(replay.score_ms)
    return Summary(
        users=len(replay.scores),
        requests=requests,
        candidates=candidates,
        tasks={
            task: TaskFigures(metrics.auc, metrics.gauc, offline[task].auc, offline[task].gauc)
            for task, metrics in served.items()
        },
        stored_bytes_per_user=float(replay.stored_bytes.mean()),
        dense_bytes_per_user=float(dense_bytes.mean()),
        encode_ms_p50=_percentile(replay.encode_ms, 50),
        encode_ms_p99=_percentile(replay.encode_ms, 99),
        score_ms_p50=_percentile(replay.score_ms, 50),
        score_ms_p99=_percentile(replay.score_ms, 99),
        requests_per_s=requests / replay.seconds,
        wall_s=wall_s,
    )


def require_measurable(cases: Sequence[RankingCase]) -> None:
    """Return if both tasks' metrics exist: some user has hits and misses in each.

    Raises:
        CommandError: they do not; the message names the task.
    """
    labels = {
        "watch": [case.watch for case in cases],
        "like": [case.like[case.watch] for case in cases],
    }
    for task, users in labels.items():
        if not any(user.any() and not user.all() for user in users):
            raise CommandError(
                f"{task} cannot be measured on {counted(len(cases), 'user')}: none has both a hit "
                "and a miss held out; take more with --users, or more data with --data"
            )


def require_equal_quality(tasks: Mapping[str, TaskFigures]) -> None:
    """Return if the services rank as well as the offline evaluation, to `TOLERANCE`.

    Raises:
        CommandError: a metric differs; the message lists every one that does.
    """
    differing = [
        f"{task} {name} {through:.6f} through the services, {offline:.6f} offline"
        for task, figures in tasks.items()
        for name, through, offline in (
            ("AUC", figures.auc, figures.offline_auc),
            ("GAUC", figures.gauc, figures.offline_gauc),
        )
        if not abs(through - offline) <= TOLERANCE  # NaN differs too
    ]
    if differing:
        raise CommandError(
            f"the services do not rank as the offline evaluation does (tolerance {TOLERANCE:g}): "
            + "; ".join(differing)
            + ". No setting may change scores, so this is a defect, unless the checkpoint was "
            "replaced meanwhile: please report it with the demo's summary.json"
        )


def _percentile(values: NDArray[np.float64], percent: float) -> float:
    return float(np.percentile(values, percent))
