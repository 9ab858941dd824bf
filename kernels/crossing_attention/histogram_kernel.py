"""Crossing attention over pool rows: count a user's tokens by (code, row), then attend once a row.

Tokens with equal pool row and equal key code have equal keys, so a sum over tokens is a sum over
rows (counting equal keys: Transformer-VQ, arXiv 2309.16354), with

    n[b, r] the tokens of code b and row r        w[u, b, r] the sum of their value slices
    e[b] = exp(scale * q_user . code_b)           x[r] = exp(scale * q_pool . K[r])

    Z = sum_r x[r] * (e @ n)[r]      out_pool = sum_r x[r] * (e @ n)[r] * V[r] / Z
                                     out_user[u] = step * sum_b e[b] * (x @ w[u].T)[b] / Z

Each sum is divided by a Z of numbers rounded as its own are: out_pool by the sum of the weights
that V is multiplied by, out_user by sum_b e[b] * (x @ n.T)[b]. A row that has all of a user's
tokens then gives V[r] itself, where an exact Z leaves 2^-9 of it, bfloat16's rounding of a weight.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.crossing_attention.kernel import tile_rows

LARGEST_SUM = tl.constexpr(2.0**100)
WIDEST_CODES = tl.constexpr(100.0)


@triton.jit
def count_kernel(
    cells,
    row,
    code,
    value,
    block_table,
    cu_history,
    table_width,
    row_stride,
    code_stride,
    value_stride,
    pool_rows,
    PAGE_TOKENS: tl.constexpr,
    CODES: tl.constexpr,
    U: tl.constexpr,
    WORDS: tl.constexpr,
    PAGES: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """Add PAGES pages of a user's tokens to `cells` [B, WORDS, CODES, P] int64; grid (pages, B).

    The fields n, w[0], w[1], ... lie two to a word, each a signed 32-bit sum: one atomic add a
    token and word. Integer sums do not depend on the order of the adds.
    """
    user = tl.program_id(1)
    length = tl.load(cu_history + user + 1) - tl.load(cu_history + user)
    first = tl.program_id(0) * PAGES
    if first * PAGE_TOKENS >= length:
        return
    block = first + tl.arange(0, PAGES)
    slot = tl.arange(0, SLOTS)
    table = block_table + user.to(tl.int64) * table_width
    held = block * PAGE_TOKENS < length
    page = tl.load(table + block, mask=held, other=0).to(tl.int64)
    token = block[:, None] * PAGE_TOKENS + slot[None, :]  # [PAGES, SLOTS]
    # Whole pages are read, 16 bytes at a time; slots behind the last token are not counted.
    held = tl.broadcast_to(held[:, None], [PAGES, SLOTS])
    used = token < length
    if SLOTS != PAGE_TOKENS:
        held &= slot[None, :] < PAGE_TOKENS
        used &= held
    at = page[:, None] * row_stride + slot[None, :]
    pool_row = tl.load(row + at, mask=held, other=0).to(tl.int32) & 0xFFFF
    pool_row = tl.minimum(pool_row, pool_rows - 1)
    at = page[:, None] * code_stride + slot[None, :]
    code_row = tl.load(code + at, mask=held, other=0).to(tl.int32)
    cell = tl.minimum(code_row, CODES - 1) * pool_rows + pool_row
    value += page[:, None] * value_stride + slot[None, :] * U
    cells += user.to(tl.int64) * WORDS * CODES * pool_rows
    for word in tl.static_range(WORDS):
        if word == 0:
            high = tl.full([PAGES, SLOTS], 1, tl.int64)
        else:
            high = tl.load(value + (2 * word - 1), mask=held, other=0).to(tl.int64)
        added = high << 32
        if 2 * word < U:
            added += tl.load(value + 2 * word, mask=held, other=0).to(tl.int64)
        tl.atomic_add(cells + word * CODES * pool_rows + cell, added, mask=used, sem="relaxed")


@triton.jit
def plane_kernel(
    cells,
    planes,
    pool_rows,
    padded_rows,
    CODES: tl.constexpr,
    U: tl.constexpr,
    WORDS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """`cells` to `planes` [B, 1 + U, BLOCK_B, padded_rows], zeros around; grid (row blocks, B)."""
    user = tl.program_id(1).to(tl.int64)
    code = tl.arange(0, BLOCK_B)
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    counted = (code < CODES)[:, None] & (row < pool_rows)[None, :]
    read = code[:, None] * pool_rows + row[None, :]  # [BLOCK_B, BLOCK_R]
    written = code[:, None] * padded_rows + row[None, :]
    cells += user * WORDS * CODES * pool_rows
    planes += user * (1 + U) * BLOCK_B * padded_rows
    for word in tl.static_range(WORDS):
        sums = tl.load(cells + word * CODES * pool_rows + read, mask=counted, other=0)
        low = sums.to(tl.int32)  # the lower half as a signed number: it borrowed from the upper
        high = (sums - low) >> 32
        plane = planes + 2 * word * BLOCK_B * padded_rows
        tl.store(plane + written, high.to(tl.float32).to(planes.dtype.element_ty))
        if 2 * word < U:
            plane += BLOCK_B * padded_rows
            tl.store(plane + written, low.to(tl.float32).to(planes.dtype.element_ty))


@triton.jit
def _code_logits(q, at, codebook, code, scale, CODES: tl.constexpr, U: tl.constexpr):
    """scale * q_user . code vector, [BLOCK_M, len(code)]."""
    logits = tl.zeros([at.shape[0], code.shape[0]], tl.float32)
    for u in tl.static_range(U):
        q_u = tl.load(q + at + u).to(tl.float32) * scale
        c_u = tl.load(codebook + code * U + u, mask=code < CODES, other=0).to(tl.float32)
        logits += q_u[:, None] * c_u[None, :]
    return logits


@triton.jit(do_not_specialize=["users", "row_count"])
def attend_kernel(
    q,
    k_self,
    v_self,
    out,
    partial,
    statistics,
    key_pool,
    value_pool,
    planes,
    codebook,
    value_scale,
    cu_candidates,
    scale,
    users,
    row_count,
    pool_rows,
    padded_rows,
    CODES: tl.constexpr,
    U: tl.constexpr,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Grid: (N * H / G // BLOCK_M + B, G, SPLITS); see `kernels.crossing_attention.histogram`.

    `scale` is in base 2. BLOCK_B codes and BLOCK_W >= (1 + U) * BLOCK_B columns of sums are padded.

    The self token's logit is the one reference of all exponents: no running maximum, no rescaling.
    Its own term is then 1, so what is below 2^-126 of it vanishes rightly, and a sum that is too
    large or no number (or codes so far apart that their weights would vanish) shows at the end:
    such a tile, whose logits lie some 70 above the self token's, starts again the careful way.
    """
    GROUP: tl.constexpr = H // G
    head = tl.program_id(1)
    split = tl.program_id(2)
    first_row, user, next_row = tile_rows(cu_candidates, users, tl.program_id(0), GROUP, BLOCK_M)
    if first_row >= next_row:
        return
    dtype = q.dtype.element_ty

    # A row past the user's last repeats it and is not stored.
    tile_row = first_row + tl.arange(0, BLOCK_M)
    row = tl.minimum(tile_row, next_row - 1).to(tl.int64)
    candidate = row // GROUP
    q_at = candidate * (H * D) + (head * GROUP + row % GROUP) * D  # [BLOCK_M]
    self_at = candidate * (G * D) + head * D
    column = tl.arange(0, D)
    q_tile = tl.load(q + q_at[:, None] + column[None, :])  # [BLOCK_M, D]
    k_own = tl.load(k_self + self_at[:, None] + column[None, :])
    v_own = v_self + self_at[:, None] + column[None, :]
    own_logit = tl.sum(q_tile.to(tl.float32) * k_own.to(tl.float32), 1) * scale
    # The self token counts once, though its logit is every split's reference.
    own = 1.0 if SPLITS == 1 else (split == 0).to(tl.float32)

    code = tl.arange(0, BLOCK_B)
    code_logit = _code_logits(q, q_at, codebook, code, scale, CODES, U)  # [BLOCK_M, BLOCK_B]
    highest = tl.max(tl.where((code < CODES)[None, :], code_logit, float("-inf")), 1)
    lowest = tl.min(tl.where((code < CODES)[None, :], code_logit, float("inf")), 1)
    code_weight = tl.exp2(code_logit - highest[:, None]).to(dtype)

    pool_row = tl.arange(0, BLOCK_R)
    key_pool += head * D
    value_pool += head * D
    planes += user.to(tl.int64) * (1 + U) * BLOCK_B * padded_rows
    count_at = planes + code[:, None] * padded_rows + pool_row[None, :]  # [BLOCK_B, BLOCK_R]
    sum_column = tl.arange(0, BLOCK_W)
    summed = (sum_column < (1 + U) * BLOCK_B)[:, None]
    sum_at = planes + sum_column[:, None] * padded_rows + pool_row[None, :]
    share = tl.cdiv(tl.cdiv(padded_rows, BLOCK_R), SPLITS) * BLOCK_R
    begin = split * share
    end = tl.minimum(begin + share, padded_rows)

    m = own_logit
    acc = tl.load(v_own).to(tl.float32) * own
    sums = tl.zeros([BLOCK_M, BLOCK_W], tl.float32)
    # Row sums by the tensor cores: 264 instructions a thread and step instead of 361.
    ones = tl.full([BLOCK_R, 16], 1.0, dtype)
    totals = tl.zeros([BLOCK_M, 16], tl.float32)  # 16 times the same
    reference = own_logit - highest
    for start in tl.range(begin, end, BLOCK_R):
        at = tl.minimum(start + pool_row, pool_rows - 1)[:, None] * (G * D) + column[None, :]
        k = tl.load(key_pool + at)  # [BLOCK_R, D]
        s = tl.dot(q_tile, tl.trans(k), input_precision="ieee")  # [BLOCK_M, BLOCK_R]
        counts = tl.load(count_at + start)
        weight = tl.dot(code_weight, counts, input_precision="ieee")
        x = tl.exp2(s * scale - reference[:, None])
        w = tl.load(sum_at + start, mask=summed, other=0)  # [BLOCK_W, BLOCK_R]
        sums = tl.dot(x.to(dtype), tl.trans(w), sums, input_precision="ieee")
        p = (x * weight).to(dtype)
        totals = tl.dot(p, ones, totals, input_precision="ieee")
        v = tl.load(value_pool + at)
        acc = tl.dot(p, v, acc, input_precision="ieee")
    total = tl.sum(totals, 1) / 16 + own
    finite = (total < LARGEST_SUM) & (tl.sum(tl.abs(sums), 1) < LARGEST_SUM)
    safe = finite & (highest - lowest < WIDEST_CODES)
    repeated = _code_logits(q, q_at, codebook, sum_column % BLOCK_B, scale, CODES, U)
    sums *= tl.exp2(repeated - highest[:, None])

    if tl.min(safe.to(tl.int32)) == 0:
        m = own_logit
        total = tl.zeros([BLOCK_M], tl.float32) + own
        acc = tl.load(v_own).to(tl.float32) * own
        sums = tl.zeros([BLOCK_M, BLOCK_W], tl.float32)
        for b in range(CODES):
            shift = tl.sum(tl.where((code == b)[None, :], code_logit, 0.0), 1)
            of_code = summed & (sum_column % BLOCK_B == b)[:, None]
            for start in tl.range(begin, end, BLOCK_R):
                at = tl.minimum(start + pool_row, pool_rows - 1)[:, None] * (G * D)
                k = tl.load(key_pool + at + column[None, :])
                s = tl.dot(q_tile, tl.trans(k), input_precision="ieee")
                n = tl.load(planes + b * padded_rows + start + pool_row).to(tl.float32)
                s = tl.where((n > 0)[None, :], s * scale + shift[:, None], float("-inf"))
                m_new = tl.maximum(m, tl.max(s, 1))
                x = tl.exp2(s - m_new[:, None])
                shrink = tl.exp2(m - m_new)
                m = m_new
                w = tl.load(sum_at + start, mask=of_code, other=0)
                sums = tl.dot(x.to(dtype), tl.trans(w), sums * shrink[:, None], "ieee")
                p = (x * n[None, :]).to(dtype)
                total = total * shrink + tl.sum(p.to(tl.float32), 1)
                v = tl.load(value_pool + at + column[None, :])
                acc = tl.dot(p, v, acc * shrink[:, None], "ieee")

    step = tl.load(value_scale).to(tl.float32)
    for u in tl.static_range(U):
        of_slice = tl.where((sum_column // BLOCK_B == 1 + u)[None, :], sums, 0.0)
        acc += tl.where((column == u)[None, :], (tl.sum(of_slice, 1) * step)[:, None], 0.0)
    counted = tl.sum(tl.where((sum_column < BLOCK_B)[None, :], sums, 0.0), 1)
    slice_total = counted + own * tl.exp2(own_logit - m)
    ratio = tl.where(slice_total > 0, total / slice_total, 0.0)  # 0 in a split without tokens
    acc *= tl.where((column < U)[None, :], ratio[:, None], 1.0)
    stored = tile_row < next_row
    if SPLITS == 1:
        acc /= total[:, None]
    else:
        out = partial + split * row_count.to(tl.int64) * D
        at = statistics + split * 2 * row_count.to(tl.int64) + q_at // D
        tl.store(at, m, mask=stored)
        tl.store(at + row_count, total, mask=stored)
    whole = out + q_at[:, None] + column[None, :]
    tl.store(whole, acc.to(out.dtype.element_ty), mask=stored[:, None])
