"""Routing: the argmax, the lowest row on a tie, in chunks or at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels.pool_router import pool_router


@pytest.mark.parametrize("tokens", [0, 1, 5, 4096, 4097])
@pytest.mark.parametrize("sides", [1, 2])
def test_routes_to_the_largest_logit(tokens: int, sides: int) -> None:
    rng = np.random.default_rng(8)
    hidden, weight = rng.normal(size=(tokens, 6)), rng.normal(size=(sides, 11, 6))
    bias = rng.normal(size=(sides, 11))
    rows, logits = pool_router(*(torch.from_numpy(array) for array in (hidden, weight, bias)))
    assert rows.shape == logits.shape == (sides, tokens)
    assert rows.dtype == torch.int64
    for side in range(sides):
        for t in {0, 1, tokens - 2, tokens - 1} & set(range(tokens)):
            every = [float(weight[side, p] @ hidden[t] + bias[side, p]) for p in range(11)]
            assert rows[side, t] == every.index(max(every))
            assert logits[side, t] == pytest.approx(max(every), rel=1e-13)


def test_ties_go_to_the_lowest_row() -> None:
    weight = torch.zeros(2, 9, 4)
    bias = torch.tensor([[0.0, 1, 5, 1, 5, 5, 0, 5, 1], [2.0] * 9])
    rows, logits = pool_router(torch.randn(3, 4), weight, bias)
    assert rows.tolist() == [[2, 2, 2], [0, 0, 0]]
    assert logits.tolist() == [[5.0] * 3, [2.0] * 3]


def test_a_single_row_takes_everything() -> None:
    rows, _ = pool_router(torch.randn(3, 4), torch.randn(1, 1, 4), torch.randn(1, 1))
    assert rows.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("name", "hidden", "weight", "bias"),
    [
        ("weight", (3, 4), (9, 4), (2, 9)),
        ("bias", (3, 4), (2, 9, 4), (2, 8)),
        ("bias", (3, 4), (2, 9, 4), (9,)),
        ("hidden", (3, 5), (2, 9, 4), (2, 9)),
        ("hidden", (4,), (2, 9, 4), (2, 9)),
    ],
)
def test_names_the_bad_argument(
    name: str, hidden: tuple[int, ...], weight: tuple[int, ...], bias: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: shape "):
        pool_router(torch.zeros(hidden), torch.zeros(weight), torch.zeros(bias))
