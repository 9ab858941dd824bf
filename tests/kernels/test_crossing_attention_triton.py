"""The plain Triton kernel of crossing attention: in the interpreter, and at full size on a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from kernels.crossing_attention import crossing_attention, launch
from kernels.crossing_attention.launch import RUN, attend, gather
from kernels.crossing_attention.plans import Plan
from kernels.histories import CollectiveHistory, History, RaggedHistory
from tests.kernels import histories
from tests.kernels.crossing import (
    SCALE,
    accept,
    error,
    in_loops,
    random_inputs,
)
from tests.kernels.histories import GROUPS, KINDS, POOL

pytestmark = pytest.mark.usefixtures("poisoned_memory")


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
    accept(random_inputs(form, [3, 2, 0, 9], [17, 0, 1, 36]), plan)


@pytest.mark.parametrize("form", ["coded", "dense"])
def test_pages_that_no_tile_divides(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(histories, "PAGE", 24)
    accept(random_inputs(form, [3, 2], [17, 100]), _plan(32, 1))


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
    accept(random_inputs("separate", candidates, total, heads=3 * GROUPS), plan)


@pytest.mark.parametrize(("candidates", "total"), [([0], [7]), ([], [])])
def test_nothing_to_attend(candidates: list[int], total: list[int]) -> None:
    assert attend(*random_inputs("tied", candidates, total), SCALE).shape == (0, 4, 16)


@pytest.mark.parametrize("form", ["separate", "coded"])
@pytest.mark.parametrize(("dim", "width"), [(16, 1), (32, 3), (32, 16), (64, 1)])
def test_slices(form: str, dim: int, width: int) -> None:
    accept(random_inputs(form, [2, 3], [19, 5], dim=dim, width=width), _plan(16, 2))


@pytest.mark.parametrize("form", ["separate", "coded", "dense"])
@pytest.mark.parametrize("width", [1, 2])
def test_bfloat16(form: str, width: int) -> None:
    accept(random_inputs(form, [5, 2], [21, 3], torch.bfloat16, width=width), _plan(16, 2))


@pytest.mark.parametrize("form", ["separate", "dense"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("plan", [None, _plan(16, 2)], ids=["chosen", "gather"])
def test_entries_of_another_dtype(form: str, dtype: torch.dtype, plan: Plan | None) -> None:
    *rest, history, cu = random_inputs(form, [5, 2], [51, 3], dtype)
    other = torch.float32 if dtype == torch.bfloat16 else torch.bfloat16
    names = ("key", "value") if form == "dense" else ("key_slice", "value_slice")
    planes = {name: getattr(history, name).to(other) for name in names}
    accept((*rest, replace(history, **planes), cu), plan)


@pytest.mark.parametrize("form", ["separate", "ragged", "dense"])
def test_the_chosen_plan(form: str) -> None:
    accept(random_inputs(form, [5, 2], [150, 3]), None)


def test_a_candidate_without_history_is_its_own_value() -> None:
    q, k_self, v_self, history, cu = random_inputs("separate", [3], [0], heads=GROUPS)
    torch.testing.assert_close(attend(q, k_self, v_self, history, cu, SCALE), v_self)


def test_large_logits_do_not_overflow() -> None:
    q, *rest = random_inputs("separate", [2], [40])
    accept((q * 1e3, *rest), _plan(16, 2))


def test_rows_and_codes_past_their_tables_read_the_last() -> None:
    q, k_self, v_self, history, cu = random_inputs("coded", [2], [16])
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
    q, k, v, history, cu = random_inputs("ragged", [5, 2], [21, 3])
    wanted = (q, k, v, history.key, history.value)
    between = [
        torch.stack((part, part.new_full((), torch.nan).expand_as(part)), 1)[:, 0]
        for part in wanted
    ]
    attend(*between[:3], RaggedHistory(*between[3:], history.cu_history), cu, SCALE)


def test_the_comparison_notices_swapped_rows() -> None:
    q, k_self, v_self, history, cu = random_inputs("separate", [3], [17])
    assert isinstance(history, CollectiveHistory)
    swapped = (q, k_self, v_self, histories.reordered(history), cu)
    wanted = in_loops((q, k_self, v_self, history, cu), SCALE)
    assert error(gather(*swapped, SCALE, _plan(16, 1)), wanted) > 0.01


def test_names_what_does_not_fit() -> None:
    q, k_self, v_self, history, cu = random_inputs("separate", [3], [17])
    assert isinstance(history, CollectiveHistory)
    with pytest.raises(ValueError, match=r"^history: "):
        crossing_attention(q, k_self[:, :1], v_self[:, :1], history, cu, scale=SCALE)
    other = replace(history, value_row=history.value_row.int())
    with pytest.raises(ValueError, match=r"^value_row: dtype "):
        crossing_attention(q, k_self, v_self, other, cu, scale=SCALE)
    with pytest.raises(ValueError, match=r"^scale: "):
        crossing_attention(q, k_self, v_self, history, cu, scale=0.0)
    wide = random_inputs("separate", [3], [17], dim=32, width=17)
    with pytest.raises(ValueError, match=r"^value_slice: 17 numbers, at most 16"):
        attend(*wide, SCALE)
