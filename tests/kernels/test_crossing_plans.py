"""Which plan a crossing attention gets, from sizes alone."""

from __future__ import annotations

import pytest

from kernels.crossing_attention.plans import Problem, choose


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
