"""What the roles share: tile sizes, shared memory, barriers, and whose tile a program has."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier

WARPS = gl.constexpr(4)
"""Of every role: a warpgroup."""
ROWS = gl.constexpr(64)
"""Query rows a warpgroup multiplies at once: a wgmma's."""
TILE_ROWS = gl.constexpr(128)
"""Query rows of a tile: two warpgroups'."""
USERS_AT_ONCE = gl.constexpr(64)
"""Bounds that a warp looks at in one step of its search."""


@gluon.jit
def allocate_tiles(
    dtype: gl.constexpr, D: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr
):
    """Shared memory and barriers of a program: queries, K and V rings, full and empty barriers."""
    Q: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, D], dtype)
    KV: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_N, D], dtype)
    q_tiles = gl.allocate_shared_memory(dtype, [2, ROWS, D], Q)
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
    return q_tiles, k_tiles, v_tiles, k_full, v_full, k_empty, v_empty


@gluon.jit
def find_user(cu, users, tile, scale, spare: gl.constexpr):
    """The user of a tile, where user b's tiles begin at cu[b] * scale // TILE_ROWS + spare * b."""
    ENTRIES: gl.constexpr = gl.SliceLayout(
        1, gl.BlockedLayout([1, 1], [32, 1], [1, WARPS], [1, 0])
    )  # every warp holds all of them: the count needs no shared memory
    count = 0
    for start in range(0, users, USERS_AT_ONCE):
        b = start + gl.arange(0, USERS_AT_ONCE, ENTRIES)
        bound = gl.load(cu + b, mask=b < users, other=0)
        begun = (bound * scale // TILE_ROWS + spare * b <= tile) & (b < users)
        count += gl.sum(begun.to(gl.int32), 0)
    return count - 1


@gluon.jit
def advance(stage, phase, STAGES: gl.constexpr):
    """The next tile of a ring of STAGES, and the parity of its barriers."""
    last = stage == STAGES - 1
    return gl.where(last, 0, stage + 1), phase ^ last.to(gl.int32)


@gluon.jit
def retreat(stage, phase, STAGES: gl.constexpr):
    """The tile before. Carrying it through a loop instead is folded wrongly by Triton 3.6."""
    first = stage == 0
    return gl.where(first, STAGES - 1, stage - 1), phase ^ first.to(gl.int32)
