"""Tile sizes, plan and launch of the Triton kernels for causal attention."""

from __future__ import annotations

from dataclasses import dataclass
from math import e, log2

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from kernels.context_attention import hopper
from kernels.context_attention.kernel import context_attention_kernel, join_splits_kernel
from kernels.device import is_hopper, processors
from kernels.hopper.limits import DIMS, TILE_ROWS, is_aligned, steps_for

PROGRAMS_AT_ONCE = 264
"""Two on each of an H200's 132 multiprocessors: an append with fewer has its keys split."""
SPLIT_KEYS = 512
"""Keys that are worth a program of their own."""
HOPPER_GRID = 65535
"""Tiles of a grid's second axis, on which the Hopper kernel has them."""


@dataclass(frozen=True)
class Tiles:
    """Rows and keys a program works on at a time, its warps and its loads in flight."""

    rows: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Plan:
    """How a call is cut up, from sizes that the host knows."""

    tiles: Tiles
    row_tiles: int
    splits: int


_TILES = {
    # short, tall; by the largest head dimension they are for
    (torch.bfloat16, 64): (Tiles(16, 64, 4, 4), Tiles(128, 64, 8, 3)),
    (torch.bfloat16, 128): (Tiles(16, 64, 4, 3), Tiles(128, 64, 8, 3)),
    (torch.bfloat16, 256): (Tiles(16, 64, 4, 2), Tiles(128, 64, 8, 2)),
    (torch.float32, 64): (Tiles(16, 32, 8, 2), Tiles(64, 32, 8, 2)),
    (torch.float32, 128): (Tiles(16, 32, 8, 2), Tiles(32, 64, 8, 2)),
    (torch.float32, 256): (Tiles(16, 32, 8, 2), Tiles(16, 32, 8, 2)),
}


def plan(q: Tensor, k: Tensor, users: int) -> Plan:
    """Tall tiles and whole rows of keys where all tokens are new, whatever else is in the call.

    Appends of few rows a user take short tiles; appends too small to fill the machine have each
    user's keys split among programs.
    """
    tokens, heads, dim = q.shape
    keys, kv_heads, _ = k.shape
    rows = tokens * heads // kv_heads  # of one key head
    short, tall = _TILES[q.dtype, max(64, dim)]
    append = tokens < keys
    tiles = short if append and rows <= 2 * short.rows * users else tall
    row_tiles = rows // tiles.rows + users
    fill = PROGRAMS_AT_ONCE // (row_tiles * kv_heads)
    splits = max(1, min(fill, cdiv(keys, SPLIT_KEYS))) if append else 1
    return Plan(tiles, row_tiles, splits)


def hopper_takes(q: Tensor, k: Tensor, v: Tensor, users: int) -> bool:
    """Whether the Hopper kernel runs: every bfloat16 encode, and appends that fill the machine.

    It splits no keys, which leaves an append of few tokens to a long history to few programs. Views
    that do not begin on 16 bytes, and batches of more tiles than its grid has, are left too.
    """
    tokens, heads, dim = q.shape
    if not (is_hopper(q.device) and q.dtype == torch.bfloat16 and dim in DIMS):
        return False
    if not all(is_aligned(rows) for rows in (q, k, v)):
        return False
    if hopper_tiles(tokens, users) > HOPPER_GRID:
        return False
    programs = (tokens // TILE_ROWS + users) * heads
    return tokens == len(k) or programs >= processors(q.device)


def hopper_tiles(tokens: int, users: int) -> int:
    """Most tiles that there can be.

    They begin at multiples of TILE_ROWS of a user's positions: its first and its last may both be
    part-filled.
    """
    return tokens // TILE_ROWS + 2 * users


def attend(
    q: Tensor, k: Tensor, v: Tensor, cu_query: Tensor, cu_history: Tensor, scale: float
) -> Tensor:
    """See `kernels.context_attention.context_attention`."""
    tokens, heads, dim = q.shape
    kv_heads, users = k.shape[1], len(cu_history) - 1
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if tokens == 0:
        return out
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    if hopper_takes(q, k, v, users):
        keys, stages = steps_for(dim)
        hopper.context_kernel[heads, hopper_tiles(tokens, users)](
            q,
            k,
            v,
            out,
            cu_query,
            cu_history,
            users,
            scale * log2(e),
            GROUP=heads // kv_heads,
            KV_HEADS=kv_heads,
            D=dim,
            BLOCK_N=keys,
            STAGES=stages,
            num_warps=4,
        )
        return out
    cut = plan(q, k, users)
    part, part_max, part_sum = out, out, out
    if cut.splits > 1:
        shape = (cut.splits, tokens, heads)
        part = torch.empty(*shape, dim, dtype=torch.float32, device=q.device)
        part_max, part_sum = torch.empty(2, *shape, dtype=torch.float32, device=q.device)
    context_attention_kernel[(cut.row_tiles * kv_heads * cut.splits,)](
        q,
        k,
        v,
        part,
        part_max,
        part_sum,
        cu_query,
        cu_history,
        users,
        cut.row_tiles,
        tokens,
        scale * log2(e),
        HEADS=heads,
        GROUP=heads // kv_heads,
        DIM=dim,
        BLOCK_M=cut.tiles.rows,
        BLOCK_N=cut.tiles.keys,
        SPLITS=cut.splits,
        PRECISION="ieee",
        num_warps=cut.tiles.warps,
        num_stages=cut.tiles.stages,
    )
    if cut.splits > 1:
        join_splits_kernel[(tokens * heads,)](
            part,
            part_max,
            part_sum,
            out,
            tokens * heads,
            DIM=dim,
            SPLITS=cut.splits,
            BLOCK_S=next_power_of_2(cut.splits),
            num_warps=1,
        )
    return out
