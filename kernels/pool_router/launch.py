"""Tile shapes, splits and launches of the Triton router."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from kernels.checks import require
from kernels.device import processors
from kernels.dispatch import TRITON_DTYPES
from kernels.pool_router.kernel import best_rows, best_splits

_PROGRAM_TILES = 4  # what starting and ending a program costs, in tiles
_MOST_SPLITS = 64
_MERGE_BLOCK = 256


@dataclass(frozen=True)
class Tiles:
    """How one program works."""

    tokens: int
    rows: int
    width: int
    """Numbers of E a product takes; at least E where the hidden tile stays in shared memory."""
    warps: int
    stages: int


ROLES = Tiles(tokens=256, rows=64, width=256, warps=4, stages=2)
"""The kernel of `kernels.pool_router.hopper`; `width` is the largest it takes.

Two hidden tiles (128 KiB) and two router tiles (64 KiB) lie in shared memory. A third router tile
was 1 % slower, explicit turns of the two groups 1 to 3 %.
"""


def takes_roles(hidden: Tensor, weight: Tensor, capability: tuple[int, int]) -> bool:
    """Whether the Hopper kernel routes these contiguous tensors, or the plain one.

    On an H200 (bfloat16, E = 256) it takes 173 us for 16384 tokens and two sides of 8192 rows,
    where the plain kernel's best tiles take 263 us and a product at cuBLAS's rate 176 us; 50 us
    for 4096 tokens and 31 us for one side of 2048 rows, where the plain kernel with 256 tokens a
    program takes 75 us and 41 us. Any number of rows will do. Left to the plain kernel are

    - up to 64 tokens, for which three quarters of its 256 columns would be padding;
    - rows that do not begin on 16 bytes, which the copying hardware (TMA) refuses;
    - E below 64, less than its tiles' swizzle is wide, and above 256, where tiles do not fit.
    """
    width = hidden.shape[1]
    return (
        capability[0] == 9
        and hidden.dtype == torch.bfloat16
        and len(hidden) > 64
        and 64 <= width <= ROLES.width
        and width % 8 == 0
        and hidden.data_ptr() % 16 == 0
        and weight.data_ptr() % 16 == 0
    )


def tiles_for(tokens: int, width: int, dtype: torch.dtype) -> Tiles:
    """Tile shapes of the plain kernel for `tokens` tokens of `width` numbers.

    Up to E = 256 a hidden tile stays in shared memory, which halves what is read. 128 tokens and
    one router tile (96 KiB) leave room for a second program on an H200's multiprocessor, which
    multiplies while the first one copies or compares. In the case of `takes_roles` that takes
    263 us; one program with 256 tokens and three router tiles 275 us, with 128 and four 322 us;
    two programs with 64 and two 381 us. float32 has no exact matrix unit.
    """
    if dtype == torch.float32:
        return Tiles(tokens=64, rows=64, width=32, warps=4, stages=2)
    padded = max(16, triton.next_power_of_2(width))
    if padded > 256:
        return Tiles(tokens=128, rows=128, width=64, warps=8, stages=3)
    if tokens <= 64:
        return Tiles(tokens=64, rows=64, width=padded, warps=4, stages=2)
    return Tiles(tokens=128, rows=64, width=padded, warps=4, stages=1)


def splits_for(programs: int, tiles: int, processors: int) -> int:
    """Into how many parts the router's rows go so that all processors finish soonest."""

    def cost(splits: int) -> int:
        waves = triton.cdiv(programs * splits, processors)
        return waves * (triton.cdiv(tiles, splits) + _PROGRAM_TILES)

    return min(range(1, min(tiles, _MOST_SPLITS) + 1), key=cost)  # the fewest among equals


def route(hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """See `kernels.pool_router.pool_router`; dtypes are bfloat16 or float32, all the same.

    Logits are sums in float32 and compared as such; only the answer is rounded to the dtype of
    `hidden`. A logit that is NaN never wins.

    Raises:
        ValueError: dtypes or devices differ, or a router has no rows.
    """
    sides, rows, width = weight.shape
    tokens = len(hidden)
    require(hidden.dtype in TRITON_DTYPES, "hidden", f"dtype {hidden.dtype}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        require(
            tensor.dtype == hidden.dtype and tensor.device == hidden.device,
            name,
            f"{tensor.dtype} on {tensor.device}, expected {hidden.dtype} on {hidden.device}",
        )
    require(rows > 0, "weight", "no rows to choose from")
    row = torch.empty(sides, tokens, dtype=torch.int64, device=hidden.device)
    logit = torch.empty(sides, tokens, dtype=hidden.dtype, device=hidden.device)
    if row.numel() == 0:
        return row, logit

    hidden, weight, bias = hidden.contiguous(), weight.contiguous(), bias.contiguous()
    roles = takes_roles(hidden, weight, _capability(hidden.device))
    tile = ROLES if roles else tiles_for(tokens, width, hidden.dtype)
    blocks, tiles = triton.cdiv(tokens, tile.tokens), triton.cdiv(rows, tile.rows)
    splits = splits_for(blocks * sides, tiles, _processors(hidden.device))
    tiles_each = triton.cdiv(tiles, splits)
    splits = triton.cdiv(tiles, tiles_each)  # none is without tiles
    split_row, split_logit = row, logit
    if splits > 1:
        split_row = torch.empty(splits, sides, tokens, dtype=torch.int32, device=hidden.device)
        split_logit = torch.empty_like(split_row, dtype=torch.float32)
    grid = (blocks, sides, splits)
    if roles:
        _launch_roles(grid, hidden, weight, bias, split_row, split_logit, tiles_each)
    else:
        best_rows[grid](
            hidden,
            weight,
            bias,
            split_row,
            split_logit,
            tokens,
            rows,
            tiles_each,
            E=width,
            BLOCK_T=tile.tokens,
            BLOCK_P=tile.rows,
            BLOCK_E=tile.width,
            STAGES=tile.stages,
            num_warps=tile.warps,
        )
    if splits > 1:
        best_splits[(triton.cdiv(row.numel(), _MERGE_BLOCK),)](
            split_row, split_logit, row, logit, row.numel(), splits, BLOCK=_MERGE_BLOCK
        )
    return row, logit


def _launch_roles(
    grid: tuple[int, int, int],
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    row: Tensor,
    logit: Tensor,
    tiles_each: int,
) -> None:
    # Gluon is experimental: only a launch that has its kernel needs it
    from triton.experimental.gluon import language as gl  # noqa: PLC0415
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor  # noqa: PLC0415

    from kernels.pool_router.hopper import best_rows_by_roles  # noqa: PLC0415

    tokens, width = hidden.shape
    sides, rows, _ = weight.shape

    def blocks_of(matrix: Tensor, length: int, count: int) -> TensorDescriptor:
        block = [count, triton.next_power_of_2(width)]
        layout = gl.NVMMASharedLayout.get_default_for(block, gl.bfloat16)
        return TensorDescriptor(matrix, [length, width], [width, 1], block, layout)

    best_rows_by_roles[grid](
        blocks_of(hidden, tokens, ROLES.tokens // 2),
        blocks_of(weight, sides * rows, ROLES.rows),
        bias,
        row,
        logit,
        tokens,
        rows,
        tiles_each,
        STAGES=ROLES.stages,
        # 12 warps, the last three idle, begin with 168 registers a thread: 64512 of 65536
        MULTIPLY_REGISTERS=240,
        COPY_REGISTERS=24,
        num_warps=ROLES.warps,
        maxnreg=168,
    )


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 132  # the interpreter splits as an H200 would
    return processors(device)
