"""The kernel benchmark without a GPU: its cases are right, and its record says what was seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

import benchmarks.kernels as bench
from benchmarks.bound import Bound
from benchmarks.ceilings import Ceilings, Work
from benchmarks.graph_timing import Timing
from benchmarks.kernels import (
    context_attention,
    crossing_attention,
    kv_expand,
    pool_router,
    transfer,
)
from benchmarks.kernels.trial import (
    Accuracy,
    Case,
    Goal,
    Measured,
    Trial,
    faster,
    memory_below,
    no_slower,
    share_of_ceiling,
)
from benchmarks.paged_history import Shape, random_history
from kernels.crossing_attention.plans import Plan
from shared.model.batch import bounds

CPU = torch.device("cpu")
SHAPE = Shape(3, 5, 200, 2, 16, pool_rows=33)
CEILINGS = Ceilings(flops=1e12, bytes=1e9, exps=1e9, host_bytes=1e9, copies={})
SMALL_TRIALS: dict[str, Callable[[], Trial]] = {
    "collective": lambda: crossing_attention.trial("collective", SHAPE, (), CPU),
    "coded": lambda: crossing_attention.trial("coded", SHAPE, (), CPU),
    "dense": lambda: crossing_attention.trial("dense", SHAPE, (), CPU),
    "context": lambda: context_attention.trial((70, 3, 200), 2, 16, CPU),
    "router": lambda: pool_router.trial(50, 16, 33, 2, CPU),
    "expand": lambda: kv_expand.trial(SHAPE, CPU),
    "transfer": lambda: transfer.trial(2, 300, (), CPU),
}


def test_the_cases_are_those_that_have_bounds_to_keep() -> None:
    cases = bench.all_cases()
    names = [f"{case.op}: {case.name}" for case in cases]
    assert len(set(names)) == len(names) == 7 + 4 + 7 + 2 * 2 + 2 + 1 + 2 + 5
    assert names[0] == "crossing_attention: collective, B 8, C 512, T 16384, H 4, D 64, P 8192"


@pytest.mark.parametrize("make", SMALL_TRIALS.values(), ids=SMALL_TRIALS)
def test_what_the_reference_computes_passes(make: Callable[[], Trial]) -> None:
    trial = make()
    accuracy = trial.accuracy()
    assert accuracy.passed
    assert accuracy.ours < 0.01
    assert trial.anchors


WRONG: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "crossing_attention": (
        crossing_attention,
        "crossing_attention",
        lambda op: lambda *args, scale: op(*args, scale=scale * 1.1),
    ),
    "context_attention": (
        context_attention,
        "context_attention",
        lambda op: lambda *args, scale: op(*args, scale=scale * 1.1),
    ),
    "pool_router": (
        pool_router,
        "pool_router",
        lambda op: lambda *args: (op(*args)[0].roll(1, dims=1), op(*args)[1]),
    ),
    "kv_expand": (kv_expand, "kv_expand", lambda op: lambda *args: op(*args)[::-1]),
}


@pytest.mark.parametrize(("module", "op", "spoil"), WRONG.values(), ids=WRONG)
def test_a_wrong_op_does_not_pass(
    module: Any, op: str, spoil: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, op, spoil(getattr(module, op)))
    makes = {
        "crossing_attention": ("collective", "coded", "dense"),
        "context_attention": ("context",),
        "pool_router": ("router",),
        "kv_expand": ("expand",),
    }
    for name in makes[op]:
        assert not SMALL_TRIALS[name]().accuracy().passed, name


def test_a_nan_does_not_pass() -> None:
    assert not Accuracy(float("nan"), 1.0).passed


def test_floors_follow_the_work() -> None:
    queries = 3 * 5 * 2
    collective = SMALL_TRIALS["collective"]().work
    assert collective.flops == 4 * queries * 200 * 16
    assert collective.exps == queries * 200
    entries, pools, own = 3 * 200 * 8, 2 * 33 * 32 * 2, 4 * 15 * 32 * 2
    assert collective.bytes == entries + pools + own
    coded = SMALL_TRIALS["coded"]().work
    assert coded.exps == queries * (33 + 16)
    assert coded.bytes == 3 * 200 * 4 + pools + own
    assert SMALL_TRIALS["dense"]().work.bytes == 3 * 200 * 2 * 32 * 2 + own
    context = SMALL_TRIALS["context"]().work
    assert context.exps == 2 * (70 * 71 + 3 * 4 + 200 * 201) / 2
    assert SMALL_TRIALS["router"]().work.flops == 2 * 50 * 16 * 33 * 2
    assert SMALL_TRIALS["transfer"]().work == Work(host_bytes=2 * 3 * 128 * 4)
    assert CEILINGS.floor_us(Work(flops=2e6, bytes=5e3)) == {"flops": 2.0, "bytes": 5.0}


def test_goals() -> None:
    measured = Measured(10.0, {"a": 12.0, "b": 9.0}, 3 << 20, CEILINGS)

    def reached(goal: Goal) -> tuple[object, object]:
        judged = goal.bound.judged(goal.value(measured))
        return judged["value"], judged["reached"]

    assert reached(no_slower("x", ["a", "b"], 1.15, 1.0)) == (1.1111, "must")
    assert reached(no_slower("x", ["a"], 1.15, 1.0)) == (0.8333, "aim")
    assert reached(no_slower("x", ["b"], 1.1, 1.0)) == (1.1111, "missed")
    assert reached(faster("x", ["a"], 1.2, 4.0)) == (1.2, "must")
    assert reached(faster("x", ["gone"], 1.2, 4.0)) == (None, "not measured")
    assert reached(share_of_ceiling("x", Work(flops=5e6), 0.6, 0.8)) == (0.5, "missed")
    assert reached(memory_below(3)) == (3.0, "must")
    assert reached(memory_below(2)) == (3.0, "missed")
    assert Bound("x").judged(2.0)["reached"] == "stated"


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without GPU")
def test_the_plan_is_the_one_that_ran() -> None:
    from kernels.crossing_attention import launch  # noqa: PLC0415  the interpreter is on by now

    random = torch.Generator(CPU).manual_seed(0)
    shape = Shape(2, 3, 40, 2, 16, pool_rows=7)
    data = random_history("collective", shape, torch.float32, random)
    q, k_self, v_self = (torch.randn(6, 2, 16, generator=random) for _ in range(3))
    run = partial(launch.attend, q, k_self, v_self, data.history, bounds([3, 3]), 0.25)
    plan = crossing_attention.chosen_plan(run)
    assert plan.startswith("gather, ")
    assert "block_m " in plan
    assert "registers" not in plan


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without GPU")
def test_another_plan_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    from kernels.crossing_attention import launch  # noqa: PLC0415  the interpreter is on by now

    ran: list[str] = []

    def watched(kind: str, run: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda *args: ran.append(kind) or run(*args)

    # The Hopper kernel takes no part here: dense rows go through the plain one.
    runs = {"gather": launch.gather, "expand": launch.gather}
    monkeypatch.setattr(launch, "RUN", {kind: watched(kind, run) for kind, run in runs.items()})
    monkeypatch.setattr(crossing_attention, "DTYPE", torch.float32)
    for forced in crossing_attention.OTHER_PLANS:
        ran.clear()
        shape = Shape(2, 3, 40, 2, 16, pool_rows=7)
        trial = crossing_attention.trial("collective", shape, (), CPU, forced=forced)
        assert trial.plan.startswith(f"{forced}, ")
        if forced == "gather":
            assert trial.accuracy().passed
            assert ran == ["gather"] * 2
        assert trial.goals == ()


def test_a_plan_is_told_by_what_it_has() -> None:
    plan = Plan("hopper", 128, 64, splits=2, stages=3)
    told = crossing_attention.told_plan(plan)
    assert told.startswith("hopper, block_m 128, block_n 64, splits 2, ")
    assert "stages 3" in told
    assert "warps" not in told
    assert crossing_attention.told_plan(Plan("histogram")).startswith("histogram, splits 1")


def measured(
    trial: Trial, times: Mapping[str, Timing], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], list[str]]:
    """The row of `trial` when its contenders take `times`, and what was timed."""
    timed: list[str] = []

    def time_in_turn(runs: Mapping[str, object]) -> dict[str, Timing]:
        timed.extend(runs)
        return {name: times[name] for name in runs}

    monkeypatch.setattr(bench, "time_in_turn", time_in_turn)
    monkeypatch.setattr(bench, "_extra_bytes", lambda run: 1024)
    case = Case("op", "case", lambda device: trial)
    return bench.measured_row(case, CEILINGS, CPU), timed


TIMES = {
    "ours": Timing(10.0, "graph replay"),
    "sdpa_flash": Timing(20.0, "graph replay"),
    "sdpa_cudnn": Timing(None, "nothing", "RuntimeError: no kernel"),
    "flash_attention_3": Timing(15.0, "graph replay"),
}


def test_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = replace(
        SMALL_TRIALS["coded"](),
        goals=(faster("the best dense anchor", crossing_attention.ANCHORS, 1.4, 6.0),),
    )
    row, _ = measured(trial, TIMES, monkeypatch)
    anchors = {name: TIMES[name].us for name in trial.anchors if TIMES[name].us is not None}
    assert (row["op"], row["case"], row["ours_us"], row["plan"]) == (
        "op",
        "case",
        10.0,
        "reference",
    )
    assert row["anchors_us"] == anchors
    assert set(row["floor_us"]) == {"flops", "bytes", "exps"}
    assert row["goals"][0]["value"] == min(anchors.values()) / 10
    assert row["goals"][0]["reached"] == "must"
    assert row["problems"] == {"sdpa_cudnn": "RuntimeError: no kernel"}
    assert row["timed_by"] == "graph replay"
    assert row["extra_bytes"] == 1024
    assert 0 < row["error"]["ours"] < 0.01


def test_a_wrong_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = replace(SMALL_TRIALS["coded"](), accuracy=lambda: Accuracy(0.1, 0.003))
    row, timed = measured(trial, TIMES, monkeypatch)
    assert row["ours_us"] is None
    assert "ours" not in timed
    assert "sdpa_flash" in timed
    assert "1.00e-01" in row["problems"]["ours"]
    assert "goals" not in row


def test_a_case_that_fails_leaves_a_problem() -> None:
    def prepare(device: torch.device) -> Trial:
        raise ValueError("key_pool: too small")

    row = bench.measured_row(Case("op", "case", prepare), CEILINGS, CPU)
    assert row["ours_us"] is None
    assert row["problems"] == {"ours": "ValueError: key_pool: too small"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_op_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    record = bench.bench_kernels("host_to_device: keys, batch 8")
    assert record["ceilings"]["flops"] > 1e13
    assert record["rows"][0]["ours_us"] > 0
    assert record["rows"][0]["problems"] == {}
