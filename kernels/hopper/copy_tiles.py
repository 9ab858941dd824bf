"""The copying role: K and V tiles of a history into shared memory, from wherever its rows lie."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    mbarrier,
)

from kernels.hopper.tiles import WARPS, advance, copy_rows

RAGGED = gl.constexpr(0)
"""Rows lie behind each other."""
PAGED = gl.constexpr(1)
"""Rows lie in pages."""
COLLECTIVE = gl.constexpr(2)
"""Pages hold a pool row's number for each side, and user slices."""
CODED = gl.constexpr(3)
"""Pages hold one pool row's number, the code of the key slice and an int8 value slice."""


@gluon.jit
def _row_starts(
    index, pages, page_stride, pool_rows, start, token, end,
    STRIDE: gl.constexpr, PAGE: gl.constexpr, BLOCK_N: gl.constexpr, FORM: gl.constexpr,
):  # fmt: skip
    """A base and [BLOCK_N] offsets at which the rows of a tile's tokens begin.

    Pooled forms give a token past the end some row of the pool; the other two are not to be read.
    """
    if FORM == RAGGED:
        base = start.to(gl.int64) * STRIDE
        starts = token * STRIDE
    elif PAGE % BLOCK_N == 0:  # the tile lies in one page, its tokens behind each other
        some = start < end
        page = gl.load(pages + start // PAGE, mask=some, other=0).to(gl.int64)
        if FORM == PAGED:
            base = page * page_stride + start % PAGE * STRIDE
            starts = token * STRIDE
        else:
            base = gl.to_tensor(0)
            at = page * page_stride + start % PAGE + token
            at = gl.max_contiguous(gl.multiple_of(at, 8), 8)
            row = gl.load(index + at, mask=some, other=0).to(gl.int32)
            starts = gl.minimum(row & 0xFFFF, pool_rows - 1) * STRIDE
    else:
        some = start + token < end
        page = gl.load(pages + (start + token) // PAGE, mask=some, other=0).to(gl.int64)
        slot = (start + token) % PAGE
        base = gl.to_tensor(0)
        if FORM == PAGED:
            starts = page * page_stride + slot * STRIDE
        else:
            row = gl.load(index + page * page_stride + slot, mask=some, other=0).to(gl.int32)
            starts = gl.minimum(row & 0xFFFF, pool_rows - 1) * STRIDE
    return base, starts


@gluon.jit
def _copy(tile, rows, base, starts, d, start, token, end, FORM: gl.constexpr):
    """Begin to copy a tile's rows; what lies past the end of a dense history becomes zero."""
    if FORM == RAGGED or FORM == PAGED:  # noqa: PLR1714, SIM109  Triton compares one by one
        some = start + token < end
        copy_rows(tile, rows + base + starts[:, None] + d[None, :], mask=some[:, None])
    else:
        copy_rows(tile, rows + base + starts[:, None] + d[None, :])
    async_copy.commit_group()


@gluon.jit
def _user_slices(
    k_slices, v_slices, codebook, code_vectors, step, pages, k_stride, v_stride,
    start, token, u, end, U: gl.constexpr, PAGE: gl.constexpr, FORM: gl.constexpr,
):  # fmt: skip
    """[BLOCK_N, U] key and value slices of a tile's tokens; zero past the end."""
    t = start + token
    some = t < end
    page = gl.load(pages + t // PAGE, mask=some, other=0).to(gl.int64)
    slot = t % PAGE
    v_at = (page * v_stride + slot * U)[:, None] + u[None, :]
    v_slice = gl.load(v_slices + v_at, mask=some[:, None], other=0).to(gl.float32) * step
    if FORM == CODED:
        code = gl.load(k_slices + page * k_stride + slot, mask=some, other=0).to(gl.int32) & 0xFF
        code = gl.minimum(code, code_vectors - 1)
        k_slice = gl.load(codebook + (code * U)[:, None] + u[None, :]).to(gl.float32)
    else:
        k_at = (page * k_stride + slot * U)[:, None] + u[None, :]
        k_slice = gl.load(k_slices + k_at, mask=some[:, None], other=0).to(gl.float32)
    return k_slice, v_slice


@gluon.jit
def _hand_over(tile, full, slices, U: gl.constexpr):
    """Put the user slices into a tile that has arrived and let the multiplying role have it."""
    if U > 0:
        tile.slice(0, U, dim=1).store(slices.to(tile.dtype))
    fence_async_shared()
    mbarrier.arrive(full, count=1)


@gluon.jit
def copy_tiles(
    k_tiles, v_tiles, k_full, v_full, k_empty, v_empty, stage, phase,
    k_rows, v_rows, k_index, v_index, k_slices, v_slices, codebook, code_vectors, step,
    pages, row_stride, k_slice_stride, v_slice_stride, pool_rows, first, end, tiles,
    STRIDE: gl.constexpr, D: gl.constexpr, U: gl.constexpr, PAGE: gl.constexpr,
    FORM: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Copy the `tiles` tiles of tokens `first` to `end`; returns where the rings stand.

    `k_rows`, `v_rows` point at the head's part of a pool, a page or a ragged history, whose rows
    are STRIDE numbers apart. A tile is handed over when it has arrived and, with four slots or
    more, the next one's copies are under way: K and V of a dense history come from device memory.
    Slots are waited for first, so no more may be under way: those who multiply would want a tile
    that waits for a slot which they only empty with it.
    """
    # A thread copies 16 bytes of RUN neighbouring tokens: their row numbers are one load.
    PASS: gl.constexpr = WARPS * (256 // D)
    RUN: gl.constexpr = 8 if BLOCK_N >= 8 * PASS else BLOCK_N // PASS
    L: gl.constexpr = gl.BlockedLayout([RUN, 8], [256 // D, D // 8], [WARPS, 1], [1, 0])
    WIDTH: gl.constexpr = U if U > 0 else 1
    SLICES: gl.constexpr = gl.BlockedLayout([1, WIDTH], [32, 1], [WARPS, 1], [1, 0])
    BEHIND: gl.constexpr = 1 if STAGES >= 4 else 0
    token = gl.arange(0, BLOCK_N, gl.SliceLayout(1, L))
    d = gl.arange(0, D, gl.SliceLayout(0, L))
    slice_token = gl.arange(0, BLOCK_N, gl.SliceLayout(1, SLICES))
    u = gl.arange(0, WIDTH, gl.SliceLayout(0, SLICES))
    k_slice = gl.zeros([BLOCK_N, WIDTH], gl.float32, SLICES)
    v_slice = gl.full([BLOCK_N, WIDTH], 1.0, gl.float32, SLICES)
    start = first + (tiles - 1) * BLOCK_N
    k_base, k_at = _row_starts(
        k_index, pages, row_stride, pool_rows, start, token, end, STRIDE, PAGE, BLOCK_N, FORM
    )
    v_base, v_at = _row_starts(
        v_index, pages, row_stride, pool_rows, start, token, end, STRIDE, PAGE, BLOCK_N, FORM
    )
    if BEHIND == 0 and U > 0:
        k_slice, v_slice = _user_slices(
            k_slices, v_slices, codebook, code_vectors, step, pages, k_slice_stride,
            v_slice_stride,
            start, slice_token, u, end, U, PAGE, FORM,
        )  # fmt: skip
    for i in range(tiles):
        older = gl.maximum(start - BLOCK_N, first)
        mbarrier.wait(k_empty.index(stage), phase ^ 1)
        _copy(k_tiles.index(stage), k_rows, k_base, k_at, d, start, token, end, FORM)
        mbarrier.wait(v_empty.index(stage), phase ^ 1)
        _copy(v_tiles.index(stage), v_rows, v_base, v_at, d, start, token, end, FORM)
        k_base, k_at = _row_starts(
            k_index, pages, row_stride, pool_rows, older, token, end, STRIDE, PAGE, BLOCK_N, FORM
        )
        v_base, v_at = _row_starts(
            v_index, pages, row_stride, pool_rows, older, token, end, STRIDE, PAGE, BLOCK_N, FORM
        )
        if i >= BEHIND:
            done = (stage + STAGES - BEHIND) % STAGES
            async_copy.wait_group(2 * BEHIND + 1)
            _hand_over(k_tiles.index(done), k_full.index(done), k_slice, U)
            async_copy.wait_group(2 * BEHIND)
            _hand_over(v_tiles.index(done), v_full.index(done), v_slice, U)
        if U > 0:  # of the tile that is handed over next
            upcoming = gl.maximum(first, first + (tiles - i + BEHIND - 2) * BLOCK_N)
            k_slice, v_slice = _user_slices(
                k_slices, v_slices, codebook, code_vectors, step, pages, k_slice_stride,
                v_slice_stride,
                upcoming, slice_token, u, end, U, PAGE, FORM,
            )  # fmt: skip
        stage, phase = advance(stage, phase, STAGES)
        start = older
    for left in gl.static_range(BEHIND, 0, -1):
        if tiles >= left:
            slot = (stage + STAGES - left) % STAGES
            oldest = first + (left - 1) * BLOCK_N
            if U > 0:
                k_slice, v_slice = _user_slices(
                    k_slices, v_slices, codebook, code_vectors, step, pages, k_slice_stride,
                v_slice_stride,
                    oldest, slice_token, u, end, U, PAGE, FORM,
                )  # fmt: skip
            async_copy.wait_group(2 * left - 1)
            _hand_over(k_tiles.index(slot), k_full.index(slot), k_slice, U)
            async_copy.wait_group(2 * left - 2)
            _hand_over(v_tiles.index(slot), v_full.index(slot), v_slice, U)
    return stage, phase
