"""Crossing attention in plain Triton: gather pool rows (or read dense planes) inside the loop.

A program owns a tile of query rows of one user and one KV head: candidates x the query heads of
that KV head. It walks over the user's history tile by tile with an online softmax in base 2 (Flash
Attention, arXiv 2205.14135). The candidate's own key and value seed the softmax instead of taking
a tile: m = scale * q . k_self, l = 1, acc = v_self.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.ragged import find_page, find_slots, find_tile

SLICE_TILE = tl.constexpr(16)  # slices of 2 to 16 numbers fill one tensor-core step


@triton.jit
def tile_rows(cu_candidates, users, tile, GROUP: tl.constexpr, BLOCK_M: tl.constexpr):
    """A tile's first query row, its user, and the first row of the next user.

    Rows are counted over all users, GROUP to a candidate.
    """
    user, begin, end, row = find_tile(cu_candidates, users, tile, GROUP, BLOCK_M)
    return begin * GROUP + row, user, end * GROUP


@triton.jit
def _page(tile, length, table, PAGE_TOKENS: tl.constexpr, BLOCK_N: tl.constexpr):
    """Page of a tile's tokens, [] where a page holds whole tiles, else [BLOCK_N]."""
    if PAGE_TOKENS == 0:  # users behind each other
        page = 0
    else:
        page = find_page(table, tile * BLOCK_N, length, PAGE_TOKENS, BLOCK_N)
    return page


@triton.jit
def _plane(plane, page, page_stride, slot, tile_exists, U: tl.constexpr):
    """What a plane holds for a tile's tokens, U numbers a token.

    [BLOCK_N] for U = 1, else [BLOCK_N, SLICE_TILE] with zeros behind; slots behind the user's last
    token, still in its page, give garbage.
    """
    at = plane + page.to(tl.int64) * page_stride + slot * U
    exists = tl.zeros_like(slot) + tile_exists.to(tl.int32) > 0
    if U > 1:
        column = tl.arange(0, SLICE_TILE)
        at = at[:, None] + column[None, :]
        exists = exists[:, None] & (column < U)[None, :]
    return tl.load(at, mask=exists, other=0)


@triton.jit
def _indices(
    tile, length, table, page, planes, strides,
    FORM: tl.constexpr, TIED: tl.constexpr, U: tl.constexpr, PAGE_TOKENS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Rows and slices (or codes) of a tile as stored, or the page of dense keys and values."""
    u_key = 0
    u_value = 0
    if FORM == "dense":
        rows = _page(tile, length, table, PAGE_TOKENS, BLOCK_N)
        value_rows = rows
    else:
        start = tile * BLOCK_N
        exists = start < length
        slot = find_slots(start, PAGE_TOKENS, BLOCK_N)
        rows = _plane(planes[0], page, strides[0], slot, exists, 1)
        value_rows = rows
        if not TIED:
            value_rows = _plane(planes[1], page, strides[1], slot, exists, 1)
        if U > 0:
            u_key = _plane(planes[2], page, strides[2], slot, exists, 1 if FORM == "coded" else U)
            u_value = _plane(planes[3], page, strides[3], slot, exists, U)
    return rows, value_rows, u_key, u_value


@triton.jit
def _codes(code, codebook, codes, U: tl.constexpr):
    """Code vectors, shaped as slices; a code past the codebook reads its last."""
    at = codebook + tl.minimum(code.to(tl.int32), codes - 1) * U
    if U == 1:
        vectors = tl.load(at)
    else:
        column = tl.arange(0, SLICE_TILE)
        vectors = tl.load(at[:, None] + column[None, :], mask=(column < U)[None, :], other=0)
    return vectors


@triton.jit
def _offsets(
    tile, length, first_token, rows, stride, pool_rows,
    FORM: tl.constexpr, WIDTH: tl.constexpr, PAGE_TOKENS: tl.constexpr, LAST: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Where a tile's keys or values lie, in numbers [BLOCK_N]; for a pool always inside it."""
    if FORM == "dense":
        token = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        if LAST:
            token = tl.minimum(token, length - 1)  # what lies behind may be NaN
        if PAGE_TOKENS == 0:
            at = (first_token + token).to(tl.int64) * WIDTH
        else:
            at = rows.to(tl.int64) * stride + token % PAGE_TOKENS * WIDTH
    else:
        at = tl.minimum(rows.to(tl.int32), pool_rows - 1) * WIDTH
    return at


@triton.jit
def _keys_and_values(
    tile, length, first_token, key, value, rows, value_rows, u_key, key_stride, value_stride,
    pool_rows, codebook, codes,
    FORM: tl.constexpr, TIED: tl.constexpr, WIDTH: tl.constexpr, U: tl.constexpr, D: tl.constexpr,
    PAGE_TOKENS: tl.constexpr, LAST: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """A tile's keys and values [BLOCK_N, D] and its key slices, from what `_indices` read."""
    column = tl.arange(0, D)
    at = _offsets(
        tile, length, first_token, rows, key_stride, pool_rows, FORM, WIDTH, PAGE_TOKENS, LAST,
        BLOCK_N,
    )  # fmt: skip
    k = tl.load(key + at[:, None] + column[None, :])
    if FORM == "dense" or not TIED:
        at = _offsets(
            tile, length, first_token, value_rows, value_stride, pool_rows, FORM, WIDTH,
            PAGE_TOKENS, LAST, BLOCK_N,
        )  # fmt: skip
    v = tl.load(value + at[:, None] + column[None, :])
    if FORM == "coded" and U > 0:
        u_key = _codes(u_key, codebook, codes, U)
    return k, v, u_key


@triton.jit
def _attend_tile(
    q, q_u, k, v, u_key, u_value, m, total, acc, acc_u, exists, scale, step, U: tl.constexpr
):
    """One tile of the online softmax; `exists` [BLOCK_N], or None when all tokens do.

    q [BLOCK_M, D], k and v [BLOCK_N, D]; m (in base 2) and total [BLOCK_M], acc [BLOCK_M, D].
    The slice is a rank-U update beside the pool's product, whose first U columns add nothing.
    """
    k = k.to(q.dtype)
    v = v.to(q.dtype)
    if U > 0:
        u_key = u_key.to(tl.float32)
        u_value = u_value.to(tl.float32) * step
        if exists is not None:
            u_value = tl.where(exists if U == 1 else exists[:, None], u_value, 0.0)
    s = tl.dot(q, tl.trans(k), input_precision="ieee")  # [BLOCK_M, BLOCK_N]
    if U == 1:
        s += q_u[:, None] * u_key[None, :]
    elif U > 1:
        s = tl.dot(q_u, tl.trans(u_key.to(q.dtype)), s, input_precision="ieee")
    if exists is not None:
        s = tl.where(exists[None, :], s, float("-inf"))
    m_new = tl.maximum(m, tl.max(s, 1) * scale)
    p = tl.exp2(s * scale - m_new[:, None])
    shrink = tl.exp2(m - m_new)
    total = total * shrink + tl.sum(p, 1)
    weights = p.to(v.dtype)
    if U == 1:
        acc_u = acc_u * shrink + tl.sum(p * u_value[None, :], 1)
    elif U > 1:
        u_value = u_value.to(v.dtype)
        acc_u = tl.dot(weights, u_value, acc_u * shrink[:, None], input_precision="ieee")
    acc = tl.dot(weights, v, acc * shrink[:, None], input_precision="ieee")
    return m_new, total, acc, acc_u


@triton.jit
def _own_slices(q, v_self, q_at, self_at, own, U: tl.constexpr):
    """The first U columns of a tile's queries, and of its own values where they count.

    [BLOCK_M] for U = 1, [BLOCK_M, SLICE_TILE] with zeros behind for more.
    """
    q_u = 0
    acc_u = 0
    if U == 1:
        q_u = tl.load(q + q_at).to(tl.float32)
        acc_u = tl.load(v_self + self_at).to(tl.float32) * own
    elif U > 1:
        column = tl.arange(0, SLICE_TILE)[None, :]
        q_u = tl.load(q + q_at[:, None] + column, mask=column < U, other=0)
        acc_u = tl.load(v_self + self_at[:, None] + column, mask=column < U, other=0)
        acc_u = acc_u.to(tl.float32) * own
    return q_u, acc_u


@triton.jit
def _store(row, acc, acc_u, stored, U: tl.constexpr, D: tl.constexpr):
    """Write a tile's rows, their first U columns from `acc_u`."""
    column = tl.arange(0, D)[None, :]
    if U == 1:
        acc = tl.where(column == 0, acc_u[:, None], acc)
    tl.store(row[:, None] + column, acc.to(row.dtype.element_ty), mask=stored[:, None])
    if U > 1:
        tl.debug_barrier()  # other threads have just stored these columns
        column = tl.arange(0, SLICE_TILE)[None, :]
        in_slice = stored[:, None] & (column < U)
        tl.store(row[:, None] + column, acc_u.to(row.dtype.element_ty), mask=in_slice)


@triton.jit(do_not_specialize=["users", "table_width", "row_count"])
def attend_kernel(
    q, k_self, v_self, out, partial, statistics, key, value, key_row, value_row, key_slice,
    value_slice, codebook, value_scale, block_table, cu_history, cu_candidates, scale, users,
    table_width, row_count, key_stride, value_stride, key_row_stride, value_row_stride,
    key_slice_stride, value_slice_stride, pool_rows, codes,
    FORM: tl.constexpr, TIED: tl.constexpr, U: tl.constexpr, H: tl.constexpr, G: tl.constexpr,
    D: tl.constexpr, PAGE_TOKENS: tl.constexpr, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid: ((N * H / G // BLOCK_M + B) * G, SPLITS): the heads of a tile run side by side.

    See `kernels.crossing_attention.launch` for the arguments.
    """
    GROUP: tl.constexpr = H // G
    WIDTH: tl.constexpr = G * D
    tile, head, split = tl.program_id(0) // G, tl.program_id(0) % G, tl.program_id(1)
    tile_row, user, next_row = tile_rows(cu_candidates, users, tile, GROUP, BLOCK_M)
    if tile_row >= next_row:
        return
    first_token = tl.load(cu_history + user)
    length = tl.load(cu_history + user + 1) - first_token
    table = block_table + user.to(tl.int64) * table_width

    # A row past the user's last repeats it and is not stored.
    tile_row += tl.arange(0, BLOCK_M)
    row = tl.minimum(tile_row, next_row - 1).to(tl.int64)
    candidate = row // GROUP
    q_at = candidate * (H * D) + (head * GROUP + row % GROUP) * D  # [BLOCK_M]
    self_at = candidate * WIDTH + head * D
    column = tl.arange(0, D)

    q_tile = tl.load(q + q_at[:, None] + column[None, :])  # [BLOCK_M, D]
    k_own = tl.load(k_self + self_at[:, None] + column[None, :])
    m = tl.sum(q_tile.to(tl.float32) * k_own.to(tl.float32), 1) * scale
    # The self token counts once, though every split takes its logit for the first maximum.
    own = 1.0 if SPLITS == 1 else (split == 0).to(tl.float32)
    acc = tl.load(v_self + self_at[:, None] + column[None, :]).to(tl.float32) * own
    total = tl.zeros([BLOCK_M], tl.float32) + own
    q_u, acc_u = _own_slices(q, v_self, q_at, self_at, own, U)
    step = 1.0
    if FORM == "coded":
        step = tl.load(value_scale).to(tl.float32)

    key += head * D
    value += head * D
    tiles = tl.cdiv(length, BLOCK_N)
    share = tl.cdiv(tiles, SPLITS)
    first = split * share
    last = tl.minimum(first + share, tiles)
    whole = tl.maximum(first, tl.minimum(last, length // BLOCK_N))

    # What is small and next is read ahead, rows and slices by one tile and pages by two, and is
    # carried as it was loaded: so Triton's pipeline never waits for an index before a gather.
    planes = (key_row, value_row, key_slice, value_slice)
    strides = (key_row_stride, value_row_stride, key_slice_stride, value_slice_stride)
    page = _page(first, length, table, PAGE_TOKENS, BLOCK_N)
    rows, value_rows, u_key, u_value = _indices(
        first, length, table, page, planes, strides, FORM, TIED, U, PAGE_TOKENS, BLOCK_N
    )
    page = _page(first + 1, length, table, PAGE_TOKENS, BLOCK_N)
    for tile in range(first, whole):
        k, v, slice_key = _keys_and_values(
            tile, length, first_token, key, value, rows, value_rows, u_key, key_stride,
            value_stride, pool_rows, codebook, codes, FORM, TIED, WIDTH, U, D, PAGE_TOKENS, False,
            BLOCK_N,
        )  # fmt: skip
        next_rows, next_value_rows, next_u_key, next_u_value = _indices(
            tile + 1, length, table, page, planes, strides, FORM, TIED, U, PAGE_TOKENS, BLOCK_N
        )
        page = _page(tile + 2, length, table, PAGE_TOKENS, BLOCK_N)
        m, total, acc, acc_u = _attend_tile(
            q_tile, q_u, k, v, slice_key, u_value, m, total, acc, acc_u, None, scale, step, U
        )
        rows, value_rows, u_key, u_value = next_rows, next_value_rows, next_u_key, next_u_value

    if whole < last:  # the user's last tokens, fewer than a tile
        page = _page(whole, length, table, PAGE_TOKENS, BLOCK_N)
        rows, value_rows, u_key, u_value = _indices(
            whole, length, table, page, planes, strides, FORM, TIED, U, PAGE_TOKENS, BLOCK_N
        )
        k, v, slice_key = _keys_and_values(
            whole, length, first_token, key, value, rows, value_rows, u_key, key_stride,
            value_stride, pool_rows, codebook, codes, FORM, TIED, WIDTH, U, D, PAGE_TOKENS, True,
            BLOCK_N,
        )  # fmt: skip
        exists = whole * BLOCK_N + tl.arange(0, BLOCK_N) < length
        m, total, acc, acc_u = _attend_tile(
            q_tile, q_u, k, v, slice_key, u_value, m, total, acc, acc_u, exists, scale, step, U
        )

    stored = tile_row < next_row
    if SPLITS == 1:
        share = 1.0 / total
        acc *= share[:, None]
        if U > 0:
            acc_u *= share if U == 1 else share[:, None]
    else:
        out = partial + split * row_count.to(tl.int64) * D
        at = statistics + split * 2 * row_count.to(tl.int64) + q_at // D
        tl.store(at, m, mask=stored)
        tl.store(at + row_count, total, mask=stored)
    _store(out + q_at, acc, acc_u, stored, U, D)


@triton.jit(do_not_specialize=["row_count"])
def combine_kernel(
    partial, statistics, out, row_count,
    SPLITS: tl.constexpr, D: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Merge the splits of BLOCK_ROWS rows, in the order of the history."""
    rows = row_count.to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    exists = row < rows
    column = tl.arange(0, D)
    m = tl.load(statistics + row, mask=exists, other=0.0)
    for split in tl.static_range(1, SPLITS):  # unrolled: all loads in flight at once
        m = tl.maximum(m, tl.load(statistics + split * 2 * rows + row, mask=exists, other=0.0))
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    acc = tl.zeros([BLOCK_ROWS, D], tl.float32)
    for split in tl.static_range(SPLITS):
        at = statistics + split * 2 * rows + row
        weight = tl.exp2(tl.load(at, mask=exists, other=0.0) - m)
        total += weight * tl.load(at + rows, mask=exists, other=1.0)
        part = partial + (split * rows + row)[:, None] * D + column[None, :]
        acc += weight[:, None] * tl.load(part, mask=exists[:, None], other=0.0)
    acc = (acc / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + row[:, None] * D + column[None, :], acc, mask=exists[:, None])
