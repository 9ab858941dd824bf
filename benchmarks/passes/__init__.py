"""Both whole passes on the GPU against the two ways a user of torch would take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console
from torch._dynamo import config as dynamo

from benchmarks.bound import Bound
from benchmarks.gpu_record import gpu_record
from benchmarks.graph_timing import time_in_turn
from benchmarks.passes.baselines import Baselines
from benchmarks.passes.contender import COMPILED, MOST_DIFFERENCE, Contender
from benchmarks.passes.op_shares import shares_by_op
from benchmarks.passes.our_passes import OurPasses
from benchmarks.passes.workload import (
    WORKLOADS,
    Workload,
    random_candidates,
    random_history_tokens,
)

_ROUNDS = 5
_MOST_SHAPES = 64  # that a function is compiled for, before torch gives up and runs it as it is


@torch.no_grad()
def bench_passes(only: str = "", commit: str | None = None) -> dict[str, Any]:
    """Measure the workloads whose name contains `only`, on the current CUDA device.

    Returns:
        GPU, versions and commit; `workloads`, each with its sizes, `each_candidate`, `dcat_dense`
        and, by kind of our entries and, with "compiled" behind it, with the arithmetic between two
        attentions compiled, `ours`: times in us, candidates and users a second, `shares` of the
        device time by op, `error` of the scores, `difference` from those not compiled and `goals`;
        `problems` by contender; and `took_s`, the seconds that measuring it took.
    """
    record = gpu_record("passes", commit)
    record["workloads"] = []
    device = torch.device("cuda")
    with dynamo.patch(recompile_limit=_MOST_SHAPES):
        for workload in WORKLOADS:
            if only in workload.name:
                began = time.monotonic()
                measured = measured_workload(workload, device)
                took_s = round(time.monotonic() - began, 1)
                record["workloads"].append(measured | {"took_s": took_s})
                _progress(f"{workload.name} done in {took_s} s")
    return record


def measured_workload(workload: Workload, device: torch.device) -> dict[str, Any]:
    """Time all contenders of one workload in turn."""
    torch.cuda.empty_cache()
    random = torch.Generator(device).manual_seed(6)
    tokens = random_history_tokens(workload, random)
    candidates = random_candidates(workload, random)
    contenders: dict[str, Contender] = {}
    problems: dict[str, str] = {}
    for variant in workload.variants:
        passes = OurPasses(workload, variant, tokens, candidates, random)
        for compiled in (False, True):
            contender = Contender(variant, passes, compiled)
            _progress(f"{workload.name}: {contender}")
            problem = contender.check()
            if problem is None:
                contenders[str(contender)] = contender
            else:
                problems[str(contender)] = problem
    _progress(f"{workload.name}: baselines")
    baselines = Baselines(workload, tokens, candidates, random)
    if (differ := baselines.difference()) > MOST_DIFFERENCE:
        problems["baselines"] = f"their scores differ by {differ:.2e}"
    runs = dict(baselines.runs)
    for name, contender in contenders.items():
        runs |= {f"{name}, {which}": run for which, run in contender.runs.items()}
    _progress(f"{workload.name}: timing {len(runs)} passes in turn")
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
        "contenders": [name for it in workload.variants for name in (str(it), f"{it}{COMPILED}")],
        "each_candidate": baselines.each_candidate(timings),
        "dcat_dense": baselines.dcat_dense(timings),
        "ours": {},
        "problems": problems,
    }
    for name, contender in contenders.items():
        context, crossing = (timings[f"{name}, {it}"] for it in ("context", "crossing"))
        if context.us is None or crossing.us is None:
            continue
        record["ours"][name] = contender.about | {
            "context_us": context.us,
            "crossing_us": crossing.us,
            "timed_by": {"context": context.by, "crossing": crossing.by},
            "users_per_s": round(workload.users / context.us * 1e6),
            "candidates_per_s": round(workload.users * workload.candidates / crossing.us * 1e6),
            "shares": {which: shares_by_op(run) for which, run in contender.runs.items()},
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


def _progress(text: str) -> None:
    Console(stderr=True).print(text, highlight=False)
