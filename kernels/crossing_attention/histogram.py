"""The histogram plan: a coded history is counted by pool row, then attention runs over the pool.

Its cost is that of the pool, however long the history (`histogram_kernel.py` has the mathematics).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import e, log2

import torch
from torch import Tensor

from kernels.checks import require
from kernels.crossing_attention.histogram_kernel import attend_kernel, count_kernel, plane_kernel
from kernels.crossing_attention.parts import Parts
from kernels.crossing_attention.plans import MAX_SPLITS
from kernels.device import processors
from kernels.histories import CodedHistory

LARGEST_WORKSPACE = 1 << 28
"""256 MiB: 163 users of 8192 pool rows, 16 codes and a slice of one number in bfloat16."""
WIDEST_SUMS = 128
"""Columns of sums that a program can hold: (1 + U) * N_b, padded."""
LARGEST_HEAD = 256
PADDED_ROWS = 128
"""Planes end on a multiple of this, so that no tile of pool rows asks where they end."""
TOKENS_AT_ONCE = 1024
"""Tokens that a program counts."""


@dataclass(frozen=True)
class Tile:
    """One program of the attention."""

    block_m: int
    """Query rows: candidates x query heads of one KV head."""
    block_r: int
    """Pool rows of a step."""
    warps: int
    stages: int
    """Steps in flight."""


def attend_histogram(
    q: Tensor,
    k_self: Tensor,
    v_self: Tensor,
    history: CodedHistory,
    cu_candidates: Tensor,
    scale: float,
) -> Tensor:
    """As `kernels.crossing_attention.crossing_attention`, checked there, for what `histogram_fits`.

    A count is exact up to 2^31 / 128 tokens of one user with one row and code, some 16 million. In
    bfloat16 counts and sums are rounded to its 8 bits once they are complete, as weights are.
    """
    candidates, heads, dim = q.shape
    kv_heads, users = k_self.shape[1], len(cu_candidates) - 1
    if not candidates:
        return torch.empty_like(q)
    codes, width = history.codebook.shape
    sums = _padded_sums(codes, width)
    require(sums <= WIDEST_SUMS, "codebook", f"{sums} sums a pool row, at most {WIDEST_SUMS}")
    q, k_self, v_self = q.contiguous(), k_self.contiguous(), v_self.contiguous()
    pool_rows, padded_rows = len(history.key_pool), _padded(len(history.key_pool), PADDED_ROWS)
    tile = _tile(q.element_size(), dim)
    rows = candidates * heads
    programs = -(-rows // kv_heads // tile.block_m) * kv_heads
    splits = _splits(programs, padded_rows // tile.block_r, processors(q.device))
    parts = Parts.like(q, splits)
    # Tiles of one user: at most its rows / block_m and a part of one.
    tiles = rows // kv_heads // tile.block_m + users
    attend_kernel[tiles, kv_heads, splits](
        q,
        k_self,
        v_self,
        parts.out,
        parts.partial,
        parts.statistics,
        history.key_pool,
        history.value_pool,
        histogram(history, q.dtype),
        history.codebook,
        history.value_scale,
        cu_candidates,
        scale=scale * log2(e),
        users=users,
        row_count=rows,
        pool_rows=pool_rows,
        padded_rows=padded_rows,
        CODES=codes,
        U=width,
        H=heads,
        G=kv_heads,
        D=dim,
        SPLITS=splits,
        BLOCK_M=tile.block_m,
        BLOCK_R=tile.block_r,
        BLOCK_B=_padded_codes(codes),
        BLOCK_W=sums,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return parts.merged()


def histogram(history: CodedHistory, dtype: torch.dtype) -> Tensor:
    """Counts and value sums [B, 1 + U, codes, rows] in `dtype`, zeros behind N_b codes and P rows.

    `[b, 0]` counts user b's tokens, `[b, 1 + u]` sums number u of their value slices, in steps.
    """
    pages, device = history.pages, history.row.device
    users = len(pages.cu_history) - 1
    codes, width = history.codebook.shape
    rows, words = len(history.key_pool), _words(width)
    padded_rows, padded_codes = _padded(rows, PADDED_ROWS), _padded_codes(codes)
    cells = torch.zeros(users, words, codes, rows, dtype=torch.int64, device=device)
    planes = torch.empty(users, 1 + width, padded_codes, padded_rows, dtype=dtype, device=device)
    slots = _power_of_2(pages.page_tokens)
    together = max(1, TOKENS_AT_ONCE // slots)
    if pages.longest:
        count_kernel[-(-pages.longest // (together * pages.page_tokens)), users](
            cells,
            history.row.view(torch.int16),
            history.key_code,
            history.value_slice,
            pages.block_table,
            pages.cu_history,
            pages.block_table.stride(0),
            history.row.stride(0),
            history.key_code.stride(0),
            history.value_slice.stride(0),
            rows,
            PAGE_TOKENS=pages.page_tokens,
            CODES=codes,
            U=width,
            WORDS=words,
            PAGES=together,
            SLOTS=slots,
            num_warps=4,
        )
    block_rows = 64
    plane_kernel[padded_rows // block_rows, users](
        cells,
        planes,
        rows,
        padded_rows,
        CODES=codes,
        U=width,
        WORDS=words,
        BLOCK_B=padded_codes,
        BLOCK_R=block_rows,
        num_warps=4,
    )
    return planes


def workspace_bytes(users: int, history: CodedHistory, dtype: torch.dtype) -> int:
    """Device memory of the cells and planes of `users` users."""
    codes, width = history.codebook.shape
    rows = len(history.key_pool)
    cells = 8 * _words(width) * codes * rows
    numbers = (1 + width) * _padded_codes(codes) * _padded(rows, PADDED_ROWS)
    return users * (cells + dtype.itemsize * numbers)


def histogram_fits(q: Tensor, history: CodedHistory) -> bool:
    """Whether `attend_histogram` can run: one dtype, tile shapes, a workspace within its bound."""
    codes, width = history.codebook.shape
    dim = q.shape[-1]
    return (
        q.dtype == history.key_pool.dtype == history.value_pool.dtype
        and dim == _power_of_2(dim)
        and 16 <= dim <= LARGEST_HEAD
        and 1 <= width <= dim
        and _padded_sums(codes, width) <= WIDEST_SUMS
        and workspace_bytes(len(history.pages.cu_history) - 1, history, q.dtype)
        <= LARGEST_WORKSPACE
    )


def histogram_pays(q: Tensor, history: CodedHistory) -> bool:
    """Whether it fits and takes less time than a walk over the history."""
    # On an H200, 16384 query rows of 64 numbers take 9.8 us for 1024 tokens, which warp-specialised
    # kernels gather, and 14.5 us for 1024 pool rows; counting takes 7 us, as 730 tokens then do.
    query_rows = q.shape[0] * q.shape[1]
    least = 1.5 * len(history.key_pool) + 730 * 16384 / max(1, query_rows)
    return histogram_fits(q, history) and history.pages.longest >= least


def _tile(itemsize: int, dim: int) -> Tile:
    """Block sizes that fit in registers and shared memory."""
    if itemsize == 4:  # exact float32 products run on the FMA units: small tiles
        return Tile(32, 32, 4 if dim <= 64 else 8, 2) if dim <= 128 else Tile(16, 16, 4, 2)
    if dim <= 64:
        return Tile(64, 64, 4, 3)
    return Tile(128, 64, 8, 3) if dim <= 128 else Tile(64, 64, 8, 2)


def _splits(programs: int, tiles: int, processors: int) -> int:
    """Parts of the pool: as many as give each multiprocessor a program, of at least four tiles."""
    return max(1, min(processors // programs, tiles // 4, MAX_SPLITS))


def _words(width: int) -> int:
    """64-bit words of a cell: a count and `width` sums, two to a word."""
    return (width + 2) // 2


def _padded_codes(codes: int) -> int:
    return max(16, _power_of_2(codes))  # 16 is the shortest tensor-core product


def _padded_sums(codes: int, width: int) -> int:
    return _padded_codes(codes) * _power_of_2(1 + width)


def _padded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _power_of_2(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
