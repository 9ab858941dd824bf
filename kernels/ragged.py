"""Ragged batches in Triton: whose tile a program has, and where a tile's tokens lie in pages.

A grid is as large as the host knows the batch to be, so a program finds its user itself. User b's
tiles begin at number `cu[b] * GROUP // BLOCK + b`: with N * GROUP // BLOCK + B tiles in all that
leaves every user room for all of its rows, of which only the last tile is part-filled.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def find_tile(cu, users, tile, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    """A tile's user, that user's bounds in `cu` [users + 1], and the tile's first row.

    Rows are counted from the user's first on, GROUP to an entry; in a tile past them, the first row
    is past them too.
    """
    low, high = tl.cast(0, tl.int32), users  # the user lies in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        begun = tl.load(cu + middle) * GROUP // BLOCK + middle <= tile
        low, high = tl.where(begun, middle, low), tl.where(begun, high, middle)
    begin = tl.load(cu + low)
    return low, begin, tl.load(cu + low + 1), (tile - begin * GROUP // BLOCK - low) * BLOCK


@triton.jit
def find_page(table, start, length, PAGE_TOKENS: tl.constexpr, BLOCK: tl.constexpr):
    """Page of BLOCK tokens from `start` on, [] where a page holds whole tiles, else [BLOCK].

    `table` is the row of a user of `length` tokens, of which nothing is read past the last page:
    a token past the user's last gets that one's page, a tile past it page 0.
    """
    if PAGE_TOKENS % BLOCK == 0:
        page = tl.load(table + start // PAGE_TOKENS, mask=start < length, other=0)
    else:
        block = tl.minimum(start + tl.arange(0, BLOCK), length - 1) // PAGE_TOKENS
        page = tl.load(table + block, mask=tl.zeros_like(block) + start < length, other=0)
    return page


@triton.jit
def find_slots(start, PAGE_TOKENS: tl.constexpr, BLOCK: tl.constexpr):
    """Slots [BLOCK], in their pages, of BLOCK tokens from `start` on, a multiple of BLOCK."""
    if PAGE_TOKENS % BLOCK == 0:  # the hint halves the load instructions
        slot = tl.multiple_of(start % PAGE_TOKENS, BLOCK) + tl.arange(0, BLOCK)
    else:
        slot = (start + tl.arange(0, BLOCK)) % PAGE_TOKENS
    return slot
