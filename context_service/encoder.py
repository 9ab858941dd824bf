"""Batches of histories through the context pass, into pages as the store holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from context_service.history import History
from kernels.histories import Pages
from shared.errors import NonFiniteResultError
from shared.kv.codec import Entry
from shared.model.batch import HistoryTokens, PagedKV, action_gaps, bounds
from shared.model.checkpoint import Checkpoint

_NON_FINITE = (
    "the model yields NaN or infinity for these actions, nothing was published; "
    "serve another checkpoint"
)


@dataclass(frozen=True)
class EncodeWork:
    """One user's new actions, and the entry that they are appended to, if any."""

    history: History
    base: Entry | None = None

    @property
    def base_tokens(self) -> int:
        """Actions in `base`."""
        return 0 if self.base is None else self.base.header.tokens

    @property
    def tokens(self) -> int:
        """Actions in the entry that comes out: what a batch is charged for this work."""
        return self.base_tokens + len(self.history)


@dataclass(frozen=True)
class Encoded:
    """One user's entry without its header."""

    payload: NDArray[np.uint8]
    """[pages, page_bytes]; the slots past the last token are zero."""
    unknown_items: int
    """New actions whose item the model does not know."""


class ContextEncoder:
    """Runs encodes and appends together: an encode is an append to nothing.

    The checkpoint is to be in float64. An append and a full encode take different matrix shapes,
    and two float32 sums of different order round about one bf16 slice in 4000 differently, which
    moves later pool indices; in float64 that happens to one number in 1e13.
    """

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self._ranker = checkpoint.ranker
        self._layout = checkpoint.ranker.layout
        self._items = checkpoint.items
        self._device = device

    def encode(self, batch: Sequence[EncodeWork]) -> list[Encoded | Exception]:
        """Each user's pages, in order; a user's result does not depend on the others.

        A history whose result is not finite yields a `NonFiniteResultError` in its place.
        """
        page_bounds = np.cumsum([0, *(self._layout.page_count(work.tokens) for work in batch)])
        arena = np.zeros((page_bounds[-1], self._layout.page_bytes), np.uint8)
        for work, first in zip(batch, page_bounds[:-1], strict=True):
            if work.base is not None:
                arena[first : first + len(work.base.payload)] = work.base.payload
        tokens, unknown = self._tokens(batch)
        pages = torch.from_numpy(arena).to(self._device)
        lengths = [work.tokens for work in batch]
        kv = PagedKV(pages, Pages.contiguous(lengths, self._layout.page_tokens, self._device))
        finite = self._ranker.context_pass(tokens, kv).cpu().numpy()
        new_bounds = np.cumsum([0, *(len(work.history) for work in batch)])
        arena = pages.cpu().numpy()
        results: list[Encoded | Exception] = []
        for user, (first, last) in enumerate(pairwise(page_bounds)):
            payload = arena[first:last]
            mine = finite[new_bounds[user] : new_bounds[user + 1]]
            whole = mine.all() and self._planes_finite(payload)
            results.append(
                Encoded(payload, unknown[user]) if whole else NonFiniteResultError(_NON_FINITE)
            )
        return results

    def _tokens(self, batch: Sequence[EncodeWork]) -> tuple[HistoryTokens, list[int]]:
        """The batch's new actions behind each other, and each user's count of unknown items."""
        mapped = [self._items.rows(work.history.item_ids) for work in batch]
        gaps = []
        for work in batch:
            previous = None if work.base is None else work.base.header.last_event_time_s
            gaps.append(action_gaps(work.history.times_s, previous))
        tokens = HistoryTokens(
            item_rows=self._column([rows for rows, _ in mapped]),
            action_types=self._column([work.history.action_types for work in batch]),
            surfaces=self._column([work.history.surfaces for work in batch]),
            gaps=self._column(gaps),
            cu_tokens=bounds([len(work.history) for work in batch], self._device),
        )
        return tokens, [unknown for _, unknown in mapped]

    def _column(self, arrays: list[NDArray[np.int64]]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays)).to(self._device)

    def _planes_finite(self, payload: NDArray[np.uint8]) -> bool:
        """Whether every stored float is finite; narrowing to the entry's dtype may overflow."""
        pages = torch.from_numpy(payload)
        for layer in range(len(self._layout.layers)):
            for plane in self._layout.planes(pages, layer).values():
                if plane.dtype.is_floating_point and not plane.isfinite().all():
                    return False
        return True
