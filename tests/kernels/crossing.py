"""Calls of crossing attention, what they have to come to, and how near is near enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from kernels.crossing_attention import reference
from kernels.crossing_attention.launch import RUN, attend
from kernels.crossing_attention.plans import Plan
from kernels.histories import History, RaggedHistory
from kernels.kv_expand.reference import expand
from tests.kernels import oracle
from tests.kernels.histories import GROUPS, bounds, random_history

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
SCALE = 0.31
on_gpu = pytest.mark.skipif(not CUDA, reason="needs a GPU")

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, History, torch.Tensor]


def cast(value: Any, dtype: torch.dtype) -> Any:
    """A history on the device, its floating-point numbers in `dtype`."""
    if isinstance(value, torch.Tensor):
        return value.to(DEVICE, dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, int):
        return value
    return replace(value, **{name: cast(part, dtype) for name, part in vars(value).items()})


def random_inputs(
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
    history = cast(random_history(form, total, seed=4, dim=dim, width=width)[0], dtype)
    return own[0], own[1], own[2], history, bounds(candidates).to(DEVICE)


def widened(inputs: Inputs) -> Inputs:
    q, k_self, v_self, history, cu_candidates = inputs
    wide = cast(history, torch.float64)
    return q.double(), k_self.double(), v_self.double(), wide, cu_candidates


def in_loops(inputs: Inputs, scale: float) -> torch.Tensor:
    """The oracle's result on the same, already rounded, numbers."""
    q, k_self, v_self, history, cu_candidates = widened(inputs)
    cu_history = (
        history.cu_history if isinstance(history, RaggedHistory) else history.pages.cu_history
    )
    arrays = [x.cpu().numpy() for x in (q, k_self, v_self, *expand(history, torch.float64))]
    counts = [cu.diff().tolist() for cu in (cu_candidates, cu_history)]
    return torch.from_numpy(oracle.crossing_attention(*arrays, *counts, scale))


def in_float64(inputs: Inputs, scale: float) -> torch.Tensor:
    return reference.attend(*widened(inputs), scale)


def error(out: torch.Tensor, wanted: torch.Tensor) -> float:
    return oracle.error(out.double().cpu().numpy(), wanted.cpu().numpy())


def accept(
    inputs: Inputs,
    plan: Plan | None,
    truth: Callable[[Inputs, float], torch.Tensor] = in_loops,
) -> None:
    """As near to float64 as torch is in the same dtype, and further from a wrong scale."""
    run = attend if plan is None else partial(RUN[plan.kind], plan=plan)
    out, wanted = run(*inputs, SCALE), truth(inputs, SCALE)
    bar = 2 * error(reference.attend(*inputs, SCALE), wanted) + 1e-6
    assert out.dtype == inputs[0].dtype
    assert out.shape == inputs[0].shape
    assert error(out, wanted) <= bar
    cu_history = getattr(inputs[3], "pages", inputs[3]).cu_history
    if (cu_history.diff() * inputs[4].diff()).any():
        assert error(out, truth(inputs, SCALE * 1.2)) > bar
    if CUDA:
        torch.testing.assert_close(run(*inputs, SCALE), out, rtol=0, atol=0)
