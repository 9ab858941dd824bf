"""Ranking cases as the ragged batches that the two passes take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.model.batch import CandidateTokens, HistoryTokens, action_gaps, bounds, gap_buckets
from shared.model.items import ItemIndex
from training.cases import RankingCase


def history_tokens(cases: Sequence[RankingCase], items: ItemIndex) -> HistoryTokens:
    """The cases' histories behind each other."""
    rows, _ = items.rows(np.concatenate([case.item_ids for case in cases]))
    return HistoryTokens(
        torch.from_numpy(rows),
        _joined([case.action_types for case in cases]),
        torch.zeros(len(rows), dtype=torch.int64),
        _joined([action_gaps(case.times_s, None) for case in cases]),
        bounds([len(case.item_ids) for case in cases]),
    )


def candidate_tokens(cases: Sequence[RankingCase], items: ItemIndex) -> CandidateTokens:
    """The cases' candidates behind each other; without a history their gap is bucket 0."""
    rows, _ = items.rows(np.concatenate([case.candidate_ids for case in cases]))
    waited_s = [
        case.request_time_s - case.times_s[-1] if len(case.times_s) else 0 for case in cases
    ]
    counts = [len(case.candidate_ids) for case in cases]
    return CandidateTokens(
        torch.from_numpy(rows),
        torch.zeros(len(rows), dtype=torch.int64),
        torch.from_numpy(np.repeat(gap_buckets(np.array(waited_s, np.int64)), counts)),
        None,
        bounds(counts),
    )


def _joined(parts: list[NDArray[np.int64]]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))
