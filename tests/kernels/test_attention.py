"""Both attentions against loops, in every history form, at odd shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kernels.context_attention import context_attention
from kernels.crossing_attention import crossing_attention
from kernels.histories import CollectiveHistory, History, RaggedHistory
from tests.kernels import oracle
from tests.kernels.histories import FORMS, GROUPS, bounds, random_history, reordered

TOLERANCE = 1e-13
DIM, HEADS = 8, 6
SCALE = 0.31

SHAPES = {
    # new tokens and all tokens, a user each
    "one token": ([1], [1]),
    "whole histories": ([1, 15, 16, 17], [1, 15, 16, 17]),
    "appends": ([1, 3, 16], [20, 17, 17]),
    "users without tokens": ([0, 4, 0, 2, 0], [0, 4, 9, 2, 0]),
    "nothing new": ([0, 0], [5, 0]),
    "no users": ([], []),
}


def _random(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def _tensors(*arrays: np.ndarray) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in arrays)


@pytest.mark.parametrize(("new", "total"), SHAPES.values(), ids=SHAPES)
def test_context_attention(new: list[int], total: list[int]) -> None:
    q = _random(sum(new), HEADS, DIM, seed=1)
    k, v = _random(sum(total), GROUPS, DIM, seed=2), _random(sum(total), GROUPS, DIM, seed=3)
    out = context_attention(*_tensors(q, k, v), bounds(new), bounds(total), scale=SCALE)
    wanted = oracle.context_attention(q, k, v, new, total, SCALE)
    assert out.shape == q.shape
    assert out.dtype == torch.float64
    assert oracle.error(out, wanted) < TOLERANCE
    if any(length > 1 for length, fresh in zip(total, new, strict=True) if fresh):
        wrong = oracle.context_attention(q, k, v, new, total, SCALE * 1.001)
        assert oracle.error(out, wrong) > 1e3 * TOLERANCE


CROSSING_SHAPES = {
    # candidates and history tokens, a user each
    "one candidate": ([1], [1]),
    "many": ([3, 1, 5], [17, 33, 16]),
    "users without candidates": ([0, 4, 0, 1], [3, 18, 0, 20]),
    "empty histories": ([2, 1, 1], [0, 19, 0]),
    "no candidates": ([0], [7]),
    "no users": ([], []),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("candidates", "total"), CROSSING_SHAPES.values(), ids=CROSSING_SHAPES)
def test_crossing_attention(form: str, candidates: list[int], total: list[int]) -> None:
    history, k, v = random_history(form, total, seed=4)
    q = _random(sum(candidates), HEADS, DIM, seed=1)
    own = _random(2, sum(candidates), GROUPS, DIM, seed=2)
    out = crossing_attention(*_tensors(q, *own), history, bounds(candidates), scale=SCALE)
    wanted = oracle.crossing_attention(q, *own, k, v, candidates, total, SCALE)
    assert out.shape == q.shape
    assert oracle.error(out, wanted) < TOLERANCE
    if max(total, default=0) * sum(candidates) > 1:
        wrong = oracle.crossing_attention(q, *own, k, v, candidates, total, SCALE * 1.001)
        assert oracle.error(out, wrong) > 1e3 * TOLERANCE


def test_a_candidate_without_history_is_its_own_value() -> None:
    history, _, _ = random_history("separate", [0], seed=4)
    q, k_self, v_self = _tensors(*(_random(3, GROUPS, DIM, seed=s) for s in (1, 2, 3)))
    out = crossing_attention(q, k_self, v_self, history, bounds([3]), scale=SCALE)
    torch.testing.assert_close(out, v_self, rtol=1e-14, atol=0)


def test_large_logits_do_not_overflow() -> None:
    history, k, v = random_history("separate", [17], seed=4)
    q = _random(2, HEADS, DIM, seed=1) * 1e3
    own = _random(2, 2, GROUPS, DIM, seed=2)
    out = crossing_attention(*_tensors(q, *own), history, bounds([2]), scale=SCALE)
    wanted = oracle.crossing_attention(q, *own, k, v, [2], [17], SCALE)
    assert oracle.error(out, wanted) < TOLERANCE
    same = context_attention(*_tensors(q, k[:2], v[:2]), bounds([2]), bounds([2]), scale=SCALE)
    assert oracle.error(same, oracle.context_attention(q, k, v, [2], [2], SCALE)) < TOLERANCE


def test_the_comparison_notices_swapped_rows() -> None:
    history, k, v = random_history("separate", [17], seed=4)
    assert isinstance(history, CollectiveHistory)
    q = _random(2, HEADS, DIM, seed=1)
    own = _random(2, 2, GROUPS, DIM, seed=2)
    out = crossing_attention(*_tensors(q, *own), reordered(history), bounds([2]), scale=SCALE)
    assert oracle.error(out, oracle.crossing_attention(q, *own, k, v, [2], [17], SCALE)) > 0.01


def _context_arguments() -> dict[str, Any]:
    q, k, v = (torch.zeros(4, heads, DIM) for heads in (HEADS, GROUPS, GROUPS))
    return {"q": q, "k": k, "v": v, "cu_query": bounds([4]), "cu_history": bounds([4])}


BAD_CONTEXT = {
    "q rank": ("q", torch.zeros(4, DIM)),
    "q heads": ("q", torch.zeros(4, HEADS + 1, DIM)),
    "k dim": ("k", torch.zeros(4, GROUPS, DIM + 1)),
    "k rank": ("k", torch.zeros(4, GROUPS * DIM)),
    "v tokens": ("v", torch.zeros(5, GROUPS, DIM)),
    "cu_query dtype": ("cu_query", bounds([4]).long()),
    "cu_query empty": ("cu_query", torch.zeros(0, dtype=torch.int32)),
    "cu_query users": ("cu_query", bounds([2, 2])),
    "cu_query strided": ("cu_query", bounds([4, 9])[::2]),
    "cu_history rank": ("cu_history", bounds([4])[None]),
}


@pytest.mark.parametrize(("name", "value"), BAD_CONTEXT.values(), ids=BAD_CONTEXT)
def test_context_attention_names_the_bad_argument(name: str, value: torch.Tensor) -> None:
    context_attention(**_context_arguments(), scale=1.0)
    with pytest.raises(ValueError, match=rf"^{name}: "):
        context_attention(**{**_context_arguments(), name: value}, scale=1.0)


KEYS = torch.zeros(2, 17, GROUPS, DIM)
BAD_CROSSING = {
    "q rank": ("q", torch.zeros(4, DIM)),
    "q heads": ("q", torch.zeros(4, HEADS + 1, DIM)),
    "k_self count": ("k_self", torch.zeros(3, GROUPS, DIM)),
    "k_self dim": ("k_self", torch.zeros(4, GROUPS, DIM - 1)),
    "v_self heads": ("v_self", torch.zeros(4, GROUPS + 1, DIM)),
    "cu_candidates dtype": ("cu_candidates", bounds([4]).float()),
    "cu_candidates rank": ("cu_candidates", torch.tensor(4, dtype=torch.int32)),
    "cu_candidates users": ("cu_candidates", bounds([2, 2])),
    "cu_candidates strided": ("cu_candidates", bounds([4, 9])[::2]),
    "k_self dtype": ("k_self", torch.zeros(4, GROUPS, DIM).bfloat16()),
    "v_self dtype": ("v_self", torch.zeros(4, GROUPS, DIM).double()),
    "history heads": ("history", random_history("tied", [17], seed=1, dim=2 * DIM)[0]),
    "history bounds": ("cu_history", RaggedHistory(*KEYS, bounds([17, 2])[::2])),
}


@pytest.mark.parametrize(("name", "value"), BAD_CROSSING.values(), ids=BAD_CROSSING)
def test_crossing_attention_names_the_bad_argument(
    name: str, value: torch.Tensor | History
) -> None:
    good = {
        "q": torch.zeros(4, HEADS, DIM),
        "k_self": torch.zeros(4, GROUPS, DIM),
        "v_self": torch.zeros(4, GROUPS, DIM),
        "history": random_history("tied", [17], seed=1)[0],
        "cu_candidates": bounds([4]),
    }
    crossing_attention(**good, scale=1.0)
    argument = "history" if isinstance(value, RaggedHistory) else name
    with pytest.raises(ValueError, match=rf"^{name}: "):
        crossing_attention(**{**good, argument: value}, scale=1.0)
