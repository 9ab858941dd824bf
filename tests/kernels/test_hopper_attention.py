"""The Hopper kernels of both attention ops compile for their device on a machine that has none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kernels.context_attention import launch as context
from kernels.crossing_attention import hopper_launch, parts
from kernels.crossing_attention.plans import Plan, Problem, choose
from kernels.histories import History, RaggedHistory
from tests.kernels.compile_for_hopper import Recorder, compile_for_hopper
from tests.kernels.histories import bounds, random_history

SHARED_MEMORY = 227 * 1024  # bytes a program may have
SPILLED = (
    192  # bytes of a thread, outside of the loop; pages below a tile spill in the copying role
)


def _bf16(history: History) -> Any:
    """The history with its floating-point numbers in bfloat16."""
    parts = {
        name: part.bfloat16() if torch.is_tensor(part) and part.is_floating_point() else part
        for name, part in vars(history).items()
    }
    return type(history)(**parts)


@pytest.mark.parametrize(
    ("form", "dim", "candidates", "longest"),
    [
        ("bf16_slices", 64, 300, 700),
        ("bf16_slices", 32, 1, 1),
        ("no_slice", 128, 8, 16384),
        ("coded", 256, 300, 700),
        ("dense_bf16", 128, 64, 16384),
        ("ragged", 64, 300, 700),
    ],
)
def test_crossing_attention(
    monkeypatch: pytest.MonkeyPatch, form: str, dim: int, candidates: int, longest: int
) -> None:
    launched = Recorder()
    monkeypatch.setattr(hopper_launch, "crossing_kernel", launched)
    monkeypatch.setattr(parts, "combine_kernel", Recorder())
    monkeypatch.setattr(hopper_launch, "processors", lambda device: 132)
    history = _bf16(random_history(form, [17, 3], seed=4, dim=dim)[0])
    q = torch.randn(candidates, 4, dim, dtype=torch.bfloat16)
    own = torch.randn(candidates, 2, dim, dtype=torch.bfloat16)
    dense = form in {"dense_bf16", "ragged"}
    plan = choose(Problem(candidates, 2, longest, 4, 2, dim, 2, 132, hopper=True, dense=dense))
    assert plan.kind == "hopper"
    cu_candidates = bounds([candidates, 0])
    hopper_launch.attend_on_hopper(q, own, own, history, cu_candidates, 0.3, plan)
    kernel = "kernels.crossing_attention.hopper:crossing_kernel"
    compiled = compile_for_hopper(kernel, launched.args, **launched.options)
    assert compiled["shared"] <= SHARED_MEMORY
    assert compiled["wgmma"] == 2 * (2 * dim // 16 + 2 * plan.block_n // 16)  # first step and loop


@pytest.mark.parametrize("dim", [32, 64, 128, 256])
def test_context_attention(monkeypatch: pytest.MonkeyPatch, dim: int) -> None:
    launched = Recorder()
    monkeypatch.setattr(context.hopper, "context_kernel", launched)
    monkeypatch.setattr(context, "hopper_takes", lambda q, k, v, users: True)
    q, k = (torch.randn(300, heads, dim, dtype=torch.bfloat16) for heads in (4, 2))
    context.attend(q, k, k, bounds([300]), bounds([300]), 0.3)
    kernel = "kernels.context_attention.hopper:context_kernel"
    compiled = compile_for_hopper(kernel, launched.args, **launched.options)
    assert compiled["shared"] <= SHARED_MEMORY
    assert compiled["stack"] <= SPILLED


def test_what_context_attention_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "is_hopper", lambda device: True)
    monkeypatch.setattr(context, "processors", lambda device: 132)
    rows = torch.zeros(40, 2, 32, dtype=torch.bfloat16)
    askew = torch.zeros(rows.numel() + 4, dtype=torch.bfloat16)[4:].view_as(rows)
    assert context.hopper_takes(rows, rows, rows, 1)
    assert not context.hopper_takes(rows.float(), rows.float(), rows.float(), 1)
    assert not context.hopper_takes(rows[:4], rows, rows, 1)  # an append of two programs
    assert not any(
        context.hopper_takes(*(askew if i == place else rows for i in range(3)), 1)
        for place in range(3)
    )
    assert context.hopper_takes(rows, rows, rows, 32767)
    assert not context.hopper_takes(rows, rows, rows, 32768)


def test_only_aligned_bfloat16_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hopper_launch, "is_hopper", lambda device: True)
    q = torch.zeros(4, 2, 64, dtype=torch.bfloat16)

    def takes(q: torch.Tensor, history: History) -> bool:
        return hopper_launch.hopper_takes(q, q, q, history)

    for form in ("bf16_slices", "no_slice", "coded", "dense_bf16", "ragged"):
        history = _bf16(random_history(form, [17, 3], seed=4, dim=64)[0])
        assert takes(q, history), form
        assert not takes(q.float(), history), form
        assert not takes(q[..., :48], history), form
    wide = _bf16(random_history("bf16_slices", [17], seed=4, dim=64, width=3)[0])
    assert not takes(q, wide)
    rows = torch.zeros(21, 1, 64, dtype=torch.bfloat16).flatten()[1 : 1 + 20 * 64].view(20, 1, 64)
    assert not takes(q, RaggedHistory(rows, rows, bounds([20])))
    ragged = _bf16(random_history("ragged", [17, 3], seed=4, dim=64)[0])
    assert not takes(rows, ragged)
    assert not hopper_launch.hopper_takes(q, q, rows, ragged)


@pytest.mark.parametrize(
    ("users", "candidates", "longest", "heads", "dim", "splits", "row_tiles"),
    [
        (8, 512, 16384, 4, 64, 1, 1),  # 128 programs for 132 multiprocessors
        (8, 512, 16384, 2, 128, 2, 1),  # 64
        (1, 512, 16384, 2, 128, 16, 1),  # 8
        (64, 512, 512, 2, 128, 1, 4),  # 512: each of 128 takes a user's four tiles
        (32, 128, 2048, 2, 128, 2, 1),
        (64, 1000, 256, 4, 64, 1, 8),  # 2048: 256 take eight each, two after each other
        (64, 1, 16384, 4, 64, 1, 1),  # 256, however few their rows
        (1, 1, 1, 1, 64, 1, 1),
        (1, 1, 300, 1, 64, 1, 1),  # three tiles are no work for two programs
    ],
)
def test_programs_fill_the_machine(
    users: int, candidates: int, longest: int, heads: int, dim: int, splits: int, row_tiles: int
) -> None:
    rows = users * candidates
    plan = choose(Problem(rows, users, longest, heads, heads, dim, 2, 132, hopper=True))
    assert (plan.splits, plan.row_tiles) == (splits, row_tiles)


@pytest.mark.parametrize("form", ["bf16_slices", "dense_bf16"])
@pytest.mark.parametrize(("candidates", "row_tiles"), [([300, 0, 5], 1), ([300, 0, 5], 2)])
def test_there_are_items_for_every_row(
    monkeypatch: pytest.MonkeyPatch, form: str, candidates: list[int], row_tiles: int
) -> None:
    """Every unit of every user has an item; a launch may have some that find no work."""
    launched = Recorder()
    monkeypatch.setattr(hopper_launch, "crossing_kernel", launched)
    monkeypatch.setattr(hopper_launch, "processors", lambda device: 132)
    history = _bf16(random_history(form, [17, 3, 30], seed=4, dim=64)[0])
    q = torch.randn(sum(candidates), 4, 64, dtype=torch.bfloat16)
    own = torch.randn(sum(candidates), 2, 64, dtype=torch.bfloat16)
    plan = Plan("hopper", 128, 128, row_tiles=row_tiles, stages=3)
    hopper_launch.attend_on_hopper(q, own, own, history, bounds(candidates), 0.3, plan)
    units = sum(-(-2 * count // (128 * row_tiles)) for count in candidates)  # two heads a KV head
    assert launched.options["items"] >= units * 2
    assert launched.options["unit"] == row_tiles
    assert launched.grid == (min(launched.options["items"], 132),)
