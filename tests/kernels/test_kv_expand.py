"""Every history form expands to the keys and values it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels.kv_expand import kv_expand
from tests.kernels.histories import DIM, FORMS, GROUPS, random_history

LENGTHS = {
    "one token": [1],
    "page bounds": [15, 16, 17, 32],
    "users without tokens": [0, 3, 0],
    "no tokens": [0],
    "no users": [],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_expansion(form: str, lengths: list[int]) -> None:
    history, k, v = random_history(form, lengths, seed=6)
    keys, values = kv_expand(history, torch.float64)
    assert keys.shape == values.shape == (sum(lengths), GROUPS, DIM)
    np.testing.assert_array_equal(keys.numpy(), k)
    np.testing.assert_allclose(values.numpy(), v, rtol=1e-15)
    assert kv_expand(history, torch.float32)[0].dtype == torch.float32


def test_the_largest_pool_is_reachable() -> None:
    """Row 65535 is no negative number."""
    history, _, _ = random_history("separate", [1], seed=6)
    page = int(history.pages.block_table[0, 0])
    pool = torch.arange(1 << 16, dtype=torch.float64).reshape(-1, 1, 1).repeat(1, GROUPS, DIM)
    history.key_row.view(torch.int16)[page, 0] = -1
    wide = type(history)(
        history.pages,
        history.key_row,
        history.value_row,
        history.key_slice,
        history.value_slice,
        pool,
        pool,
    )
    assert kv_expand(wide, torch.float64)[0][0, 0, -1] == 65535
