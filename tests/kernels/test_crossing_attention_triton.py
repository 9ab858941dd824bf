"""The plain Triton kernel of crossing attention: in the interpreter, and at full size on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from kernels.crossing_attention import crossing_attention, launch, reference
from kernels.crossing_attention.launch import RUN, attend, gather, problem_of
from kernels.crossing_attention.plans import Plan, Problem, choose
from kernels.device import is_hopper
from kernels.histories import CollectiveHistory, DenseHistory, History, Pages, RaggedHistory
from kernels.kv_expand.reference import expand
from tests.kernels import histories, oracle
from tests.kernels.histories import GROUPS, KINDS, POOL, bounds, random_history

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
SCALE = 0.31
pytestmark = pytest.mark.usefixtures("poisoned_memory")
on_gpu = pytest.mark.skipif(not CUDA, reason="needs a GPU")

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, History, torch.Tensor]


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """A history on the device, its floating-point numbers in `dtype`."""
    if isinstance(value, torch.Tensor):
        return value.to(DEVICE, dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, int):
        return value
    return replace(value, **{name: _cast(part, dtype) for name, part in vars(value).items()})


def _inputs(
    form: str,
    candidates: list[int],
    total: list[int],
    dtype: torch.dtype = torch.float32,
    heads: int = 2 * GROUPS,
    dim: int = 16,
    width: int = 2,
) -> Inputs:
    generator = torch.Generator().manual_seed(dim + width)
    shapes = [(sum(candidates), count, dim) for count in (heads, GROUPS, GROUPS)]
    own = [torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes]
    history = _cast(random_history(form, total, seed=4, dim=dim, width=width)[0], dtype)
    return own[0], own[1], own[2], history, bounds(candidates).to(DEVICE)


def _widened(inputs: Inputs) -> Inputs:
    q, k_self, v_self, history, cu_candidates = inputs
    wide = _cast(history, torch.float64)
    return q.double(), k_self.double(), v_self.double(), wide, cu_candidates


def _in_loops(inputs: Inputs, scale: float) -> torch.Tensor:
    """The oracle's result on the same, already rounded, numbers."""
    q, k_self, v_self, history, cu_candidates = _widened(inputs)
    cu_history = (
        history.cu_history if isinstance(history, RaggedHistory) else history.pages.cu_history
    )
    arrays = [x.cpu().numpy() for x in (q, k_self, v_self, *expand(history, torch.float64))]
    counts = [cu.diff().tolist() for cu in (cu_candidates, cu_history)]
    return torch.from_numpy(oracle.crossing_attention(*arrays, *counts, scale))


def _in_float64(inputs: Inputs, scale: float) -> torch.Tensor:
    return reference.attend(*_widened(inputs), scale)


def _error(out: torch.Tensor, wanted: torch.Tensor) -> float:
    return oracle.error(out.double().cpu().numpy(), wanted.cpu().numpy())


def _accept(
    inputs: Inputs,
    plan: Plan | None,
    truth: Callable[[Inputs, float], torch.Tensor] = _in_loops,
) -> None:
    """As near to float64 as torch is in the same dtype, and further from a wrong scale."""
    run = attend if plan is None else partial(RUN[plan.kind], plan=plan)
    out, wanted = run(*inputs, SCALE), truth(inputs, SCALE)
    bar = 2 * _error(reference.attend(*inputs, SCALE), wanted) + 1e-6
    assert out.dtype == inputs[0].dtype
    assert out.shape == inputs[0].shape
    assert _error(out, wanted) <= bar
    cu_history = getattr(inputs[3], "pages", inputs[3]).cu_history
    if (cu_history.diff() * inputs[4].diff()).any():
        assert _error(out, truth(inputs, SCALE * 1.2)) > bar
    if CUDA:
        torch.testing.assert_close(run(*inputs, SCALE), out, rtol=0, atol=0)


def _plan(block_n: int, splits: int, block_m: int = 16) -> Plan:
    return Plan("gather", block_m, block_n, splits=splits, warps=4, stages=2)


PLANS = {
    # a page of the tests holds 16 tokens
    "a tile within a page": _plan(16, 1),
    "a tile over pages": _plan(32, 1),
    "split": _plan(16, 3),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("form", KINDS)
def test_every_form(form: str, plan: Plan) -> None:
    _accept(_inputs(form, [3, 2, 0, 9], [17, 0, 1, 36]), plan)


@pytest.mark.parametrize("form", ["coded", "dense"])
def test_pages_that_no_tile_divides(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(histories, "PAGE", 24)
    _accept(_inputs(form, [3, 2], [17, 100]), _plan(32, 1))


SHAPES = {
    # candidates and history tokens, a user each
    "one candidate, one token": ([1], [1]),
    "users without candidates": ([0, 4, 0, 1, 0], [3, 18, 0, 20, 5]),
    "histories of whole tiles": ([2, 1], [16, 32]),
    "one user has all candidates": ([0, 7, 0], [9, 33, 9]),
    "no history at all": ([3, 2], [0, 0]),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize(("candidates", "total"), SHAPES.values(), ids=SHAPES)
def test_shapes(candidates: list[int], total: list[int], plan: Plan) -> None:
    _accept(_inputs("separate", candidates, total, heads=3 * GROUPS), plan)


@pytest.mark.parametrize(("candidates", "total"), [([0], [7]), ([], [])])
def test_nothing_to_attend(candidates: list[int], total: list[int]) -> None:
    assert attend(*_inputs("tied", candidates, total), SCALE).shape == (0, 4, 16)


@pytest.mark.parametrize("form", ["separate", "coded"])
@pytest.mark.parametrize(("dim", "width"), [(16, 1), (32, 3), (32, 16), (64, 1)])
def test_slices(form: str, dim: int, width: int) -> None:
    _accept(_inputs(form, [2, 3], [19, 5], dim=dim, width=width), _plan(16, 2))


@pytest.mark.parametrize("form", ["separate", "coded", "dense"])
@pytest.mark.parametrize("width", [1, 2])
def test_bfloat16(form: str, width: int) -> None:
    _accept(_inputs(form, [5, 2], [21, 3], torch.bfloat16, width=width), _plan(16, 2))


@pytest.mark.parametrize("form", ["separate", "dense"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("plan", [None, _plan(16, 2)], ids=["chosen", "gather"])
def test_entries_of_another_dtype(form: str, dtype: torch.dtype, plan: Plan | None) -> None:
    *rest, history, cu = _inputs(form, [5, 2], [51, 3], dtype)
    other = torch.float32 if dtype == torch.bfloat16 else torch.bfloat16
    names = ("key", "value") if form == "dense" else ("key_slice", "value_slice")
    planes = {name: getattr(history, name).to(other) for name in names}
    _accept((*rest, replace(history, **planes), cu), plan)


@pytest.mark.parametrize("form", ["separate", "ragged", "dense"])
def test_the_chosen_plan(form: str) -> None:
    _accept(_inputs(form, [5, 2], [150, 3]), None)


def test_a_candidate_without_history_is_its_own_value() -> None:
    q, k_self, v_self, history, cu = _inputs("separate", [3], [0], heads=GROUPS)
    torch.testing.assert_close(attend(q, k_self, v_self, history, cu, SCALE), v_self)


def test_large_logits_do_not_overflow() -> None:
    q, *rest = _inputs("separate", [2], [40])
    _accept((q * 1e3, *rest), _plan(16, 2))


def test_rows_and_codes_past_their_tables_read_the_last() -> None:
    q, k_self, v_self, history, cu = _inputs("coded", [2], [16])
    page = int(history.pages.block_table[0, 0])
    history.row[page, 3], history.key_code[page, 3] = POOL - 1, len(history.codebook) - 1
    inside = gather(q, k_self, v_self, history, cu, SCALE, _plan(16, 1))
    history.row[page, 3], history.key_code[page, 3] = 65535, 255
    outside = gather(q, k_self, v_self, history, cu, SCALE, _plan(16, 1))
    torch.testing.assert_close(outside, inside, rtol=0, atol=0)


@pytest.mark.parametrize("plan", sorted(RUN))
def test_views_are_read_as_they_lie(monkeypatch: pytest.MonkeyPatch, plan: str) -> None:
    """Whatever runs gets the numbers behind each other."""

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, history: History, *_: Any) -> None:
        read = (q, k, v, history.key, history.value)
        assert all(map(torch.equal, read, wanted))
        assert all(tensor.is_contiguous() for tensor in read)

    monkeypatch.setitem(RUN, plan, run)
    monkeypatch.setattr(launch, "choose", lambda _: Plan(plan))
    q, k, v, history, cu = _inputs("ragged", [5, 2], [21, 3])
    wanted = (q, k, v, history.key, history.value)
    between = [
        torch.stack((part, part.new_full((), torch.nan).expand_as(part)), 1)[:, 0]
        for part in wanted
    ]
    attend(*between[:3], RaggedHistory(*between[3:], history.cu_history), cu, SCALE)


def test_the_comparison_notices_swapped_rows() -> None:
    q, k_self, v_self, history, cu = _inputs("separate", [3], [17])
    assert isinstance(history, CollectiveHistory)
    swapped = (q, k_self, v_self, histories.reordered(history), cu)
    wanted = _in_loops((q, k_self, v_self, history, cu), SCALE)
    assert _error(gather(*swapped, SCALE, _plan(16, 1)), wanted) > 0.01


def test_names_what_does_not_fit() -> None:
    q, k_self, v_self, history, cu = _inputs("separate", [3], [17])
    assert isinstance(history, CollectiveHistory)
    with pytest.raises(ValueError, match=r"^history: "):
        crossing_attention(q, k_self[:, :1], v_self[:, :1], history, cu, scale=SCALE)
    other = replace(history, value_row=history.value_row.int())
    with pytest.raises(ValueError, match=r"^value_row: dtype "):
        crossing_attention(q, k_self, v_self, other, cu, scale=SCALE)
    with pytest.raises(ValueError, match=r"^scale: "):
        crossing_attention(q, k_self, v_self, history, cu, scale=0.0)
    wide = _inputs("separate", [3], [17], dim=32, width=17)
    with pytest.raises(ValueError, match=r"^value_slice: 17 numbers, at most 16"):
        attend(*wide, SCALE)


def _problem(**sizes: int) -> Problem:
    sizes = {
        "candidates": 4096, "users": 8, "longest": 16384, "heads": 4, "kv_heads": 4, "dim": 64,
        "itemsize": 2, "processors": 132,
    } | sizes  # fmt: skip
    return Problem(**sizes)


def test_only_few_programs_split_a_long_history() -> None:
    assert choose(_problem(candidates=65536)).splits == 1
    few = choose(_problem(candidates=512, users=1, heads=2, kv_heads=2))
    programs = 512 * 2 // few.block_m * few.splits
    assert few.splits > 1
    assert programs <= 2 * 132
    assert choose(_problem(candidates=64, users=64)).splits == 1  # 256 programs, of one row each
    assert choose(_problem(candidates=1, users=1, longest=0)).splits == 1
    assert choose(_problem(candidates=1, users=1, longest=64)).splits == 1


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("dim", [16, 32, 64, 128, 256])
def test_a_gathered_tile_fits_into_registers(dim: int, itemsize: int) -> None:
    plan = choose(_problem(dim=dim, itemsize=itemsize))
    assert plan.kind == "gather"
    assert plan.warps in {4, 8}
    assert plan.stages in {2, 3}
    logits_and_sums = plan.block_m * (plan.block_n + dim)  # 4 bytes each
    assert logits_and_sums <= 32 * plan.warps * 160


LARGE = {
    # candidates and history tokens, a user each
    "ragged": ([129, 0, 1, 300, 64, 77], [0, 1, 63, 257, 1024, 130]),
    "one user has all candidates": ([0, 1000, 0], [257, 4096, 63]),
    "a long history": ([70], [16384]),
    "many users": ([3] * 150, [1, 63, 257] * 50),
}
BF16, FP32 = torch.bfloat16, torch.float32
FORMS_AND_PLANS = [
    ("separate", BF16, "hopper"), ("dense", BF16, "hopper"), ("coded", BF16, "hopper"),
    ("coded", BF16, "histogram"), ("coded", FP32, "histogram"),
    ("separate", BF16, "gather"), ("separate", FP32, "gather"),
]  # fmt: skip
"""Form, dtype and plan."""


def _ruled_plan(inputs: Inputs, kind: str) -> Plan:
    """The plan of this kind; for "hopper" what the device and the sizes leave of it."""
    problem = replace(problem_of(*inputs), histogram=kind == "histogram")
    if kind == "gather":
        problem = replace(problem, hopper=False, hopper_dense=False)
    return choose(problem)


SIZES = [
    # head dim, query heads of one KV head, slice
    (16, 1, 0), (16, 4, 16), (32, 3, 1), (32, 1, 5), (64, 1, 1), (64, 4, 2), (64, 1, 16),
    (128, 1, 1), (128, 3, 16), (128, 4, 0), (256, 1, 1), (256, 4, 5),
]  # fmt: skip


@on_gpu
@pytest.mark.parametrize(("form", "dtype", "kind"), FORMS_AND_PLANS)
@pytest.mark.parametrize(("candidates", "total"), LARGE.values(), ids=LARGE)
def test_gpu_shapes(
    monkeypatch: pytest.MonkeyPatch,
    candidates: list[int],
    total: list[int],
    form: str,
    dtype: torch.dtype,
    kind: str,
) -> None:
    monkeypatch.setattr(histories, "PAGE", 128)
    inputs = _inputs(form, candidates, total, dtype, dim=64)
    plan = _ruled_plan(inputs, kind)
    assert plan.kind == kind or not is_hopper(inputs[0].device)
    _accept(inputs, plan, _in_float64)


@on_gpu
@pytest.mark.parametrize("form", KINDS)
def test_gpu_tiles_over_pages(form: str) -> None:
    inputs = _inputs(form, *LARGE["ragged"], BF16, dim=64)
    _accept(inputs, _ruled_plan(inputs, "hopper"), _in_float64)


@on_gpu
@pytest.mark.parametrize(
    ("dim", "group", "width", "form", "dtype", "kind"),
    [
        (*size, *how)
        for number, size in enumerate(SIZES)
        for how in (
            ("separate", BF16, "hopper"),
            ("coded", BF16, "hopper"),
            ("separate", (BF16, FP32)[number % 2], "gather"),
        )
    ],
)
def test_gpu_sizes(
    monkeypatch: pytest.MonkeyPatch,
    dim: int,
    group: int,
    width: int,
    form: str,
    dtype: torch.dtype,
    kind: str,
) -> None:
    """A slice of 5 numbers is expanded first; heads of 16 are gathered in any case."""
    monkeypatch.setattr(histories, "PAGE", 128)
    heads = group * GROUPS
    inputs = _inputs(form, [129, 0, 1, 70], [257, 63, 0, 600], dtype, heads, dim, width)
    _accept(inputs, _ruled_plan(inputs, kind), _in_float64)


@on_gpu
@pytest.mark.parametrize("dtype", [BF16, FP32])
@pytest.mark.parametrize("form", ["ragged", "dense"])
def test_gpu_numbers_past_two_to_the_31(form: str, dtype: torch.dtype) -> None:
    """2.1 million tokens of 1024 numbers; the last user has the candidates."""
    lengths, heads, dim = [1050] * 2000, 4, 256
    pages = Pages.contiguous(lengths, 128, DEVICE)
    shape = (pages.tokens, heads, dim)
    history: History
    if form == "ragged":
        rows = torch.empty(shape, dtype=dtype, device=DEVICE)
        last = rows[-1050:]
        history = RaggedHistory(rows, rows, pages.cu_history)
    else:
        rows = torch.empty(
            int(pages.block_table.max()) + 1, 128, *shape[1:], dtype=dtype, device=DEVICE
        )
        last = rows[-9:].flatten(0, 1)[:1050]
        history = DenseHistory(pages, rows, rows)
    assert rows.numel() > 2**31
    last.copy_(torch.randn(1050, heads, dim))
    q, k_self, v_self = torch.randn(3, 3, heads, dim).to(DEVICE, dtype)
    out = attend(q, k_self, v_self, history, bounds([0] * 1999 + [3]).to(DEVICE), 0.1)
    alone = RaggedHistory(last, last, bounds([1050]).to(DEVICE))
    inputs = (q, k_self, v_self, alone, bounds([3]).to(DEVICE))
    wanted = _in_float64(inputs, 0.1)
    assert _error(out, wanted) <= 2 * _error(reference.attend(*inputs, 0.1), wanted) + 1e-6


@on_gpu
@pytest.mark.parametrize("form", ["separate", "coded", "dense"])
def test_gpu_graph(form: str) -> None:
    """Capturable: nothing asks the device, and a replay reads the numbers that are there then."""
    q, k_self, v_self, history, cu = _inputs(form, [129, 70], [257, 600], torch.bfloat16, dim=64)
    crossing_attention(q, k_self, v_self, history, cu, scale=SCALE)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = crossing_attention(q, k_self, v_self, history, cu, scale=SCALE)
    q.copy_(torch.randn_like(q))
    graph.replay()
    again = crossing_attention(q, k_self, v_self, history, cu, scale=SCALE)
    torch.testing.assert_close(out, again, rtol=0, atol=0)
