"""One layer's keys and values of B users, in each form that attention can read.

Paged forms read their planes through a block table: token `t` of user `b` lies in page
`block_table[b, t // page_tokens]` at slot `t % page_tokens`. Indices in a plane must lie inside
their pool; whoever fills a page proves that before the page is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pages:
    """Where the tokens of B users lie in an arena of pages."""

    block_table: Tensor
    """[B, blocks] int32: page numbers; entries past a user's last page are not read."""
    cu_history: Tensor
    """[B + 1] int32: running token counts, from 0."""
    page_tokens: int
    """Tokens a page holds."""
    tokens: int
    """T, tokens of all users: `cu_history[B]`, known without asking the device."""
    longest: int
    """Tokens of the user who has most; 0 without users."""

    @classmethod
    def of(cls, block_table: Tensor, lengths: Sequence[int], page_tokens: int) -> Pages:
        """Pages of users with `lengths` tokens each, on the device of `block_table`."""
        running = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        return cls(
            block_table,
            running.to(block_table.device),
            page_tokens,
            tokens=sum(lengths),
            longest=max(lengths, default=0),
        )

    @classmethod
    def contiguous(
        cls, lengths: Sequence[int], page_tokens: int, device: torch.device | str
    ) -> Pages:
        """Pages of users with `lengths` tokens each, from page 0, user b's behind user b - 1's."""
        counts = torch.tensor([-(-length // page_tokens) for length in lengths], dtype=torch.int64)
        first = counts.cumsum(0) - counts
        widest = int(counts.max()) if len(counts) else 0
        table = (first[:, None] + torch.arange(widest)).to(torch.int32)
        return cls.of(table.to(device), lengths, page_tokens)

    def token_slots(self) -> tuple[Tensor, Tensor]:
        """Page and slot of every token, each [T] int64, users behind each other."""
        return self.newest_slots(self.cu_history, self.tokens)

    def newest_slots(self, cu_newest: Tensor, newest: int) -> tuple[Tensor, Tensor]:
        """The same for each user's newest tokens only, as many as `cu_newest` [B + 1] bounds.

        `newest` is their number in all, `cu_newest[B]`: given, so that the device is not asked.
        """
        counts = cu_newest.diff().long()
        older = self.cu_history.diff().long() - counts
        users = torch.repeat_interleave(counts, output_size=newest)
        rank = torch.arange(newest, device=users.device) - cu_newest[:-1].long()[users]
        position = rank + older[users]
        page = self.block_table[users, position // self.page_tokens].long()
        return page, position % self.page_tokens


@dataclass(frozen=True)
class CollectiveHistory:
    """K[j, g] = [key_slice_j ; key_pool[key_row_j, g, U:]], values likewise (CollectiveKV)."""

    pages: Pages
    key_row: Tensor
    """[pages, page_tokens] uint16."""
    value_row: Tensor
    """[pages, page_tokens] uint16; the same tensor as `key_row` under a tied router."""
    key_slice: Tensor
    """[pages, page_tokens, U] floating."""
    value_slice: Tensor
    """[pages, page_tokens, U] floating."""
    key_pool: Tensor
    """[P, G, D] floating, contiguous; the first U columns are zero: the user slice stands there."""
    value_pool: Tensor
    """[P, G, D] floating, contiguous; the first U columns are zero."""


@dataclass(frozen=True)
class CodedHistory:
    """As collective with one row for both sides; slices are a code and scaled int8.

    K[j, g] = [codebook[key_code_j] ; key_pool[row_j, g, U:]],
    V[j, g] = [value_scale * value_slice_j ; value_pool[row_j, g, U:]].
    """

    pages: Pages
    row: Tensor
    """[pages, page_tokens] uint16."""
    key_code: Tensor
    """[pages, page_tokens] uint8."""
    value_slice: Tensor
    """[pages, page_tokens, U] int8."""
    codebook: Tensor
    """[N_b, U] floating."""
    value_scale: Tensor
    """[] floating: the value of one step of `value_slice`."""
    key_pool: Tensor
    """[P, G, D] floating, contiguous; the first U columns are zero: the user slice stands there."""
    value_pool: Tensor
    """[P, G, D] floating, contiguous; the first U columns are zero."""


@dataclass(frozen=True)
class DenseHistory:
    """Plain projections, paged."""

    pages: Pages
    key: Tensor
    """[pages, page_tokens, G, D] floating."""
    value: Tensor
    """[pages, page_tokens, G, D] floating."""


@dataclass(frozen=True)
class RaggedHistory:
    """Plain projections, users behind each other: the form that gradients flow through."""

    key: Tensor
    """[T, G, D] floating."""
    value: Tensor
    """[T, G, D] floating."""
    cu_history: Tensor
    """[B + 1] int32."""


History: TypeAlias = CollectiveHistory | CodedHistory | DenseHistory | RaggedHistory
