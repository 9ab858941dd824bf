"""Scores computed in this process, straight from the model: what the services must answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.histories import Pages
from ranking_client import Actions
from shared.model.batch import (
    CandidateTokens,
    HistoryTokens,
    PagedKV,
    action_gaps,
    bounds,
    gap_buckets,
)
from shared.model.checkpoint import load_checkpoint
from tests.integration.orchestrator import Candidates, Ranked


class Oracle:
    """Both passes of one checkpoint without services, store or codec."""

    def __init__(self, checkpoint: Path) -> None:
        # The context pass in float64, the crossing pass in float32: as the services compute.
        self._context = load_checkpoint(checkpoint, dtype=torch.float64)
        self._crossing = load_checkpoint(checkpoint)
        self.fingerprint = self._crossing.fingerprint
        self._entries: dict[bytes, PagedKV] = {}

    def scores(self, actions: Actions, candidates: Candidates) -> dict[str, NDArray[np.float32]]:
        """Scores [candidates] by task."""
        actions = actions[-self._crossing.config.max_history :]
        count = len(candidates.item_ids)
        rows, _ = self._crossing.items.rows(candidates.item_ids)
        wait_s = max(0, candidates.request_time_s - int(actions.times_s[-1]))
        surfaces = candidates.surfaces
        tokens = CandidateTokens(
            torch.from_numpy(rows),
            torch.zeros(count, dtype=torch.int64)
            if surfaces is None
            else torch.from_numpy(surfaces.astype(np.int64)),
            torch.from_numpy(gap_buckets(np.full(count, wait_s, np.int64))),
            None if candidates.features is None else torch.from_numpy(candidates.features),
            bounds([count]),
        )
        out = self._crossing.ranker.crossing_pass(tokens, self._entry(actions)).numpy()
        return {task: out[:, n].copy() for n, task in enumerate(self._crossing.config.tasks)}

    def _entry(self, actions: Actions) -> PagedKV:
        surfaces = np.zeros(len(actions), np.uint32)
        surfaces = surfaces if actions.surfaces is None else actions.surfaces
        key = b"".join(
            array.tobytes()
            for array in (actions.item_ids, actions.action_types, actions.times_s, surfaces)
        )
        if key not in self._entries:
            layout = self._context.ranker.layout
            pages = layout.page_count(len(actions))
            rows, _ = self._context.items.rows(actions.item_ids)
            tokens = HistoryTokens(
                torch.from_numpy(rows),
                torch.from_numpy(actions.action_types.astype(np.int64)),
                torch.from_numpy(surfaces.astype(np.int64)),
                torch.from_numpy(action_gaps(actions.times_s, None)),
                bounds([len(actions)]),
            )
            table = torch.arange(pages, dtype=torch.int32).unsqueeze(0)
            kv = PagedKV(
                torch.zeros((pages, layout.page_bytes), dtype=torch.uint8),
                Pages.of(table, [len(actions)], layout.page_tokens),
            )
            self._context.ranker.context_pass(tokens, kv)
            self._entries[key] = kv
        return self._entries[key]


def assert_right(ranked: Ranked, oracle: Oracle, *, exactly: bool) -> None:
    """The scores are the oracle's: to the bit, or but for the rounding of another batch shape."""
    assert ranked.scores.model_fingerprint == oracle.fingerprint
    expected = oracle.scores(ranked.actions, ranked.candidates)
    assert list(ranked.scores.by_task) == list(expected)
    for task, values in expected.items():
        if exactly:
            assert ranked.scores.by_task[task].tobytes() == values.tobytes(), task
        else:
            np.testing.assert_allclose(ranked.scores.by_task[task], values, rtol=0, atol=2e-6)
