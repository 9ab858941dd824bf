"""Crossing attention for Hopper: each program takes tiles of candidates until none is left."""

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
def _work(
    item, unit, cu_candidates, cu_history, users,
    GROUP: gl.constexpr, KV_HEADS: gl.constexpr, BLOCK_N: gl.constexpr, SPLITS: gl.constexpr,
):  # fmt: skip
    """Whose rows and which tokens an item has; without `row_tiles` it has no work.

    Items go splits first, then heads, then units of `unit` tiles of rows, so that those without
    work come last.
    """
    split = item % SPLITS
    kv_head = item // SPLITS % KV_HEADS
    number = item // SPLITS // KV_HEADS
    unit_rows = unit * TILE_ROWS
    user, number = find_user(cu_candidates, cu_candidates, users, number, GROUP, unit_rows)
    someone = user < users
    candidate0 = gl.load(cu_candidates + user)
    rows = (gl.load(cu_candidates + user + 1, mask=someone, other=0) - candidate0) * GROUP
    row0 = number * unit_rows
    row_tiles = gl.where(someone, gl.minimum(unit, gl.cdiv(rows - row0, TILE_ROWS)), 0)
    begin = gl.load(cu_history + user)
    tokens = gl.load(cu_history + user + 1, mask=someone, other=0) - begin
    share = gl.cdiv(gl.cdiv(tokens, BLOCK_N), SPLITS) * BLOCK_N
    first = split * share
    end = gl.minimum(tokens, first + share)
    tiles = gl.maximum(1, gl.cdiv(end - first, BLOCK_N))  # a tile of nothing, if there is none
    return user, kv_head, split, candidate0, row0, rows, row_tiles, first, end, tiles


@gluon.jit
def _multiply(
    q_tile, k_own, v_own, k_tiles, v_tiles, k_full, v_full, k_empty, v_empty,
    q, k_self, v_self, out, partial, statistics, all_rows, cu_candidates, cu_history, users,
    unit, items, offset, scale_log2,
    GROUP: gl.constexpr, KV_HEADS: gl.constexpr, D: gl.constexpr, BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr, SPLITS: gl.constexpr,
):  # fmt: skip
    """One warpgroup: rows `offset` to `offset + ROWS` of every tile of the program."""
    stage = 0
    phase = 0
    for item in range(gl.program_id(0), items, gl.num_programs(0)):
        user, kv_head, split, candidate0, row0, rows, row_tiles, first, end, tiles = _work(
            item, unit, cu_candidates, cu_history, users, GROUP, KV_HEADS, BLOCK_N, SPLITS
        )
        if row_tiles > 0:
            newest = end - first - (tiles - 1) * BLOCK_N
            stage, phase = attend_rows(
                q_tile, k_own, v_own, k_tiles, v_tiles, k_full, v_full, k_empty, v_empty,
                stage, phase, q, k_self, v_self, out, partial, statistics, all_rows,
                candidate0, kv_head * GROUP, row0 + offset, 0, rows, row_tiles, split, newest - 1,
                tiles, scale_log2,
                True, False, KV_HEADS * GROUP, GROUP, D, BLOCK_N, STAGES, SPLITS,
            )  # fmt: skip


@gluon.jit
def _copy(
    k_tiles, v_tiles, k_full, v_full, k_empty, v_empty,
    k_rows, v_rows, k_index, v_index, k_slices, v_slices, codebook, code_vectors, step,
    block_table, table_stride, row_stride, k_slice_stride, v_slice_stride, pool_rows,
    cu_candidates, cu_history, users, unit, items,
    GROUP: gl.constexpr, KV_HEADS: gl.constexpr, D: gl.constexpr, U: gl.constexpr,
    PAGE: gl.constexpr, FORM: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
    SPLITS: gl.constexpr,
):  # fmt: skip
    """One warpgroup: K and V for every tile of the program, ahead of those who multiply.

    A history that fits into the rings is copied once for all rows of a unit.
    """
    stage = 0
    phase = 0
    for item in range(gl.program_id(0), items, gl.num_programs(0)):
        user, kv_head, split, candidate0, row0, rows, row_tiles, first, end, tiles = _work(
            item, unit, cu_candidates, cu_history, users, GROUP, KV_HEADS, BLOCK_N, SPLITS
        )
        begin = kv_head * D
        if FORM == RAGGED:
            begin += gl.load(cu_history + user).to(gl.int64) * KV_HEADS * D
        for _ in range(gl.where(tiles <= STAGES, gl.minimum(row_tiles, 1), row_tiles)):
            stage, phase = copy_tiles(
                k_tiles, v_tiles, k_full, v_full, k_empty, v_empty, stage, phase,
                k_rows + begin, v_rows + begin, k_index, v_index, k_slices, v_slices,
                codebook, code_vectors, step, block_table + user.to(gl.int64) * table_stride,
                row_stride, k_slice_stride, v_slice_stride, pool_rows, first, end, tiles,
                KV_HEADS * D, D, U, PAGE, FORM, BLOCK_N, STAGES,
            )  # fmt: skip


@gluon.jit(do_not_specialize=["all_rows", "users", "unit", "items", "code_vectors", "pool_rows"])
def crossing_kernel(
    q, k_self, v_self, out, partial, statistics, all_rows, cu_candidates, cu_history, users,
    unit, items, k_rows, v_rows, k_index, v_index, k_slices, v_slices, codebook,
    code_vectors, value_scale,
    block_table, table_stride, row_stride, k_slice_stride, v_slice_stride, pool_rows, scale_log2,
    GROUP: gl.constexpr, KV_HEADS: gl.constexpr, D: gl.constexpr, U: gl.constexpr,
    PAGE: gl.constexpr, FORM: gl.constexpr, SCALED: gl.constexpr, BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr, SPLITS: gl.constexpr,
):  # fmt: skip
    """[N, H, D] attention of candidates over their users' history and themselves.

    Grid: as many programs as run at once; `items` = most units there can be * KV_HEADS * SPLITS.
    """
    q_tiles, k_own, v_own, k_tiles, v_tiles, k_full, v_full, k_empty, v_empty = allocate_tiles(
        q.dtype.element_ty, D, BLOCK_N, STAGES, True
    )
    step = 1.0
    if SCALED:
        step = gl.load(value_scale).to(gl.float32)
    gl.warp_specialize(
        [
            (_multiply, (
                q_tiles.index(0), k_own.index(0), v_own.index(0), k_tiles, v_tiles,
                k_full, v_full, k_empty, v_empty,
                q, k_self, v_self, out, partial, statistics, all_rows, cu_candidates, cu_history,
                users, unit, items, 0, scale_log2, GROUP, KV_HEADS, D, BLOCK_N, STAGES, SPLITS,
            )),
            (_multiply, (
                q_tiles.index(1), k_own.index(1), v_own.index(1), k_tiles, v_tiles,
                k_full, v_full, k_empty, v_empty,
                q, k_self, v_self, out, partial, statistics, all_rows, cu_candidates, cu_history,
                users, unit, items, ROWS, scale_log2, GROUP, KV_HEADS, D, BLOCK_N, STAGES,
                SPLITS,
            )),
            (_copy, (
                k_tiles, v_tiles, k_full, v_full, k_empty, v_empty,
                k_rows, v_rows, k_index, v_index, k_slices, v_slices, codebook, code_vectors, step,
                block_table, table_stride, row_stride, k_slice_stride, v_slice_stride, pool_rows,
                cu_candidates, cu_history, users, unit, items,
                GROUP, KV_HEADS, D, U, PAGE, FORM, BLOCK_N, STAGES, SPLITS,
            )),
        ],
        [4, 4],
        [MULTIPLY_REGISTERS, COPY_REGISTERS],
    )  # fmt: skip
