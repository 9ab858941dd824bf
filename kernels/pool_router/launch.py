"""Tile shapes, splits and launches of the Triton router."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from kernels.checks import require
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


def tiles_for(tokens: int, width: int, dtype: torch.dtype) -> Tiles:
    """Tile shapes for `tokens` tokens of `width` numbers on an H200.

    A hidden tile that stays halves what is read, but 256 tokens of 256 bfloat16 numbers (128 KiB)
    and three router tiles (96 KiB) fill shared memory. float32 has no exact matrix unit.
    """
    if dtype == torch.float32:
        return Tiles(tokens=64, rows=64, width=32, warps=4, stages=2)
    padded = max(16, triton.next_power_of_2(width))
    if padded > 256:
        return Tiles(tokens=128, rows=128, width=64, warps=8, stages=3)
    if tokens <= 64:
        return Tiles(tokens=64, rows=64, width=padded, warps=4, stages=3)
    return Tiles(tokens=256, rows=64, width=padded, warps=8, stages=3)


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

    tile = tiles_for(tokens, width, hidden.dtype)
    blocks, tiles = triton.cdiv(tokens, tile.tokens), triton.cdiv(rows, tile.rows)
    splits = splits_for(blocks * sides, tiles, _processors(hidden.device))
    tiles_each = triton.cdiv(tiles, splits)
    splits = triton.cdiv(tiles, tiles_each)  # none is without tiles
    split_row, split_logit = row, logit
    if splits > 1:
        split_row = torch.empty(splits, sides, tokens, dtype=torch.int32, device=hidden.device)
        split_logit = torch.empty_like(split_row, dtype=torch.float32)
    best_rows[(blocks, sides, splits)](
        hidden.contiguous(),
        weight.contiguous(),
        bias.contiguous(),
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


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 132  # the interpreter splits as an H200 would
    return torch.cuda.get_device_properties(device).multi_processor_count
