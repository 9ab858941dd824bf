"""Product keys: two argmaxes find what one over all p * p pairs finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels.pool_router.product_key import product_key_router


@pytest.mark.parametrize("tokens", [0, 1, 63, 257])
@pytest.mark.parametrize(("sides", "keys"), [(1, 1), (1, 7), (2, 7), (2, 16)])
def test_the_pair_of_bests_is_the_best_of_all_pairs(tokens: int, sides: int, keys: int) -> None:
    rng = np.random.default_rng(8)
    hidden, weight = rng.normal(size=(tokens, 6)), rng.normal(size=(sides, 2, keys, 6))
    bias = rng.normal(size=(sides, 2, keys))
    rows, logits = product_key_router(*(torch.from_numpy(a) for a in (hidden, weight, bias)))
    assert rows.shape == logits.shape == (sides, tokens)
    assert rows.dtype == torch.int64
    for side in range(sides):
        # one router of P = p * p rows: the pair's keys and biases added up
        whole = weight[side, 0][:, None] + weight[side, 1][None]
        every = hidden @ whole.reshape(-1, 6).T
        every += (bias[side, 0][:, None] + bias[side, 1][None]).reshape(-1)
        assert every.shape == (tokens, keys * keys)
        np.testing.assert_array_equal(rows[side].numpy(), every.argmax(axis=1))
        np.testing.assert_allclose(logits[side].numpy(), every.max(axis=1), rtol=1e-12)


def test_the_first_list_counts_in_steps_of_p() -> None:
    """By biases alone: another pair for each side."""
    bias = torch.zeros(2, 2, 5)
    bias[0, 0, 3], bias[0, 1, 1], bias[1, 0, 0], bias[1, 1, 4] = 2.0, 0.5, 1.0, 7.0
    rows, logits = product_key_router(torch.randn(2, 4), torch.zeros(2, 2, 5, 4), bias)
    assert rows.tolist() == [[3 * 5 + 1] * 2, [0 * 5 + 4] * 2]
    assert logits.tolist() == [[2.5] * 2, [8.0] * 2]


def test_ties_go_to_the_lowest_row() -> None:
    bias = torch.tensor([[[0.0, 4.0, 4.0], [1.0, 0.0, 1.0]]])
    rows, _ = product_key_router(torch.randn(3, 4), torch.zeros(1, 2, 3, 4), bias)
    assert rows.tolist() == [[1 * 3 + 0] * 3]


@pytest.mark.parametrize(
    ("name", "hidden", "weight", "bias"),
    [
        ("weight", (3, 4), (2, 9, 4), (2, 2, 9)),
        ("weight", (3, 4), (2, 3, 9, 4), (2, 3, 9)),
        ("bias", (3, 4), (2, 2, 9, 4), (2, 2, 8)),
        ("bias", (3, 4), (2, 2, 9, 4), (4, 9)),
        ("hidden", (3, 5), (2, 2, 9, 4), (2, 2, 9)),
        ("hidden", (4,), (2, 2, 9, 4), (2, 2, 9)),
    ],
)
def test_names_the_bad_argument(
    name: str, hidden: tuple[int, ...], weight: tuple[int, ...], bias: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: shape "):
        product_key_router(torch.zeros(hidden), torch.zeros(weight), torch.zeros(bias))
