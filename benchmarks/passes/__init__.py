"""Both whole passes on the GPU against the two ways a user of torch would take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.bound import Bound
from benchmarks.gpu_record import gpu_record
from benchmarks.graph_timing import time_in_turn, told
from benchmarks.kernels.trial import Accuracy
from benchmarks.paged_history import Form
from benchmarks.passes.baselines import Baselines
from benchmarks.passes.op_shares import shares_by_op
from benchmarks.passes.our_passes import OurPasses
from benchmarks.passes.workload import (
    WORKLOADS,
    Workload,
    random_candidates,
    random_history_tokens,
)

_ROUNDS = 5
_MOST_DIFFERENCE = 0.02  # relative, between the two baselines' scores: bf16 gives a tenth of it


@torch.no_grad()
def bench_passes(only: str = "", commit: str | None = None) -> dict[str, Any]:
    """Measure the workloads whose name contains `only`, on the current CUDA device.

    Returns:
        GPU, versions and commit; `workloads`, each with its sizes, `each_candidate`, `dcat_dense`
        and, by form of our entries, `ours`: times in us, candidates and users a second, `shares` of
        the device time by op, `error` of the scores and `goals`; and `problems` by contender.
    """
    record = gpu_record("passes", commit)
    workloads = [workload for workload in WORKLOADS if only in workload.name]
    progress = track(workloads, description="Timing the passes", console=Console(stderr=True))
    device = torch.device("cuda")
    record["workloads"] = [measured_workload(workload, device) for workload in progress]
    return record


def measured_workload(workload: Workload, device: torch.device) -> dict[str, Any]:
    """Time all contenders of one workload in turn."""
    torch.cuda.empty_cache()
    random = torch.Generator(device).manual_seed(6)
    tokens = random_history_tokens(workload, random)
    candidates = random_candidates(workload, random)
    ours = {form: OurPasses(workload, form, tokens, candidates, random) for form in workload.forms}
    baselines = Baselines(workload, tokens, candidates, random)
    problems: dict[str, str] = {}
    checked: dict[Form, Accuracy] = {}
    for form, passes in ours.items():
        try:
            checked[form] = passes.accuracy()
        except Exception as error:  # Triton's errors have no other base
            problems[form] = told(error)
            continue
        if not checked[form].passed:
            problems[form] = (
                f"relative error of the scores {checked[form].ours:.2e}, "
                f"torch on a CPU in bf16 {checked[form].torch:.2e}"
            )
    runs = dict(baselines.runs)
    for form, passes in ours.items():
        if form not in problems:
            runs |= {f"{form}, context": passes.context, f"{form}, crossing": passes.crossing}
    if (differ := baselines.difference()) > _MOST_DIFFERENCE:
        problems["baselines"] = f"their scores differ by {differ:.2e}"
    timings = time_in_turn(runs, rounds=_ROUNDS)
    problems |= {name: it.problem for name, it in timings.items() if it.problem is not None}
    record: dict[str, Any] = {
        "name": workload.name,
        "about": workload.about,
        "users": workload.users,
        "tokens": workload.tokens,
        "candidates": workload.candidates,
        "layers": workload.layers,
        "head_dim": workload.head_dim,
        "forms": list(workload.forms),
        "each_candidate": baselines.each_candidate(timings),
        "dcat_dense": baselines.dcat_dense(timings),
        "ours": {},
        "problems": problems,
    }
    for form, passes in ours.items():
        context, crossing = (timings.get(f"{form}, {it}") for it in ("context", "crossing"))
        if context is None or crossing is None or context.us is None or crossing.us is None:
            continue
        record["ours"][form] = {
            "context_us": context.us,
            "crossing_us": crossing.us,
            "timed_by": {"context": context.by, "crossing": crossing.by},
            "users_per_s": round(workload.users / context.us * 1e6),
            "candidates_per_s": round(workload.users * workload.candidates / crossing.us * 1e6),
            "shares": {
                "context": shares_by_op(passes.context),
                "crossing": shares_by_op(passes.crossing),
            },
            "error": {"ours": checked[form].ours, "torch": checked[form].torch},
            "goals": goals(workload, context.us, crossing.us, record),
        }
    return record


def goals(
    workload: Workload, context_us: float, crossing_us: float, record: Mapping[str, Any]
) -> list[dict[str, object]]:
    """Our two times against both ways; a workload need not beat dense DCAT unless it says so."""
    both = context_us + crossing_us
    dense = record["dcat_dense"]
    must = 1.3 if workload.beats_dense else None
    judged = (
        (
            Bound("times faster than each candidate, both passes", 7.0),
            record["each_candidate"]["us"],
            both,
        ),
        (
            Bound("times faster than DCAT dense, crossing pass", must),
            dense["crossing_us"],
            crossing_us,
        ),
        (Bound("times faster than DCAT dense, both passes", must), dense["both_us"], both),
    )
    return [bound.judged(theirs and theirs / mine) for bound, theirs, mine in judged]
