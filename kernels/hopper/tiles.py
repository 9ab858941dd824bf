"""What the roles share: tile sizes, shared memory, barriers, and whose tile a program has."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    mbarrier,
)

from kernels.hopper import limits

# Renamed after Triton 3.6.
copy_rows = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared

WARPS = gl.constexpr(4)
"""Of every role: a warpgroup."""
ROWS = gl.constexpr(64)
"""Query rows a warpgroup multiplies at once: a wgmma's."""
TILE_ROWS = gl.constexpr(limits.TILE_ROWS)
"""Query rows of a tile: two warpgroups'."""
MULTIPLY_REGISTERS = gl.constexpr(224)
COPY_REGISTERS = gl.constexpr(56)
"""Of a thread in each role: 2 * 224 + 56 are all that three warpgroups may have. With fewer, those
who multiply spill in their loop at D 128."""
USERS_AT_ONCE = gl.constexpr(128)
"""Bounds that a warpgroup looks at in one step of its search: one a thread."""


@gluon.constexpr_function
def fetches_ahead(D: int, own: bool) -> bool:
    """Whether shared memory has room for candidates' own keys and values, on their way ahead."""
    return own and D <= 128


@gluon.jit
def allocate_tiles(
    dtype: gl.constexpr, D: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
    SELF: gl.constexpr,
):  # fmt: skip
    """Shared memory and barriers of a program: queries and own rows, K and V rings, barriers."""
    ROW: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, D], dtype)
    KV: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_N, D], dtype)
    q_tiles = gl.allocate_shared_memory(dtype, [2, ROWS, D], ROW)
    k_own = q_tiles
    v_own = q_tiles
    if fetches_ahead(D, SELF):
        k_own = gl.allocate_shared_memory(dtype, [2, ROWS, D], ROW)
        v_own = gl.allocate_shared_memory(dtype, [2, ROWS, D], ROW)
    k_tiles = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_N, D], KV)
    v_tiles = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_N, D], KV)
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(v_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=2)
        mbarrier.init(v_empty.index(i), count=2)
    fence_async_shared()
    return q_tiles, k_own, v_own, k_tiles, v_tiles, k_full, v_full, k_empty, v_empty


@gluon.jit
def _add(a, b):
    return a + b


@gluon.jit
def find_user(cu_rows, cu_positions, users, tile, scale, tile_rows):
    """Whose tile number `tile` is, and which of that user's; `users` if it is nobody's.

    A user's rows are the last of its positions, both counted by running bounds and `scale` to one.
    Tiles begin at positions that are multiples of `tile_rows`, users' tiles behind each other's.
    """
    ENTRIES: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    user = 0
    first = 0
    total = 0
    for start in range(0, users, USERS_AT_ONCE):
        b = start + gl.arange(0, USERS_AT_ONCE, ENTRIES)
        some = b < users
        rows = gl.load(cu_rows + b + 1, mask=some, other=0) - gl.load(
            cu_rows + b, mask=some, other=0
        )
        positions = gl.load(cu_positions + b + 1, mask=some, other=0)
        positions -= gl.load(cu_positions + b, mask=some, other=0)
        touched = gl.cdiv(positions * scale, tile_rows) - (positions - rows) * scale // tile_rows
        tiles = gl.where(rows > 0, touched, 0)
        over = (total + gl.associative_scan(tiles, 0, _add) <= tile) & some
        user += gl.sum(over.to(gl.int32), 0)
        first += gl.sum(gl.where(over, tiles, 0), 0)
        total += gl.sum(tiles, 0)
    return user, tile - first


@gluon.jit
def advance(stage, phase, STAGES: gl.constexpr):
    """The next tile of a ring of STAGES, and the parity of its barriers."""
    last = stage == STAGES - 1
    return gl.where(last, 0, stage + 1), phase ^ last.to(gl.int32)
