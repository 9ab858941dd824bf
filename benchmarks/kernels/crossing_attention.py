"""crossing_attention against dense attention, whose keys and values already lie dense in memory.

The anchors leave the candidates' own tokens out, to their advantage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.anchors import attentions
from benchmarks.ceilings import Work
from benchmarks.graph_timing import Run
from benchmarks.kernels.trial import (
    Accuracy,
    Case,
    Goal,
    Trial,
    faster,
    no_slower,
    poison,
    relative_error,
)
from benchmarks.paged_history import CODES, Form, RandomHistory, Shape, random_history
from kernels.crossing_attention import crossing_attention, reference
from kernels.crossing_attention.plans import Plan, choose
from kernels.histories import CollectiveHistory, History, RaggedHistory
from shared.model.batch import bounds

Forced = Literal["expand", "gather"]

DTYPE = torch.bfloat16
ANCHORS = ("sdpa_flash", "sdpa_cudnn", "flash_attention_3")
PAPER = "gather_concat_sdpa_flash"

SHAPES = (
    Shape(8, 512, 16384, 4, 64),
    Shape(8, 512, 2048, 4, 64),
    Shape(8, 512, 16384, 2, 128),
    Shape(1, 512, 16384, 2, 128),
    Shape(64, 512, 512, 2, 128),
    Shape(32, 128, 2048, 2, 128),
    Shape(64, 1000, 256, 4, 64),
)
ONE_USER = SHAPES[3]
OTHER_PLANS: dict[Forced, str] = {"expand": "expand first", "gather": "plain gather"}
"""What else the op can do with collective entries; on two shapes, for the table of plans."""
OTHERWISE = (SHAPES[0], SHAPES[4])
CODED = (  # with the must and the aim, in times faster than the best dense anchor
    (Shape(8, 512, 16384, 4, 64, pool_rows=2048), 3.5, 6.0),
    (Shape(8, 512, 65536, 4, 64, pool_rows=2048), 12.0, 24.0),
    (Shape(8, 512, 65536, 4, 64, pool_rows=8192), 3.5, 6.0),
    (Shape(8, 512, 16384, 4, 64, pool_rows=1024), 6.0, 9.0),
)

_CHECKED = 32  # candidates of the first and of the last user


def cases() -> Iterator[Case]:
    """The rows of the three forms."""
    best = "the best dense anchor"
    for shape in SHAPES:
        goals = [
            no_slower(best, ANCHORS, 1.15, 1.0),
            faster("gather, concat and SDPA", [PAPER], 2.5, 4.0),
        ]
        if shape == ONE_USER:
            goals.append(no_slower("SDPA flash", ["sdpa_flash"], 1.15, 0.8))
        yield _case("collective", shape, goals, f"collective, {shape}, P {shape.pool_rows}")
    for shape, must, aim in CODED:
        name = f"coded, {shape}, P {shape.pool_rows}, N_b {CODES}"
        yield _case("coded", shape, [faster(best, ANCHORS, must, aim)], name)
    for shape in SHAPES:
        yield _case("dense", shape, [no_slower(best, ANCHORS, 1.1, 1.0)], f"dense, {shape}")
    for shape in OTHERWISE:
        for forced, told in OTHER_PLANS.items():
            name = f"{told}, {shape}, P {shape.pool_rows}"
            yield _case("collective", shape, [], name, forced)


def _case(
    form: Form, shape: Shape, goals: list[Goal], name: str, forced: Forced | None = None
) -> Case:
    prepare = partial(trial, form, shape, tuple(goals), forced=forced)
    return Case("crossing_attention", name, prepare)


def trial(
    form: Form,
    shape: Shape,
    goals: tuple[Goal, ...],
    device: torch.device,
    forced: Forced | None = None,
) -> Trial:
    """Random queries and entries of `shape`, and the same sizes dense for the anchors.

    `forced` is the plan to run in place of the one that the op would choose.
    """
    random = torch.Generator(device).manual_seed(1)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, device=device, generator=random).to(DTYPE)

    data = random_history(form, shape, DTYPE, random)
    rows = shape.users * shape.candidates
    q, k_self, v_self = (normal(rows, shape.heads, shape.dim) for _ in range(3))
    cu_candidates = bounds([shape.candidates] * shape.users, device)
    scale = shape.dim**-0.5
    arguments = (q, k_self, v_self, data.history, cu_candidates)
    ours: Callable[[], Tensor] = partial(crossing_attention, *arguments, scale=scale)
    plan = chosen_plan(ours) if q.is_cuda and forced is None else "reference"
    if forced is not None:
        ours, plan = by_plan(forced, *arguments, scale)
    # Heads first in memory, as SDPA likes it best; FlashAttention-3 takes any strides.
    dense_q = q.view(shape.users, shape.candidates, shape.heads, shape.dim)
    dense_q = dense_q.transpose(1, 2).contiguous().transpose(1, 2)
    k, v = (
        normal(shape.users, shape.heads, shape.tokens, shape.dim).transpose(1, 2) for _ in range(2)
    )
    anchors: dict[str, Run] = {
        name: partial(attend, dense_q, k, v, scale=scale) for name, attend in attentions().items()
    }
    if isinstance(data.history, CollectiveHistory):
        anchors[PAPER] = _paper_way(dense_q, data.history, shape, scale, random)
    return Trial(
        ours=ours,
        anchors=anchors,
        accuracy=partial(_accuracy, ours, q, k_self, v_self, data, shape, scale),
        work=_work(form, shape, data.entry_bytes),
        goals=goals,
        plan=plan,
    )


def chosen_plan(ours: Run) -> str:
    """The plan that one call of the op chooses, with its sizes; overhears the choice."""
    from kernels.crossing_attention import launch  # noqa: PLC0415  triton is not needed on a CPU

    chosen: list[Plan] = []

    def overheard(*problem: Any, **options: Any) -> Plan:
        chosen.append(choose(*problem, **options))
        return chosen[-1]

    with mock.patch.object(launch, "choose", overheard):
        ours()
    return told_plan(chosen[0])


def by_plan(
    forced: Forced,
    q: Tensor,
    k_self: Tensor,
    v_self: Tensor,
    history: History,
    cu_candidates: Tensor,
    scale: float,
) -> tuple[Callable[[], Tensor], str]:
    """A call of the op by the plan `forced`, with the sizes that go with it, and these in words."""
    from kernels.crossing_attention import launch  # noqa: PLC0415  triton is not needed on a CPU

    problem = launch.problem_of(q, k_self, v_self, history, cu_candidates)
    plan = choose(replace(problem, hopper=False, hopper_dense=forced == "expand", histogram=False))
    run = launch.RUN[plan.kind]
    return partial(run, q, k_self, v_self, history, cu_candidates, scale, plan), told_plan(plan)


def told_plan(plan: Plan) -> str:
    """A plan in words: its kind and the sizes that it has."""
    fields = asdict(plan)
    kind = fields.pop("kind")
    return ", ".join([kind, *(f"{name} {value}" for name, value in fields.items() if value)])


def _paper_way(
    q: Tensor, history: CollectiveHistory, shape: Shape, scale: float, random: torch.Generator
) -> Run:
    """CollectiveKV as its paper has it: rows gathered by torch, slices put before them, then SDPA.

    Row numbers are int64 and lie unpaged, and pool rows have D - U numbers: nothing to convert.
    """
    slice_dims = history.key_slice.shape[-1]
    pools = [pool[:, :, slice_dims:].flatten(1) for pool in (history.key_pool, history.value_pool)]
    tokens = (shape.users, shape.tokens)
    rows = [
        torch.randint(shape.pool_rows, tokens, device=q.device, generator=random) for _ in pools
    ]
    slices = [
        torch.randn(*tokens, slice_dims, device=q.device, generator=random).to(q.dtype)
        for _ in pools
    ]
    flash = attentions()["sdpa_flash"]

    def run() -> Tensor:
        k, v = (
            gathered(pool, row, user_slice, shape.heads)
            for pool, row, user_slice in zip(pools, rows, slices, strict=True)
        )
        return flash(q, k, v, scale=scale)

    return run


def gathered(pool: Tensor, row: Tensor, user_slice: Tensor, heads: int) -> Tensor:
    """[B, T, G, D] of pool [P, G * (D - U)], rows [B, T] and slices [B, T, U]."""
    pooled = F.embedding(row, pool).unflatten(-1, (heads, -1))
    per_head = user_slice.unsqueeze(2).expand(-1, -1, heads, -1)
    return torch.cat((per_head, pooled), dim=-1)


def _accuracy(
    ours: Callable[[], Tensor],
    q: Tensor,
    k_self: Tensor,
    v_self: Tensor,
    data: RandomHistory,
    shape: Shape,
    scale: float,
) -> Accuracy:
    """Some candidates of the first and of the last user; NaN anywhere spoils it."""
    poison(ours())
    out = ours()
    if not out.isfinite().all():
        return Accuracy(torch.nan, 0.0)
    found: list[Tensor] = []
    exact: list[Tensor] = []
    plain: list[Tensor] = []
    for user in sorted({0, shape.users - 1}):
        first, last = user * shape.candidates, (user + 1) * shape.candidates - 1
        at = torch.linspace(first, last, min(_CHECKED, shape.candidates), device=q.device).long()
        found.append(out[at])
        k, v = data.dense(user)
        cu_history, cu_candidates = (bounds([count], q.device) for count in (shape.tokens, len(at)))
        for dtype, results in ((torch.float64, exact), (q.dtype, plain)):
            history = RaggedHistory(k.to(dtype), v.to(dtype), cu_history)
            query, key, value = (tensor[at].to(dtype) for tensor in (q, k_self, v_self))
            results.append(reference.attend(query, key, value, history, cu_candidates, scale))
    wanted = torch.cat(exact)
    return Accuracy(
        relative_error(torch.cat(found), wanted), relative_error(torch.cat(plain), wanted)
    )


def _work(form: Form, shape: Shape, entry_bytes: int) -> Work:
    """Attention over the tokens; the coded form's over pool rows with the codes' weights.

    A coded pool row costs each query its two products of D numbers and N_b code weights for the
    count and for each slice dimension.
    """
    queries = shape.users * shape.candidates * shape.heads
    number = DTYPE.itemsize
    width = shape.heads * shape.dim
    moved = entry_bytes + 4 * shape.users * shape.candidates * width * number
    if form != "dense":
        moved += 2 * shape.pool_rows * width * number
    if form == "coded":
        rows = min(shape.pool_rows, shape.tokens)
        return Work(
            flops=queries * rows * (4 * shape.dim + 4 * CODES),
            bytes=moved,
            exps=queries * (rows + CODES),
        )
    return Work(
        flops=4 * queries * shape.tokens * shape.dim, bytes=moved, exps=queries * shape.tokens
    )
