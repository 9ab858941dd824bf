"""The multiplying role: queries over K and V tiles, with an online softmax."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from kernels.hopper.tiles import (
    ROWS,
    TILE_ROWS,
    WARPS,
    advance,
    copy_rows,
    fetches_ahead,
)

NOTHING = gl.constexpr(-1e30)
"""Logit of no key at all; finite, so that differences of it are no NaN."""


@gluon.jit
def _in_front(l):
    """`l`, with all that it is made of in front of the next wait for products.

    ptxas moves exponentials behind that wait, where no product hides them, unless memory depends on
    them: here a store that never happens, as `l` is above 0.
    """
    return gl.inline_asm_elementwise(
        """{
        .reg .pred never;
        .reg .b32 nowhere;
        mov.b32 nowhere, 0;
        mov.f32 $0, $1;
        setp.lt.f32 never, $1, 0f00000000;
        @never st.volatile.shared.f32 [nowhere], $1;
        }""",
        "=f,f",
        [l],
        dtype=gl.float32,
        is_pure=False,
        pack=1,
    )


@gluon.jit
def _fetch(tile, source, token0, head0, row0, first_row, end_row,
           HEADS: gl.constexpr, GROUP: gl.constexpr, D: gl.constexpr):  # fmt: skip
    """Begin to copy the [ROWS, D] rows from `row0` on; rows that are nobody's become zero."""
    LOAD: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [WARPS, 1], [1, 0])
    row = row0 + gl.arange(0, ROWS, gl.SliceLayout(1, LOAD))
    d = gl.arange(0, D, gl.SliceLayout(0, LOAD))
    mine = (row >= first_row) & (row < end_row)
    at = ((token0 + row // GROUP).to(gl.int64) * HEADS + head0 + row % GROUP) * D
    copy_rows(tile, source + at[:, None] + d[None, :], mask=mine[:, None])


@gluon.jit
def attend_rows(
    q_tile, k_own, v_own, k_tiles, v_tiles, k_full, v_full, k_empty, v_empty, stage, phase,
    q, k_self, v_self, out, partial, statistics, all_rows,
    token0, head0, row0, first_row, end_row, row_tiles, split, limit0, tiles, scale_log2,
    SELF: gl.constexpr, CAUSAL: gl.constexpr, HEADS: gl.constexpr, GROUP: gl.constexpr,
    D: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr, SPLITS: gl.constexpr,
):  # fmt: skip
    """ROWS packed rows of each of `row_tiles` tiles, from `row0` on, over `tiles` K/V tiles.

    Returns where the rings stand. Row r is query head `head0 + r % GROUP` of token
    `token0 + r // GROUP`. It sees columns up to `limit0` of the newest tile (CAUSAL: up to
    `limit0 + r - row0`) and all older ones; with SELF also its own k_self, v_self, in the first
    split. A history that fits into the rings stays there until the last rows have seen it.
    """
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, BLOCK_N, 16])
    O: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, D, 16])
    P: gl.constexpr = gl.DotOperandLayout(0, O, 2)
    LOAD: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [WARPS, 1], [1, 0])
    KV_HEADS: gl.constexpr = HEADS // GROUP
    MASKED: gl.constexpr = TILE_ROWS // BLOCK_N if CAUSAL else 1
    AHEAD: gl.constexpr = fetches_ahead(D, SELF)
    # Weights that a step carries in pairs of 16 bits are packed anew: 8 % of the instructions. From
    # D 128 on there are no registers to carry them in 32 bits.
    NARROW_LATE: gl.constexpr = D <= 64

    kv_head = head0 // GROUP
    row = gl.arange(0, ROWS, gl.SliceLayout(1, O))
    column = gl.arange(0, D, gl.SliceLayout(0, O))
    zero = gl.zeros([ROWS, BLOCK_N], gl.float32, S)
    past = gl.arange(0, BLOCK_N, gl.SliceLayout(0, S))[None, :] - limit0
    if CAUSAL:
        past = past - gl.arange(0, ROWS, gl.SliceLayout(1, S))[:, None]
    stays = tiles <= STAGES
    _fetch(q_tile, q, token0, head0, row0, first_row, end_row, HEADS, GROUP, D)
    if AHEAD:
        _fetch(k_own, k_self, token0, kv_head, row0, first_row, end_row, KV_HEADS, GROUP, D)
        _fetch(v_own, v_self, token0, kv_head, row0, first_row, end_row, KV_HEADS, GROUP, D)
    async_copy.commit_group()
    for turn in range(row_tiles):
        more = turn + 1 < row_tiles
        release = (not stays) | (not more)
        first_stage = stage
        first_phase = phase
        out_row = row0 + row
        out_mine = (out_row >= first_row) & (out_row < end_row)
        out_token = (token0 + out_row // GROUP).to(gl.int64)
        if SELF:
            seeded = split == 0
            if not AHEAD:
                r = row0 + gl.arange(0, ROWS, gl.SliceLayout(1, LOAD))
                d = gl.arange(0, D, gl.SliceLayout(0, LOAD))
                self_at = ((token0 + r // GROUP).to(gl.int64) * KV_HEADS + kv_head) * D
                own_at = (out_token * KV_HEADS + kv_head) * D
                k_rows = gl.load(
                    k_self + self_at[:, None] + d[None, :], mask=(r < end_row)[:, None], other=0.0
                )  # [ROWS, D]
                v_rows = gl.load(
                    v_self + own_at[:, None] + column[None, :], mask=out_mine[:, None], other=0.0
                )  # [ROWS, D]
            async_copy.wait_group(0)
            if AHEAD:
                k_rows = k_own.load(LOAD)
                v_rows = v_own.load(O)
            q_rows = q_tile.load(LOAD).to(gl.float32)
            logit = gl.sum(q_rows * k_rows.to(gl.float32), 1) * scale_log2
            m = gl.convert_layout(gl.where(seeded, logit, NOTHING), gl.SliceLayout(1, S))  # [ROWS]
            l = gl.where(seeded, m * 0.0 + 1.0, 0.0)
            acc = gl.where(seeded, v_rows.to(gl.float32), 0.0)  # [ROWS, D]
            if AHEAD and more:
                after = row0 + TILE_ROWS
                _fetch(
                    k_own, k_self, token0, kv_head, after, first_row, end_row, KV_HEADS, GROUP, D
                )
                _fetch(
                    v_own, v_self, token0, kv_head, after, first_row, end_row, KV_HEADS, GROUP, D
                )
                async_copy.commit_group()
        else:
            async_copy.wait_group(0)
            m = gl.full([ROWS], NOTHING, gl.float32, gl.SliceLayout(1, S))
            l = gl.zeros([ROWS], gl.float32, gl.SliceLayout(1, S))
            acc = gl.zeros([ROWS, D], gl.float32, O)
        fence_async_shared()

        mbarrier.wait(k_full.index(stage), phase)
        s = warpgroup_mma(
            q_tile, k_tiles.index(stage).permute([1, 0]), zero, use_acc=False, is_async=True
        )
        s = warpgroup_mma_wait(0, deps=[s])  # [ROWS, BLOCK_N]
        mbarrier.arrive(k_empty.index(stage), count=1, pred=release)
        s = gl.where(past <= 0, s, -float("inf"))
        m_new = gl.maximum(m, gl.max(s, 1) * scale_log2)
        p = gl.exp2(s * scale_log2 - m_new[:, None])
        alpha = gl.exp2(m - m_new)
        l = l * alpha + gl.sum(p, 1)
        m = m_new
        acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, O))[:, None]
        if not NARROW_LATE:
            weights = gl.convert_layout(p.to(q_tile.dtype), P)
        for i in range(1, tiles):
            if NARROW_LATE:
                weights = gl.convert_layout(p.to(q_tile.dtype), P)
            before = stage
            before_phase = phase
            stage, phase = advance(stage, phase, STAGES)
            mbarrier.wait(k_full.index(stage), phase)
            s_next = warpgroup_mma(
                q_tile, k_tiles.index(stage).permute([1, 0]), zero, use_acc=False, is_async=True
            )
            mbarrier.wait(v_full.index(before), before_phase)
            acc_next = warpgroup_mma(weights, v_tiles.index(before), acc, is_async=True)
            s = warpgroup_mma_wait(1, deps=[s_next])
            mbarrier.arrive(k_empty.index(stage), count=1, pred=release)
            if MASKED > 1:
                s = gl.where((past <= i * BLOCK_N), s, -float("inf"))
            m_new = gl.maximum(m, gl.max(s, 1) * scale_log2)
            p = gl.exp2(s * scale_log2 - m_new[:, None])
            alpha = gl.exp2(m - m_new)
            l = l * alpha + gl.sum(p, 1)
            m = m_new
            l = _in_front(l)
            acc, weights = warpgroup_mma_wait(0, deps=[acc_next, weights])
            mbarrier.arrive(v_empty.index(before), count=1, pred=release)
            acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, O))[:, None]
            if not NARROW_LATE:
                weights = gl.convert_layout(p.to(q_tile.dtype), P)
        if more:  # the last product with these queries is done
            after = row0 + TILE_ROWS
            _fetch(q_tile, q, token0, head0, after, first_row, end_row, HEADS, GROUP, D)
            async_copy.commit_group()
        if NARROW_LATE:
            weights = gl.convert_layout(p.to(q_tile.dtype), P)
        mbarrier.wait(v_full.index(stage), phase)
        acc = warpgroup_mma(weights, v_tiles.index(stage), acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc])
        mbarrier.arrive(v_empty.index(stage), count=1, pred=release)
        stage, phase = advance(stage, phase, STAGES)
        stage = gl.where(release, stage, first_stage)
        phase = gl.where(release, phase, first_phase)

        l = gl.convert_layout(l, gl.SliceLayout(1, O))
        out_at = out_token * HEADS + head0 + out_row % GROUP
        if SPLITS == 1:
            result = (acc / l[:, None]).to(out.dtype.element_ty)
            gl.store(out + out_at[:, None] * D + column[None, :], result, mask=out_mine[:, None])
        else:
            m = gl.convert_layout(m, gl.SliceLayout(1, O))
            rows = gl.to_tensor(all_rows).to(gl.int64)
            part = (split * rows + out_at)[:, None] * D + column[None, :]
            gl.store(partial + part, acc, mask=out_mine[:, None])
            at = statistics + split * 2 * rows + out_at
            gl.store(at, m, mask=out_mine)
            gl.store(at + rows, l, mask=out_mine)
        row0 += TILE_ROWS
    return stage, phase
