"""Time gaps: floor(log2(1 + seconds)), the last bucket takes the rest."""

from __future__ import annotations

import numpy as np
import pytest

from shared.model.batch import action_gaps, bounds, gap_buckets


@pytest.mark.parametrize("power", range(1, 32))
def test_buckets_change_at_powers_of_two(power: int) -> None:
    """1 + seconds = 2**power begins bucket `power`."""
    first = 2**power - 1
    ends = np.array([first - 1, first, 2 * first], np.int64)
    assert gap_buckets(ends).tolist() == [power - 1, power, power]


def test_the_ends() -> None:
    gaps = np.array([-(2**63), -1, 0, 1, 2**32, 2**63 - 1], np.int64)
    assert gap_buckets(gaps).tolist() == [0, 0, 0, 1, 31, 31]
    assert gap_buckets(np.empty(0, np.int64)).tolist() == []


def test_actions_count_from_the_one_before() -> None:
    times = np.array([100, 100, 103, 110], np.int64)
    assert action_gaps(times, None).tolist() == [0, 0, 2, 3]
    assert action_gaps(times, 85).tolist() == [4, 0, 2, 3]
    assert action_gaps(times, 100).tolist() == [0, 0, 2, 3]
    assert action_gaps(times[:1], None).tolist() == [0]


def test_bounds_run_from_zero() -> None:
    assert bounds([3, 0, 2]).tolist() == [0, 3, 3, 5]
    assert bounds([]).tolist() == [0]
