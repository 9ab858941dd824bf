"""Crossing attention by every plan at full size, on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernels.crossing_attention import crossing_attention, reference
from kernels.crossing_attention.launch import attend, problem_of
from kernels.crossing_attention.plans import Plan, choose
from kernels.device import is_hopper
from kernels.histories import DenseHistory, History, Pages, RaggedHistory
from tests.kernels import histories
from tests.kernels.crossing import (
    DEVICE,
    SCALE,
    Inputs,
    accept,
    error,
    in_float64,
    on_gpu,
    random_inputs,
)
from tests.kernels.histories import GROUPS, KINDS, bounds

pytestmark = pytest.mark.usefixtures("poisoned_memory")


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
    inputs = random_inputs(form, candidates, total, dtype, dim=64)
    plan = _ruled_plan(inputs, kind)
    assert plan.kind == kind or not is_hopper(inputs[0].device)
    accept(inputs, plan, in_float64)


@on_gpu
@pytest.mark.parametrize("form", KINDS)
def test_gpu_tiles_over_pages(form: str) -> None:
    inputs = random_inputs(form, *LARGE["ragged"], BF16, dim=64)
    accept(inputs, _ruled_plan(inputs, "hopper"), in_float64)


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
    inputs = random_inputs(form, [129, 0, 1, 70], [257, 63, 0, 600], dtype, heads, dim, width)
    accept(inputs, _ruled_plan(inputs, kind), in_float64)


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
    wanted = in_float64(inputs, 0.1)
    assert error(out, wanted) <= 2 * error(reference.attend(*inputs, 0.1), wanted) + 1e-6


@on_gpu
@pytest.mark.parametrize("form", ["separate", "coded", "dense"])
def test_gpu_graph(form: str) -> None:
    """Capturable: nothing asks the device, and a replay reads the numbers that are there then."""
    q, k_self, v_self, history, cu = random_inputs(
        form, [129, 70], [257, 600], torch.bfloat16, dim=64
    )
    crossing_attention(q, k_self, v_self, history, cu, scale=SCALE)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = crossing_attention(q, k_self, v_self, history, cu, scale=SCALE)
    q.copy_(torch.randn_like(q))
    graph.replay()
    again = crossing_attention(q, k_self, v_self, history, cu, scale=SCALE)
    torch.testing.assert_close(out, again, rtol=0, atol=0)
