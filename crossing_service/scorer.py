"""Batches of requests to scores: one crossing pass over the arena for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from crossing_service.arena import Arena, ResidentEntry
from crossing_service.candidates import Candidates
from kernels.histories import Pages
from shared.errors import CrossKVError, KVMissError, MissCause, NonFiniteResultError
from shared.model.batch import CandidateTokens, PagedKV, bounds, gap_buckets
from shared.model.items import ItemIndex
from shared.model.ranker import Ranker


@dataclass(frozen=True, eq=False, slots=True)
class ScoreWork:
    """One request's candidates and the entry that they attend to."""

    entry: ResidentEntry
    candidates: Candidates

    @property
    def tokens(self) -> int:
        """Candidates and history together: what the crossing pass holds in memory for it."""
        return len(self.candidates.item_ids) + self.entry.header.tokens


@dataclass(frozen=True, eq=False, slots=True)
class Scored:
    """What became of one request."""

    scores: NDArray[np.float32]
    """[tasks, n]: asked tasks in the asked order, candidates in request order."""
    unknown_items: int


class CrossingScorer:
    """Scores on one worker thread.

    Args:
        ranker: the model, on the arena's device.
        items: its item index.
        arena: where the entries lie.
    """

    def __init__(self, ranker: Ranker, items: ItemIndex, arena: Arena) -> None:
        self._ranker = ranker
        self._items = items
        self._arena = arena
        self._device = arena.tensor.device

    def score(self, batch: list[ScoreWork]) -> list[Scored | CrossKVError]:
        """One outcome for each work, in order; a failure concerns its own request alone.

        Requests on the same entry share its keys and values (DCAT, arXiv 2507.12704).
        """
        # A cancelled request lets go of its entry while it is here: these pins keep the pages.
        pinned = [work for work in batch if self._arena.pin(work.entry)]
        try:
            outcomes = self._score(pinned) if pinned else {}
        finally:
            for work in pinned:
                self._arena.unpin(work.entry)
        return [
            outcomes[id(work)]
            if id(work) in outcomes
            else KVMissError(work.entry.header.user, MissCause.ABSENT)
            for work in batch
        ]

    def warm_up(self) -> None:
        """Run the model once, so that the first request does not pay for what is set up lazily."""
        config = self._ranker.config
        rows, _ = self._items.rows(np.zeros(1, np.uint64))
        page = torch.zeros_like(self._arena.tensor[:1])  # zeros are indices within any pool
        zero = torch.zeros(1, dtype=torch.int64, device=self._device)
        features = torch.zeros(1, config.feature_dim, device=self._device)
        tokens = CandidateTokens(
            torch.from_numpy(rows).to(self._device),
            zero,
            zero,
            features if config.feature_dim else None,
            bounds([1], self._device),
        )
        pages = Pages.of(zero.int().unsqueeze(0), [1], config.page_tokens)
        self._ranker.crossing_pass(tokens, PagedKV(page, pages))

    def _score(self, batch: list[ScoreWork]) -> dict[int, Scored | CrossKVError]:
        """Outcomes by `id` of the work, of works whose pages are held."""
        by_entry: dict[ResidentEntry, list[ScoreWork]] = {}
        for work in batch:
            by_entry.setdefault(work.entry, []).append(work)
        ordered = [work for works in by_entry.values() for work in works]
        counts = [len(work.candidates.item_ids) for work in ordered]
        per_entry = [sum(len(w.candidates.item_ids) for w in ws) for ws in by_entry.values()]
        mapped = [self._items.rows(work.candidates.item_ids) for work in ordered]
        tokens = CandidateTokens(
            self._to_device(np.concatenate([rows for rows, _ in mapped])),
            self._to_device(_surfaces(ordered)),
            self._to_device(np.repeat(_gaps(ordered), counts)),
            self._features(ordered),
            bounds(per_entry, self._device),
        )
        kv = PagedKV(self._arena.tensor, self._pages(list(by_entry)))
        scores = self._ranker.crossing_pass(tokens, kv).to("cpu", torch.float32).numpy()
        outcomes: dict[int, Scored | CrossKVError] = {}
        end = 0
        for work, count, (_, unknown) in zip(ordered, counts, mapped, strict=True):
            begin, end = end, end + count
            asked = np.ascontiguousarray(scores[begin:end, work.candidates.tasks].T)
            outcomes[id(work)] = (
                Scored(asked, unknown) if np.isfinite(asked).all() else _not_finite(work, asked)
            )
        return outcomes

    def _pages(self, entries: Sequence[ResidentEntry]) -> Pages:
        table = np.zeros((len(entries), max(len(entry.pages) for entry in entries)), np.int32)
        for row, entry in zip(table, entries, strict=True):
            row[: len(entry.pages)] = entry.pages
        lengths = [entry.header.tokens for entry in entries]
        return Pages.of(self._to_device(table), lengths, self._ranker.config.page_tokens)

    def _features(self, works: Sequence[ScoreWork]) -> torch.Tensor | None:
        """[N, feature_dim], zero (which adds nothing) for requests without; None: none has any."""
        if all(work.candidates.features is None for work in works):
            return None
        width = self._ranker.config.feature_dim
        return self._to_device(
            np.concatenate(
                [
                    np.zeros((len(work.candidates.item_ids), width), np.float32)
                    if work.candidates.features is None
                    else work.candidates.features
                    for work in works
                ]
            )
        )

    def _to_device(self, array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def _surfaces(works: Sequence[ScoreWork]) -> NDArray[np.int64]:
    """[N] surface indices."""
    surfaces = np.zeros(sum(len(work.candidates.item_ids) for work in works), np.int64)
    end = 0
    for work in works:
        begin, end = end, end + len(work.candidates.item_ids)
        if work.candidates.surfaces is not None:
            surfaces[begin:end] = work.candidates.surfaces
    return surfaces


def _gaps(works: Sequence[ScoreWork]) -> NDArray[np.int64]:
    """[works] bucket of the time from the user's newest action to the request."""
    times = [work.candidates.request_time_s - work.entry.header.last_event_time_s for work in works]
    return gap_buckets(np.array(times, np.int64))


def _not_finite(work: ScoreWork, asked: NDArray[np.float32]) -> NonFiniteResultError:
    task, candidate = np.argwhere(~np.isfinite(asked))[0]
    features = work.candidates.features
    largest = 0.0 if features is None else float(np.abs(features[candidate]).max())
    return NonFiniteResultError(
        f"scores: {asked[task, candidate]} for candidate {candidate} of user "
        f"{work.entry.header.user!r}; its largest feature is {largest:g}: send features of the "
        "size the model was trained on, or encode the user again"
    )
