"""Causal self-attention for Hopper: a program a query tile and head, the longest rows first."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from kernels.hopper.attend_rows import attend_rows
from kernels.hopper.copy_tiles import RAGGED, copy_tiles
from kernels.hopper.tiles import (
    COPY_REGISTERS,
    MULTIPLY_REGISTERS,
    ROWS,
    TILE_ROWS,
    allocate_tiles,
    find_user,
)


@gluon.jit
def _multiply(
    q_tile, k_tiles, v_tiles, k_full, v_full, k_empty, v_empty,
    q, k, v, out, token0, head, row0, first_row, end_row, limit, tiles, scale_log2,
    HEADS: gl.constexpr, D: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    one = gl.minimum(tiles, 1)  # Triton 3.6 fails on a loop of which it knows that it turns once
    attend_rows(
        q_tile, q_tile, q_tile, k_tiles, v_tiles, k_full, v_full, k_empty, v_empty,
        gl.to_tensor(0), gl.to_tensor(0),
        q, k, v, out, out, out, 0,
        token0, head, row0, first_row, end_row, one, 0, limit, tiles, scale_log2,
        False, True, HEADS, 1, D, BLOCK_N, STAGES, 1,
    )  # fmt: skip


@gluon.jit
def _copy(
    k_tiles, v_tiles, k_full, v_full, k_empty, v_empty, k, v, end, tiles,
    STRIDE: gl.constexpr, D: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    copy_tiles(
        k_tiles, v_tiles, k_full, v_full, k_empty, v_empty,
        gl.to_tensor(0), gl.to_tensor(0),
        k, v, k, v, k, v, k, 0, 1.0, k, 0, 0, 0, 0, gl.to_tensor(0), end, tiles,
        STRIDE, D, 0, BLOCK_N, RAGGED, BLOCK_N, STAGES,
    )  # fmt: skip


@gluon.jit(do_not_specialize=["users"])
def context_kernel(
    q, k, v, out, cu_query, cu_history, users, scale_log2,
    GROUP: gl.constexpr, KV_HEADS: gl.constexpr, D: gl.constexpr, BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr,
):  # fmt: skip
    """[T_new, H, D] causal attention of each user's newest tokens to all of its tokens.

    Tiles begin at multiples of TILE_ROWS of a user's own positions, so that a query meets the same
    tiles in the same order whether it is encoded or appended. A user's later tiles, which see more,
    come first. Grid: (H, most tiles that there can be).
    """
    HEADS: gl.constexpr = GROUP * KV_HEADS
    head = gl.program_id(0)
    user, tile = find_user(cu_query, cu_history, users, gl.program_id(1), 1, TILE_ROWS)
    if user < users:
        query0 = gl.load(cu_query + user)
        token0 = gl.load(cu_history + user)
        tokens = gl.load(cu_history + user + 1) - token0
        older = tokens - gl.load(cu_query + user + 1) + query0
        row0 = ((tokens - 1) // TILE_ROWS - tile) * TILE_ROWS
        q_tiles, _, _, k_tiles, v_tiles, k_full, v_full, k_empty, v_empty = allocate_tiles(
            q.dtype.element_ty, D, BLOCK_N, STAGES, False
        )
        end = gl.minimum(row0 + TILE_ROWS, tokens)
        tiles = gl.cdiv(end, BLOCK_N)
        limit = row0 - (tiles - 1) * BLOCK_N
        start = (token0.to(gl.int64) * KV_HEADS + head // GROUP) * D
        gl.warp_specialize(
            [
                (_multiply, (
                    q_tiles.index(0), k_tiles, v_tiles, k_full, v_full, k_empty, v_empty,
                    q, k, v, out, query0 - older, head, row0, older, tokens, limit, tiles,
                    scale_log2, HEADS, D, BLOCK_N, STAGES,
                )),
                (_multiply, (
                    q_tiles.index(1), k_tiles, v_tiles, k_full, v_full, k_empty, v_empty,
                    q, k, v, out, query0 - older, head, row0 + ROWS, older, tokens, limit + ROWS,
                    tiles, scale_log2, HEADS, D, BLOCK_N, STAGES,
                )),
                (_copy, (
                    k_tiles, v_tiles, k_full, v_full, k_empty, v_empty, k + start, v + start, end,
                    tiles, KV_HEADS * D, D, BLOCK_N, STAGES,
                )),
            ],
            [4, 4],
            [MULTIPLY_REGISTERS, COPY_REGISTERS],
        )  # fmt: skip
