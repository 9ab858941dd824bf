"""Expansion of paged histories: a program writes the keys or the values of one tile of tokens.

Every byte written is read once, from a page or from a pool that stays in the L2 cache; a thread
moves 16 bytes at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.ragged import find_page, find_slots, find_tile


@triton.jit
def _tile_slots(
    cu_history, block_table, users, table_width, PAGE_TOKENS: tl.constexpr, BLOCK_T: tl.constexpr
):
    """Page [BLOCK_T] or [], slot [BLOCK_T], which tokens exist, and the first one's output row.

    In a tile past its user's tokens none exists.
    """
    user, begin, end, start = find_tile(cu_history, users, tl.program_id(0), 1, BLOCK_T)
    length = end - begin
    table = block_table + user.to(tl.int64) * table_width
    page = find_page(table, start, length, PAGE_TOKENS, BLOCK_T).to(tl.int64)
    exists = start + tl.arange(0, BLOCK_T) < length
    return page, find_slots(start, PAGE_TOKENS, BLOCK_T), exists, (begin + start).to(tl.int64)


@triton.jit
def _store(out, tile, output_row, exists, WIDTH: tl.constexpr, BLOCK_T: tl.constexpr):
    """Write `tile` [BLOCK_T, columns] to `out` [T, WIDTH] from `output_row` on."""
    column = tl.arange(0, tile.shape[1])[None, :]
    at = out + output_row * WIDTH + tl.arange(0, BLOCK_T)[:, None] * WIDTH + column
    # Streamed: kept in the cache, 128 MiB of output would drive the pools out.
    tl.store(at, tile, mask=exists[:, None] & (column < WIDTH), cache_modifier=".cs")


@triton.jit
def _pool_tile(
    pool,
    row,
    plane,
    table,
    step,
    page,
    slot,
    exists,
    page_stride,
    rows,
    codes,
    dtype: tl.constexpr,
    CODED: tl.constexpr,
    U: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Pool rows [BLOCK_T, BLOCK_C] of `row`, in each head's first U columns the slice.

    A slice is U numbers of `plane`, times `step`; if CODED, `plane` holds codes, rows of `table`.
    """
    column = tl.arange(0, BLOCK_C)[None, :]
    row = tl.minimum(row.to(tl.int32), rows - 1)  # whatever a page holds, inside the pool
    at = pool + row.to(tl.int64)[:, None] * WIDTH + column
    tile = tl.load(at, mask=column < WIDTH, other=0).to(dtype)
    if CODED:
        code = tl.load(plane + page * page_stride + slot, mask=exists, other=0).to(tl.int32)
        slices = table + tl.minimum(code, codes - 1) * U
    else:
        slices = plane + page * page_stride + slot * U
    for u in tl.static_range(U):
        number = tl.load(slices + u, mask=exists, other=0).to(tl.float32) * step
        tile = tl.where(column % D == u, number.to(dtype)[:, None], tile)
    return tile


@triton.jit(do_not_specialize=["users", "table_width"])
def expand_pooled_kernel(
    key_out,  # [T, G, D]
    value_out,
    key_pool,  # [rows, G, D]
    value_pool,
    key_row,  # [pages, PAGE_TOKENS] uint16, as many numbers apart as key_row_stride says
    value_row,
    key_plane,  # [pages, PAGE_TOKENS, U], or codes [pages, PAGE_TOKENS] uint8
    value_plane,
    codebook,  # [codes, U]
    value_scale,  # []
    cu_history,
    block_table,
    users,
    table_width,
    key_row_stride,
    value_row_stride,
    key_stride,
    value_stride,
    rows,
    codes,
    CODED: tl.constexpr,
    U: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: (T // BLOCK_T + B, 2), keys and values."""
    page, slot, exists, output_row = _tile_slots(
        cu_history, block_table, users, table_width, PAGE_TOKENS, BLOCK_T
    )
    if tl.program_id(1) == 0:
        row = tl.load(key_row + page * key_row_stride + slot, mask=exists, other=0)
        tile = _pool_tile(
            key_pool, row, key_plane, codebook, 1.0, page, slot, exists, key_stride, rows, codes,
            key_out.dtype.element_ty, CODED, U, D, WIDTH, BLOCK_C,
        )  # fmt: skip
        _store(key_out, tile, output_row, exists, WIDTH, BLOCK_T)
    else:
        row = tl.load(value_row + page * value_row_stride + slot, mask=exists, other=0)
        step = tl.load(value_scale).to(tl.float32) if CODED else 1.0
        tile = _pool_tile(
            value_pool, row, value_plane, codebook, step, page, slot, exists, value_stride, rows,
            codes, value_out.dtype.element_ty, False, U, D, WIDTH, BLOCK_C,
        )  # fmt: skip
        _store(value_out, tile, output_row, exists, WIDTH, BLOCK_T)


@triton.jit
def _plane_tile(
    plane, page, slot, exists, page_stride, dtype: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The tokens' numbers [BLOCK_T, BLOCK_C] in a dense plane."""
    column = tl.arange(0, BLOCK_C)[None, :]
    at = plane + (page * page_stride + slot * WIDTH)[:, None] + column
    return tl.load(at, mask=exists[:, None] & (column < WIDTH), other=0).to(dtype)


@triton.jit(do_not_specialize=["users", "table_width"])
def copy_paged_kernel(
    key_out,  # [T, G, D]
    value_out,
    key,  # [pages, PAGE_TOKENS, G, D], pages key_stride numbers apart
    value,
    cu_history,
    block_table,
    users,
    table_width,
    key_stride,
    value_stride,
    WIDTH: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: (T // BLOCK_T + B, 2), keys and values."""
    page, slot, exists, output_row = _tile_slots(
        cu_history, block_table, users, table_width, PAGE_TOKENS, BLOCK_T
    )
    if tl.program_id(1) == 0:
        tile = _plane_tile(
            key, page, slot, exists, key_stride, key_out.dtype.element_ty, WIDTH, BLOCK_C
        )
        _store(key_out, tile, output_row, exists, WIDTH, BLOCK_T)
    else:
        tile = _plane_tile(
            value, page, slot, exists, value_stride, value_out.dtype.element_ty, WIDTH, BLOCK_C
        )
        _store(value_out, tile, output_row, exists, WIDTH, BLOCK_T)
