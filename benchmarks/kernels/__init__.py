"""Every op on the GPU against what a user would take instead, one file an op.

Each row is checked against float64 before it is timed; a wrong kernel gets a problem, not a time.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.ceilings import Ceilings, measured_ceilings
from benchmarks.gpu_record import gpu_record
from benchmarks.graph_timing import Run, time_in_turn, told
from benchmarks.kernels import (
    context_attention,
    crossing_attention,
    kv_expand,
    pool_router,
    transfer,
)
from benchmarks.kernels.trial import Case, Measured, Trial


def all_cases() -> list[Case]:
    """Every row, in the order of the record."""
    parts = (crossing_attention, context_attention, pool_router, kv_expand, transfer)
    return [case for part in parts for case in part.cases()]


@torch.no_grad()
def bench_kernels(only: str = "", commit: str | None = None) -> dict[str, Any]:
    """Measure all cases whose "op: name" contains `only`, on the current CUDA device.

    Returns:
        GPU, versions and commit; `ceilings`, rates a second; `rows`, each with `op`, `case`,
        `ours_us`, `anchors_us`, `floor_us` by kind of work, `plan`, `goals`, `error`,
        `extra_bytes`, `timed_by` and `problems` (by contender; empty if all ran).
    """
    record = gpu_record("kernels", commit)
    ceilings = measured_ceilings()
    record["ceilings"] = asdict(ceilings)
    cases = [case for case in all_cases() if only in f"{case.op}: {case.name}"]
    progress = track(cases, description="Timing the kernels", console=Console(stderr=True))
    record["rows"] = [measured_row(case, ceilings, torch.device("cuda")) for case in progress]
    return record


def measured_row(case: Case, ceilings: Ceilings, device: torch.device) -> dict[str, Any]:
    """Check and time one case; whatever fails is told in `problems`."""
    row: dict[str, Any] = {"op": case.op, "case": case.name, "ours_us": None, "anchors_us": {}}
    torch.cuda.empty_cache()  # what the case before held, in blocks of other sizes
    try:
        trial = case.prepare(device)
        accuracy = trial.accuracy()
    except Exception as error:  # Triton's errors have no other base
        return row | {"problems": {"ours": told(error)}}
    row |= {
        "floor_us": ceilings.floor_us(trial.work),
        "plan": trial.plan,
        "error": {"ours": accuracy.ours, "torch": accuracy.torch},
    }
    problems = {}
    runs = dict(trial.anchors)
    if accuracy.passed:
        runs = {"ours": trial.ours, **runs}
        row["extra_bytes"] = _extra_bytes(trial.ours)
    else:
        problems["ours"] = (
            f"relative error {accuracy.ours:.2e}, torch in the same precision {accuracy.torch:.2e}"
        )
    timings = time_in_turn(runs)
    for name, timing in timings.items():
        if timing.problem is not None:
            problems[name] = timing.problem
    times = {name: timing.us for name, timing in timings.items() if timing.us is not None}
    row["ours_us"] = times.pop("ours", None)
    row |= {"anchors_us": times, "problems": problems}
    if row["ours_us"] is not None:
        row["timed_by"] = timings["ours"].by
        row["goals"] = _goals(trial, row, ceilings)
    return row


def _goals(trial: Trial, row: dict[str, Any], ceilings: Ceilings) -> list[dict[str, object]]:
    measured = Measured(row["ours_us"], row["anchors_us"], row["extra_bytes"], ceilings)
    return [goal.bound.judged(goal.value(measured)) for goal in trial.goals]


def _extra_bytes(run: Run) -> int:
    """Device memory at the peak of one call, its results included."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
