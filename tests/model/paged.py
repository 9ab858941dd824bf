"""Random histories, and the pages they are encoded into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.histories import Pages
from shared.kv.layout import EntryLayout
from shared.model.batch import HistoryTokens, PagedKV, action_gaps, bounds
from shared.model.config import ModelConfig
from shared.model.items import embedding_rows


@dataclass(frozen=True)
class Actions:
    """One user's actions as arrays."""

    item_rows: NDArray[np.int64]
    action_types: NDArray[np.int64]
    surfaces: NDArray[np.int64]
    times_s: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.times_s)

    def part(self, first: int, last: int) -> Actions:
        cut = slice(first, last)
        return Actions(
            self.item_rows[cut], self.action_types[cut], self.surfaces[cut], self.times_s[cut]
        )


def random_actions(config: ModelConfig, count: int, seed: int) -> Actions:
    """Gaps from none to years."""
    rng = np.random.default_rng(seed)
    tables = 1 if config.items.kind == "list" else config.items.tables
    gaps = (2 ** rng.uniform(0, 28, count)).astype(np.int64) - 1
    return Actions(
        rng.integers(0, embedding_rows(config.items), (count, tables)),
        rng.integers(0, len(config.action_types), count),
        rng.integers(0, len(config.surfaces), count),
        np.cumsum(gaps) + 10,
    )


def tokens_of(users: Sequence[Actions], previous_s: Sequence[int | None]) -> HistoryTokens:
    """The users' actions behind each other; `previous_s`: when each one's stored actions ended."""
    gaps = [action_gaps(u.times_s, before) for u, before in zip(users, previous_s, strict=True)]
    return HistoryTokens(
        torch.from_numpy(np.concatenate([user.item_rows for user in users])),
        torch.from_numpy(np.concatenate([user.action_types for user in users])),
        torch.from_numpy(np.concatenate([user.surfaces for user in users])),
        torch.from_numpy(np.concatenate(gaps)),
        bounds([len(user) for user in users]),
    )


def scattered_pages(layout: EntryLayout, lengths: Sequence[int], seed: int = 5) -> PagedKV:
    """An arena full of 0xFF whose pages belong to the users in random order.

    0xFF is NaN in a float plane and out of range in an index plane: reading a slot that no token
    was written to shows.
    """
    counts = [layout.page_count(length) for length in lengths]
    numbers = np.random.default_rng(seed).permutation(sum(counts) + 3).astype(np.int32)
    table = np.full((len(counts), max(counts, default=0)), -1, np.int32)
    taken = 0
    for user, count in enumerate(counts):
        table[user, :count] = numbers[taken : taken + count]
        taken += count
    arena = torch.full((len(numbers), layout.page_bytes), 0xFF, dtype=torch.uint8)
    return PagedKV(arena, Pages.of(torch.from_numpy(table), lengths, layout.page_tokens))


def up_to(kv: PagedKV, lengths: Sequence[int]) -> PagedKV:
    """The same pages, each user's history ending after `lengths` tokens."""
    return replace(kv, pages=Pages.of(kv.pages.block_table, lengths, kv.pages.page_tokens))


def written_bytes(layout: EntryLayout, kv: PagedKV) -> list[bytes]:
    """Every plane's bytes of all tokens, users behind each other: what an entry says, unpaged."""
    at = kv.pages.token_slots()
    planes = []
    for layer in range(len(layout.layers)):
        for plane in layout.planes(kv.arena, layer).values():
            flat = plane.contiguous().flatten(2) if plane.dim() > 2 else plane.unsqueeze(-1)
            planes.append(flat.contiguous().view(torch.uint8)[at].numpy().tobytes())
    return planes
