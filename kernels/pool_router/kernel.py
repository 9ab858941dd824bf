"""Routing on Triton: logits live in registers only, a tile at a time.

Tokens are a tile's columns: the hidden tile stays in shared memory for the whole kernel while the
router's rows stream past it, and a row's bias is then one number a thread row. Every place of a
tile keeps its best logit and the tile that had it; one reduction follows the last tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

_BEYOND = tl.constexpr(2147483647)  # larger than any row


@triton.jit(do_not_specialize=["tokens", "tiles_each"])  # any batch, one compilation
def best_rows(
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    row_ptr,
    logit_ptr,
    tokens,
    rows,
    tiles_each,
    E: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_E: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Best row and logit of BLOCK_T tokens among `tiles_each` tiles of one side.

    Grid (token blocks, sides, splits); `row_ptr` and `logit_ptr` are [splits, sides, tokens].
    """
    side = tl.program_id(1)
    split = tl.program_id(2)
    resident: tl.constexpr = BLOCK_E >= E

    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    e = tl.arange(0, BLOCK_E)
    within = tl.arange(0, BLOCK_P)
    # a tail token repeats the last one; it is not stored
    hidden_at = hidden_ptr + tl.minimum(t, tokens - 1).to(tl.int64)[:, None] * E + e[None, :]
    weight_ptr += side.to(tl.int64) * rows * E
    bias_ptr += side.to(tl.int64) * rows

    best = tl.full([BLOCK_P, BLOCK_T], float("-inf"), tl.float32)
    best_tile = tl.zeros([BLOCK_P, BLOCK_T], tl.int32)
    first = split * tiles_each
    last = tl.minimum(first + tiles_each, tl.cdiv(rows, BLOCK_P))
    if resident:
        hidden = tl.load(hidden_at, mask=(e < E)[None, :], other=0.0)  # [BLOCK_T, BLOCK_E]
    for tile in tl.range(first, last, num_stages=STAGES if resident else 1):
        start = tile * BLOCK_P
        real = within < rows - start
        row = tl.minimum(within, rows - 1 - start)
        bias = tl.load(bias_ptr + start + row).to(tl.float32)
        logit = tl.where(real, bias, float("-inf"))[:, None]
        weight_at = weight_ptr + tl.cast(start, tl.int64) * E + row[:, None] * E + e[None, :]
        if resident:
            weight = tl.load(weight_at, mask=(e < E)[None, :], other=0.0)  # [BLOCK_P, BLOCK_E]
            logit += tl.dot(weight, hidden.T, input_precision="ieee")
        else:
            logit = tl.broadcast_to(logit, [BLOCK_P, BLOCK_T])
            for done in tl.range(0, E, BLOCK_E, num_stages=STAGES):
                inside = (e < E - done)[None, :]
                weight = tl.load(weight_at + done, mask=inside, other=0.0)
                hidden = tl.load(hidden_at + done, mask=inside, other=0.0)
                logit = tl.dot(weight, hidden.T, logit, input_precision="ieee")
        better = logit > best  # strict: the earliest tile keeps a tie
        best = tl.where(better, logit, best)
        best_tile = tl.where(better, tile, best_tile)

    top = tl.max(best, 0)  # [BLOCK_T]
    row = best_tile * BLOCK_P + within[:, None]
    winner = tl.min(tl.where(best == top[None, :], row, _BEYOND), 0)
    at = (split * tl.num_programs(1) + side).to(tl.int64) * tokens + t
    tl.store(row_ptr + at, winner.to(row_ptr.dtype.element_ty), mask=t < tokens)
    tl.store(logit_ptr + at, top.to(logit_ptr.dtype.element_ty), mask=t < tokens)


@triton.jit(do_not_specialize=["count", "splits"])
def best_splits(
    split_row_ptr, split_logit_ptr, row_ptr, logit_ptr, count, splits, BLOCK: tl.constexpr
):
    """The best of `splits` candidates for each of `count` answers; the first split keeps a tie."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    top = tl.load(split_logit_ptr + at, mask=inside)
    winner = tl.load(split_row_ptr + at, mask=inside)
    later = at
    for _ in range(1, splits):
        later += count
        logit = tl.load(split_logit_ptr + later, mask=inside)
        row = tl.load(split_row_ptr + later, mask=inside)
        better = logit > top
        top = tl.where(better, logit, top)
        winner = tl.where(better, row, winner)
    tl.store(row_ptr + at, winner.to(tl.int64), mask=inside)
    tl.store(logit_ptr + at, top.to(logit_ptr.dtype.element_ty), mask=inside)
