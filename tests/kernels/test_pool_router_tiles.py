"""How the router is cut up: which kernel, which tiles, how many parts, and whether it compiles."""

from __future__ import annotations

import pytest
import torch

from kernels.pool_router import hopper, launch
from kernels.pool_router.launch import route, splits_for, takes_roles, tiles_for
from tests.kernels.compile_for_hopper import Recorder, compile_for_hopper
from tests.kernels.routers import always_roles, random_router

HOPPER_MEMORY = 227 * 1024  # bytes of shared memory a program may have
AMPERE_MEMORY = 99 * 1024  # of the smallest GPU that multiplies bfloat16


@pytest.mark.parametrize(
    ("tokens", "width", "dtype", "capability", "skipped", "expected"),
    [
        (65, 256, torch.bfloat16, (9, 0), 0, True),
        (16384, 72, torch.bfloat16, (9, 0), 8, True),
        (64, 256, torch.bfloat16, (9, 0), 0, False),
        (65, 264, torch.bfloat16, (9, 0), 0, False),
        (65, 56, torch.bfloat16, (9, 0), 0, False),
        (65, 100, torch.bfloat16, (9, 0), 0, False),
        (65, 72, torch.bfloat16, (9, 0), 4, False),
        (65, 256, torch.float32, (9, 0), 0, False),
        (65, 256, torch.bfloat16, (10, 0), 0, False),
        (65, 256, torch.bfloat16, (8, 9), 0, False),
    ],
)
def test_hopper_takes_what_its_kernel_can(
    tokens: int,
    width: int,
    dtype: torch.dtype,
    capability: tuple[int, int],
    skipped: int,
    expected: bool,
) -> None:
    """`skipped` numbers before a tensor decide whether it begins on 16 bytes."""
    aligned = torch.zeros(tokens * width, dtype=dtype).view(tokens, width)
    shifted = torch.zeros(skipped + tokens * width, dtype=dtype)[skipped:].view(tokens, width)
    assert takes_roles(shifted, aligned[None], capability) is expected
    assert takes_roles(aligned, shifted[None], capability) is expected


@pytest.mark.parametrize(("tokens", "roles"), [(64, False), (65, True)])
def test_a_launch_asks_the_rule(monkeypatch: pytest.MonkeyPatch, tokens: int, roles: bool) -> None:
    with_roles, plain = Recorder(), Recorder()
    monkeypatch.setattr(hopper, "best_rows_by_roles", with_roles)
    monkeypatch.setattr(launch, "best_rows", plain)
    monkeypatch.setattr(launch, "_capability", lambda device: (9, 0))
    route(*random_router(tokens, 64, 5, 1, torch.bfloat16))
    assert hasattr(with_roles, "args") is roles
    assert hasattr(plain, "args") is not roles


@pytest.mark.parametrize(
    ("tokens", "width", "rows", "sides", "grid"),
    [(1, 64, 1, 1, (1, 1, 1)), (300, 256, 8192, 2, (2, 2, 32)), (16384, 200, 64, 4, (64, 4, 1))],
)
def test_the_hopper_kernel_compiles(
    monkeypatch: pytest.MonkeyPatch,
    tokens: int,
    width: int,
    rows: int,
    sides: int,
    grid: tuple[int, int, int],
) -> None:
    """What a launch hands over, compiled; registers that spill would cost more than roles save."""
    launched = Recorder()
    monkeypatch.setattr(hopper, "best_rows_by_roles", launched)
    always_roles(monkeypatch)
    monkeypatch.setattr(launch, "_processors", lambda device: 132)
    route(*random_router(tokens, width, rows, sides, torch.bfloat16))
    assert launched.grid == grid
    kernel = f"{hopper.__name__}:best_rows_by_roles"
    compiled = compile_for_hopper(kernel, launched.args, **launched.options)
    assert compiled["shared"] <= HOPPER_MEMORY
    assert compiled["stack"] == 0
    padded = 64 if width == 64 else 256
    assert compiled["wgmma"] == 2 * padded // 16  # two groups, m64n128k16


@pytest.mark.parametrize("tokens", [1, 64, 65, 16384])
@pytest.mark.parametrize("width", [1, 16, 96, 128, 256, 257, 1024])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_tiles_fit_shared_memory(tokens: int, width: int, dtype: torch.dtype) -> None:
    tile = tiles_for(tokens, width, dtype)
    resident = tile.width >= width
    streamed = tile.rows * tile.width + (0 if resident else tile.tokens * tile.width)
    kept = tile.tokens * tile.width if resident else 0
    assert (kept + tile.stages * streamed) * dtype.itemsize <= AMPERE_MEMORY
    for size in (tile.tokens, tile.rows, tile.width):
        assert size >= 16
        assert size & (size - 1) == 0


@pytest.mark.parametrize(
    ("programs", "tiles", "expected"),
    [
        (128, 128, 1),  # 16384 tokens, two sides: one wave of 132
        (32, 128, 4),  # 4096 tokens: four parts fill it
        (66, 128, 2),
        (158, 128, 4),  # two waves of everything, or five of a quarter
        (1, 1, 1),
        (2, 3, 3),
    ],
)
def test_splits_fill_the_processors(programs: int, tiles: int, expected: int) -> None:
    assert splits_for(programs, tiles, 132) == expected
