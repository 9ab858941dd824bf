"""The two ways a user of torch would take, ready to be timed.

`each candidate`: the transformer over [history ; candidate] for every candidate, timed on some
candidates of one user and scaled to all. `DCAT dense`: histories encoded once into dense keys and
values. Both run compiled and with the fastest attention backend for the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.anchors import Attention, AttentionWithSum, attentions, attentions_with_sums
from benchmarks.graph_timing import Run, Timing, time_in_turn
from benchmarks.kernels.trial import relative_error
from benchmarks.passes.dense_transformer import KV, DenseTransformer
from benchmarks.passes.workload import DTYPE, Variant, Workload, random_ranker
from shared.model.batch import CandidateTokens, HistoryTokens, bounds
from shared.model.kv_source import DenseKV
from shared.model.layers import Layer
from shared.model.ranker import Ranker

EACH = "each candidate"
CONTEXT, CROSSING = "DCAT dense, context", "DCAT dense, crossing"

_SUBSET_TOKENS = 1 << 17  # of `each candidate`: enough to fill the GPU


class Baselines:
    """Both ways of a user of torch, on the same sizes."""

    def __init__(
        self,
        workload: Workload,
        tokens: HistoryTokens,
        candidates: CandidateTokens,
        random: torch.Generator,
    ) -> None:
        self._all = workload.users * workload.candidates
        self._sequences = max(1, min(workload.candidates, _SUBSET_TOKENS // workload.tokens))
        self.attention, causal, crossing = _fastest_attentions(workload, random)
        ranker = tied_ranker(workload, random.device, DTYPE)
        model = DenseTransformer(ranker, causal, crossing, compiled=True)
        history, few = _some_of_first_user(tokens, candidates, workload, self._sequences)
        kv: KV = [
            (_heads_first(k), _heads_first(v)) for k, v in model.encode(tokens, workload.users)
        ]
        self._score_some = partial(model.score_each, history, few)
        self._score_all = partial(model.score, candidates, kv)
        self.runs: dict[str, Run] = {
            EACH: self._score_some,
            CONTEXT: partial(model.encode, tokens, workload.users),
            CROSSING: self._score_all,
        }

    def difference(self) -> float:
        """Relative difference of the scores that both ways give the same candidates."""
        return relative_error(self._score_all()[: self._sequences], self._score_some())

    def each_candidate(self, timings: Mapping[str, Timing]) -> dict[str, Any]:
        """Scaled from the sequences that were timed to all candidates."""
        us = timings[EACH].us
        return {
            "sequences_timed": self._sequences,
            "us_timed": us,
            "us": us and round(us / self._sequences * self._all, 1),
            "timed_by": timings[EACH].by,
            "attention": self.attention["causal"],
        }

    def dcat_dense(self, timings: Mapping[str, Timing]) -> dict[str, Any]:
        """Both passes; keys and values lie as the backend likes them best."""
        context, crossing = timings[CONTEXT], timings[CROSSING]
        return {
            "context_us": context.us,
            "crossing_us": crossing.us,
            "both_us": context.us and crossing.us and round(context.us + crossing.us, 3),
            "timed_by": {"context": context.by, "crossing": crossing.by},
            "attention": self.attention,
            "own_token": "added by the log-sum-exp of the rest, in the compiled code after it",
        }


def tied_ranker(workload: Workload, device: torch.device, dtype: torch.dtype) -> Ranker:
    """Dense, and a candidate's own key and value are projected as a history's are.

    Only then are both ways the same transformer.
    """
    ranker = random_ranker(workload.config(Variant("dense")), device, dtype)
    for layer in cast(list[Layer], list(ranker.layers)):
        kv = cast(DenseKV, layer.kv)
        layer.self_key.weight, layer.self_value.weight = kv.key.weight, kv.value.weight
    return ranker


def _fastest_attentions(
    workload: Workload, random: torch.Generator
) -> tuple[dict[str, str], Attention, AttentionWithSum]:
    """Names and functions of the fastest backends for causal and for crossing attention."""

    def normal(length: int) -> Tensor:
        size = (workload.users, length, 4, workload.head_dim)
        return torch.randn(size, device=random.device, generator=random).to(DTYPE)

    k, v = normal(workload.tokens), normal(workload.tokens)
    scale = workload.head_dim**-0.5
    causal, crossing = attentions(), attentions_with_sums()
    names = {
        "causal": _fastest(causal, normal(workload.tokens), k, v, scale=scale, causal=True),
        "crossing": _fastest(
            crossing, normal(workload.candidates), _heads_first(k), _heads_first(v), scale=scale
        ),
    }
    return names, causal[names["causal"]], crossing[names["crossing"]]


def _fastest(backends: Mapping[str, Callable[..., object]], *args: Tensor, **kwargs: Any) -> str:
    runs: dict[str, Run] = {
        name: partial(attend, *args, **kwargs) for name, attend in backends.items()
    }
    times = {name: timing.us for name, timing in time_in_turn(runs, rounds=2).items()}
    ran = {name: us for name, us in times.items() if us is not None}
    if not ran:
        raise RuntimeError(f"no attention backend ran: {list(times)}")
    return min(ran, key=lambda name: ran[name])


def _some_of_first_user(
    tokens: HistoryTokens, candidates: CandidateTokens, workload: Workload, count: int
) -> tuple[HistoryTokens, CandidateTokens]:
    length, device = workload.tokens, tokens.gaps.device
    history = HistoryTokens(
        tokens.item_rows[:length],
        tokens.action_types[:length],
        tokens.surfaces[:length],
        tokens.gaps[:length],
        bounds([length], device),
    )
    few = CandidateTokens(
        candidates.item_rows[:count],
        candidates.surfaces[:count],
        candidates.gaps[:count],
        None,
        bounds([count], device),
    )
    return history, few


def _heads_first(tensor: Tensor) -> Tensor:
    """[B, T, H, D] whose memory lies [B, H, T, D]."""
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)
