"""Routing for Hopper: one warp copies router rows, two groups of four warps multiply and compare.

As in `kernels.pool_router.kernel`, tokens are a tile's columns, hidden tiles stay in shared memory
and logits in registers. Both groups use each router tile, for 128 tokens of their own; while one
compares its logits, which no tensor core can do, the tensor cores run the other's product.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

# Triton 3.6 has it by its first name only, later versions by its second only.
_async_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared


@gluon.jit
def _copy(
    hidden_desc, weight_desc, hidden, hidden_full, ring, full, empty,
    block, first_row, tiles,
):  # fmt: skip
    """The copying role: both groups' hidden tiles once, then the router's tiles one by one."""
    BLOCK_T: gl.constexpr = hidden_desc.block_type.shape[0]
    BLOCK_P: gl.constexpr = weight_desc.block_type.shape[0]
    STAGES: gl.constexpr = ring.shape[0]
    for group in gl.static_range(2):
        arrived = hidden_full.index(group)
        mbarrier.expect(arrived, hidden_desc.block_type.nbytes)
        _async_load(hidden_desc, [(block * 2 + group) * BLOCK_T, 0], arrived, hidden.index(group))
    for turn in range(tiles):
        stage = turn % STAGES
        # Parity 1 of a barrier that never completed counts as passed: the ring begins empty.
        mbarrier.wait(empty.index(stage), (turn // STAGES & 1) ^ 1)
        mbarrier.expect(full.index(stage), weight_desc.block_type.nbytes)
        _async_load(
            weight_desc, [first_row + turn * BLOCK_P, 0], full.index(stage), ring.index(stage)
        )


@gluon.jit
def _better(logit, row, other_logit, other_row):
    """The larger logit with its row, the lower row on a tie."""
    other = (other_logit > logit) | ((other_logit == logit) & (other_row < row))
    return gl.where(other, other_logit, logit), gl.where(other, other_row, row)


@gluon.jit
def _choose(
    hidden, hidden_full, ring, full, empty, bias_ptr, row_ptr, logit_ptr,
    first_token, tokens, first_tile, tiles, rows,
):  # fmt: skip
    """The multiplying role, of a group: the best row and logit of its own BLOCK_T tokens."""
    STAGES: gl.constexpr = ring.shape[0]
    BLOCK_P: gl.constexpr = ring.shape[1]
    BLOCK_T: gl.constexpr = hidden.shape[0]
    LOGITS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_T, 16])
    within = gl.arange(0, BLOCK_P, gl.SliceLayout(1, LOGITS))
    zero = gl.full([BLOCK_P, BLOCK_T], 0.0, gl.float32, LOGITS)
    best = gl.full([BLOCK_P, BLOCK_T], float("-inf"), gl.float32, LOGITS)
    best_tile = gl.full([BLOCK_P, BLOCK_T], 0, gl.int32, LOGITS)
    columns = hidden.permute((1, 0))  # [E, BLOCK_T]
    mbarrier.wait(hidden_full, 0)
    for turn in range(tiles):
        stage = turn % STAGES
        row = (first_tile + turn) * BLOCK_P + within
        # The copy of a last, short tile runs into the next router or past the tensor: none of
        # those rows has a bias above -inf, and a NaN is not larger than anything.
        bias = gl.load(bias_ptr + row, mask=row < rows, other=float("-inf")).to(gl.float32)
        mbarrier.wait(full.index(stage), turn // STAGES & 1)
        logit = warpgroup_mma(ring.index(stage), columns, zero, use_acc=False, is_async=True)
        logit = warpgroup_mma_wait(0, deps=(logit,))  # [BLOCK_P, BLOCK_T]
        mbarrier.arrive(empty.index(stage), count=1)
        logit = logit + bias[:, None]
        better = logit > best  # strict: the earliest tile keeps a tie
        best = gl.where(better, logit, best)
        best_tile = gl.where(better, first_tile + turn, best_tile)

    row = best_tile * BLOCK_P + within[:, None]
    top, winner = gl.reduce((best, row), 0, _better)  # [BLOCK_T]
    token = first_token + gl.arange(0, BLOCK_T, gl.SliceLayout(0, LOGITS))
    gl.store(row_ptr + token, winner.to(row_ptr.dtype.element_ty), mask=token < tokens)
    gl.store(logit_ptr + token, top.to(logit_ptr.dtype.element_ty), mask=token < tokens)


@gluon.jit(do_not_specialize=["tokens", "rows", "tiles_each"])  # any batch, one compilation
def best_rows_by_roles(
    hidden_desc, weight_desc, bias_ptr, row_ptr, logit_ptr, tokens, rows, tiles_each,
    STAGES: gl.constexpr, MULTIPLY_REGISTERS: gl.constexpr, COPY_REGISTERS: gl.constexpr,
):  # fmt: skip
    """Best row and logit of 2 x 128 tokens among `tiles_each` tiles of one side.

    `hidden_desc` has blocks of [128, E] tokens, `weight_desc` of [64, E] rows of all routers behind
    each other. Grid (token blocks, sides, splits); `row_ptr`, `logit_ptr` are [splits, sides,
    tokens]. Every split has a tile.
    """
    block = gl.program_id(0)
    side = gl.program_id(1)
    split = gl.program_id(2)
    BLOCK_T: gl.constexpr = hidden_desc.block_type.shape[0]
    BLOCK_P: gl.constexpr = weight_desc.block_type.shape[0]
    first_tile = split * tiles_each
    tiles = gl.minimum(tiles_each, gl.cdiv(rows, BLOCK_P) - first_tile)

    hidden = gl.allocate_shared_memory(
        hidden_desc.dtype, [2] + hidden_desc.block_type.shape, hidden_desc.layout
    )  # [2, BLOCK_T, E]: a tile a group
    ring = gl.allocate_shared_memory(
        weight_desc.dtype, [STAGES] + weight_desc.block_type.shape, weight_desc.layout
    )  # [STAGES, BLOCK_P, E]
    # full: the copy's bytes have arrived; empty: both groups' products are done with the tile.
    # The copy of turn n waits for the groups' turn n - STAGES, their turn n for the copy of turn n.
    # So whoever is at the lowest turn waits for nothing later, and all roles have the same turns.
    hidden_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for group in gl.static_range(2):
        mbarrier.init(hidden_full.index(group), count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    fence_async_shared()

    bias_ptr += side.to(gl.int64) * rows
    answers = (split * gl.num_programs(1) + side).to(gl.int64) * tokens
    row_ptr += answers
    logit_ptr += answers
    first_token = block * (2 * BLOCK_T)
    gl.warp_specialize(
        [
            (_choose, (
                hidden.index(0), hidden_full.index(0), ring, full, empty,
                bias_ptr, row_ptr, logit_ptr,
                first_token, tokens, first_tile, tiles, rows,
            )),
            (_choose, (
                hidden.index(1), hidden_full.index(1), ring, full, empty,
                bias_ptr, row_ptr, logit_ptr,
                first_token + BLOCK_T, tokens, first_tile, tiles, rows,
            )),
            (_copy, (
                hidden_desc, weight_desc, hidden, hidden_full, ring, full, empty,
                block, side * rows + first_tile * BLOCK_P, tiles,
            )),
        ],
        [4, 1],
        [MULTIPLY_REGISTERS, COPY_REGISTERS],
    )  # fmt: skip
