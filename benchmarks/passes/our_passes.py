"""Our two passes, ready to be timed and checked: as the model runs them, and compiled."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from benchmarks.graph_timing import Run
from benchmarks.kernels.trial import Accuracy, relative_error
from benchmarks.passes.compiled_passes import CompiledPasses
from benchmarks.passes.workload import (
    DTYPE,
    Variant,
    Workload,
    empty_entries,
    first_user,
    random_ranker,
)
from shared.model.batch import CandidateTokens, HistoryTokens
from shared.model.ranker import Ranker

_CHECKED = 64  # candidates of the first user


@dataclass(frozen=True)
class Difference:
    """Relative differences of all scores, compiled and not."""

    crossing: float
    """On the same entries."""
    both: float
    """Each on entries that its own context pass wrote. Where logits of two pool rows are nearly
    equal, another rounding chooses another row: with random weights 5 % over 37 tokens."""


class OurPasses:
    """Both passes of one variant, each run both ways on the same entries."""

    def __init__(
        self,
        workload: Workload,
        variant: Variant,
        tokens: HistoryTokens,
        candidates: CandidateTokens,
        random: torch.Generator,
    ) -> None:
        self._ranker = random_ranker(workload.config(variant), random.device, DTYPE)
        self._tokens, self._candidates = tokens, candidates
        self._kv = empty_entries(workload, self._ranker, random)
        self._compiled = CompiledPasses(self._ranker)

    def runs(self, *, compiled: bool) -> dict[str, Run]:
        """Both passes by name."""
        model = self._compiled if compiled else self._ranker
        return {
            "context": partial(model.context_pass, self._tokens, self._kv),
            "crossing": partial(model.crossing_pass, self._candidates, self._kv),
        }

    def accuracy(self, *, compiled: bool) -> Accuracy:
        """Scores of some candidates on entries that the model's context pass wrote."""
        exact, plain = self._elsewhere
        model = self._compiled if compiled else self._ranker
        scores = model.crossing_pass(self._candidates, self._kv)
        if not scores.isfinite().all():
            return Accuracy(torch.nan, 0.0)
        return Accuracy(relative_error(scores[: len(exact)], exact), relative_error(plain, exact))

    def difference(self) -> Difference:
        """What compiling changes."""
        self._ranker.context_pass(self._tokens, self._kv)
        wanted = self._ranker.crossing_pass(self._candidates, self._kv)
        found = self._compiled.crossing_pass(self._candidates, self._kv)
        self._compiled.context_pass(self._tokens, self._kv)
        own = self._compiled.crossing_pass(self._candidates, self._kv)
        return Difference(relative_error(found, wanted), relative_error(own, wanted))

    @cached_property
    def _elsewhere(self) -> tuple[Tensor, Tensor]:
        """The same scores where only the plain torch implementation runs, in float64 and bf16."""
        self._ranker.context_pass(self._tokens, self._kv)
        device = self._kv.arena.device
        count = min(_CHECKED, int(self._candidates.cu_candidates[1]))
        found = []
        for where, dtype in ((device, torch.float64), (torch.device("cpu"), DTYPE)):
            ranker: Ranker = copy.deepcopy(self._ranker).to(device=where, dtype=dtype)
            few, kv = first_user(self._candidates, self._kv, count, where)
            found.append(ranker.crossing_pass(few, kv).to(device))
        exact, plain = found
        return exact, plain
