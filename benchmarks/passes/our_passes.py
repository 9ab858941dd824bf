"""Our two passes, ready to be timed and checked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.graph_timing import Run
from benchmarks.kernels.trial import Accuracy, relative_error
from benchmarks.paged_history import Form
from benchmarks.passes.workload import (
    DTYPE,
    Workload,
    empty_entries,
    first_user,
    random_ranker,
)
from shared.model.batch import CandidateTokens, HistoryTokens
from shared.model.ranker import Ranker

_CHECKED = 64  # candidates of the first user


class OurPasses:
    """Both passes of one form, its entries written once already."""

    def __init__(
        self,
        workload: Workload,
        form: Form,
        tokens: HistoryTokens,
        candidates: CandidateTokens,
        random: torch.Generator,
    ) -> None:
        self._ranker = random_ranker(workload.config(form), random.device, DTYPE)
        self._candidates = candidates
        self._kv = empty_entries(workload, self._ranker, random)
        self.context: Run = partial(self._ranker.context_pass, tokens, self._kv)
        self.crossing: Callable[[], Tensor] = partial(
            self._ranker.crossing_pass, candidates, self._kv
        )

    def accuracy(self) -> Accuracy:
        """Scores of some candidates on entries that our context pass wrote."""
        self.context()
        scores = self.crossing()
        if not scores.isfinite().all():
            return Accuracy(torch.nan, 0.0)
        count = min(_CHECKED, int(self._candidates.cu_candidates[1]))
        exact = self._elsewhere(count, scores.device, torch.float64)
        plain = self._elsewhere(count, torch.device("cpu"), DTYPE)
        return Accuracy(
            relative_error(scores[:count], exact), relative_error(plain.to(exact.device), exact)
        )

    def _elsewhere(self, count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The same scores where only the plain torch implementation runs."""
        ranker: Ranker = copy.deepcopy(self._ranker).to(device=device, dtype=dtype)
        few, kv = first_user(self._candidates, self._kv, count, device)
        return ranker.crossing_pass(few, kv)
