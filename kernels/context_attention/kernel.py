"""Causal attention of each user's newest tokens to all of its tokens, without padding.

Online softmax over tiles of keys (FlashAttention, arXiv 2205.14135); one program takes BLOCK_M rows
of one key head. A row is one query of one head: the GROUP query heads of a key head lie side by
side, row = token * GROUP + head. Key tiles begin at the user's token 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.ragged import find_tile

# Below every logit, yet finite: a row that has seen no key keeps sums of zero instead of NaN.
LOWEST = tl.constexpr(-3.0e38)


@triton.jit
def _fold_keys(
    acc,
    row_max,
    row_sum,
    q,
    k_head,
    v_head,
    first,
    last,
    position,
    log2_scale,
    token_stride,
    DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Fold keys first..last into the running softmax; MASKED hides keys behind a row's position."""
    column = tl.arange(0, BLOCK_N)
    dim = tl.arange(0, DIM)
    k_offsets = dim[:, None] + column[None, :] * token_stride  # [DIM, BLOCK_N]
    v_offsets = column[:, None] * token_stride + dim[None, :]  # [BLOCK_N, DIM]
    for start in range(first, last, BLOCK_N):
        shift = tl.cast(start, tl.int64) * token_stride
        if MASKED:
            # The next user's keys, or nobody's, follow: zeros, since 0 * NaN would reach the sum.
            k = tl.load(k_head + shift + k_offsets, mask=(start + column < last)[None, :], other=0)
        else:
            k = tl.load(k_head + shift + k_offsets)
        logits = tl.dot(q, k, input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
        if MASKED:
            hidden = start + column[None, :] > position[:, None]
            logits = tl.where(hidden, float("-inf"), logits)
        new_max = tl.maximum(row_max, tl.max(logits, 1) * log2_scale)
        weights = tl.exp2(logits * log2_scale - new_max[:, None])
        fade = tl.exp2(row_max - new_max)
        row_sum = row_sum * fade + tl.sum(weights, 1)
        acc = acc * fade[:, None]
        if MASKED:
            v = tl.load(v_head + shift + v_offsets, mask=(start + column < last)[:, None], other=0)
        else:
            v = tl.load(v_head + shift + v_offsets)
        acc = tl.dot(weights.to(v.dtype), v, acc, input_precision=PRECISION)  # [BLOCK_M, DIM]
        row_max = new_max
    return acc, row_max, row_sum


@triton.jit(do_not_specialize=["users", "tiles", "tokens"])  # one compilation for all sizes
def context_attention_kernel(
    q,  # [T_new, HEADS, DIM]
    k,  # [T, HEADS / GROUP, DIM]
    v,  # [T, HEADS / GROUP, DIM]
    out,  # [T_new, HEADS, DIM]; with SPLITS > 1 float32 [SPLITS, T_new, HEADS, DIM], sums only
    part_max,  # [SPLITS, T_new, HEADS] float32, in powers of 2; untouched by SPLITS == 1
    part_sum,  # [SPLITS, T_new, HEADS] float32; untouched by SPLITS == 1
    cu_query,  # [users + 1] int32
    cu_history,  # [users + 1] int32
    users,
    tiles,
    tokens,
    log2_scale,  # scale * log2(e)
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid tiles * KV_HEADS * SPLITS with tiles = T_new * GROUP // BLOCK_M + users."""
    KV_HEADS: tl.constexpr = HEADS // GROUP
    # Key heads run fastest: the programs of one time share a stretch of tokens. Tiles run
    # backwards: a user's late tiles see the most keys, and what starts last should be short.
    program = tl.program_id(0)
    kv_head = program % KV_HEADS
    split = program // KV_HEADS % SPLITS
    tile = tiles - 1 - program // (KV_HEADS * SPLITS)

    user, q_start, q_end, first_row = find_tile(cu_query, users, tile, GROUP, BLOCK_M)
    queries = q_end - q_start
    k_start = tl.load(cu_history + user)
    older = tl.load(cu_history + user + 1) - k_start - queries  # tokens before the first query
    if first_row >= queries * GROUP:
        return

    row = first_row + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    dim = tl.arange(0, DIM)
    real = row < queries * GROUP
    token = tl.cast(q_start, tl.int64) + row // GROUP
    head = kv_head * GROUP + row % GROUP
    at = token * HEADS + head  # [BLOCK_M], rows of q
    q_rows = tl.load(q + at[:, None] * DIM + dim[None, :], mask=real[:, None], other=0)

    position = older + row // GROUP
    seen_by_all = older + first_row // GROUP + 1  # keys that even the first row sees
    seen = older + tl.minimum((first_row + BLOCK_M - 1) // GROUP + 1, queries)  # by the last row
    unmasked = seen_by_all // BLOCK_N * BLOCK_N
    low = 0
    if SPLITS > 1:
        share = tl.cdiv(tl.cdiv(seen, BLOCK_N), SPLITS) * BLOCK_N
        low = split * share
        seen = tl.minimum(seen, low + share)
        unmasked = tl.minimum(unmasked, seen)

    k_head = k + (tl.cast(k_start, tl.int64) * KV_HEADS + kv_head) * DIM
    v_head = v + (tl.cast(k_start, tl.int64) * KV_HEADS + kv_head) * DIM
    row_max = tl.full([BLOCK_M], LOWEST, tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, DIM], tl.float32)
    acc, row_max, row_sum = _fold_keys(
        acc, row_max, row_sum, q_rows, k_head, v_head, low, unmasked, position, log2_scale,
        KV_HEADS * DIM, DIM, BLOCK_N, False, PRECISION,
    )  # fmt: skip
    acc, row_max, row_sum = _fold_keys(
        acc, row_max, row_sum, q_rows, k_head, v_head, tl.maximum(low, unmasked), seen, position,
        log2_scale, KV_HEADS * DIM, DIM, BLOCK_N, True, PRECISION,
    )  # fmt: skip

    if SPLITS == 1:
        acc = acc / row_sum[:, None]
    else:
        at += tl.cast(split, tl.int64) * tokens * HEADS
        tl.store(part_max + at, row_max, mask=real)
        tl.store(part_sum + at, row_sum, mask=real)
    tl.store(
        out + at[:, None] * DIM + dim[None, :], acc.to(out.dtype.element_ty), mask=real[:, None]
    )


@triton.jit(do_not_specialize=["rows"])
def join_splits_kernel(
    part,  # [SPLITS, rows, DIM] float32
    part_max,  # [SPLITS, rows] float32
    part_sum,  # [SPLITS, rows] float32
    out,  # [rows, DIM]
    rows,
    DIM: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """One program a row: weigh the splits' sums by their maxima."""
    row = tl.cast(tl.program_id(0), tl.int64)
    split = tl.arange(0, BLOCK_S)
    real = split < SPLITS
    at = split * tl.cast(rows, tl.int64) + row
    maximum = tl.load(part_max + at, mask=real, other=LOWEST)
    weight = tl.exp2(maximum - tl.max(maximum, 0))  # [BLOCK_S]
    total = tl.sum(tl.load(part_sum + at, mask=real, other=0.0) * weight, 0)
    dim = tl.arange(0, DIM)
    sums = tl.load(part + at[:, None] * DIM + dim[None, :], mask=real[:, None], other=0.0)
    joined = tl.sum(sums * weight[:, None], 0) / total  # [DIM]
    tl.store(out + row * DIM + dim, joined.to(out.dtype.element_ty))
