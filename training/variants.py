"""The rankers a study compares: the same recipe and budget, one thing different in each."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from shared.model.config import ItemListConfig, ModelConfig
from training.cases import ACTION_TYPES, TASKS, CaseSampler, RankingCase
from training.dealing import deal_anew
from training.movielens import MovieLens


class Variant(StrEnum):
    """What is trained."""

    COLLECTIVE = "collective"
    """Collective KV: what `checkpoints/ml-100k` holds."""
    DENSE = "dense"
    """Plain keys and values: what the compression costs."""
    NO_CONTEXT = "no_context"
    """The collective model, but no case has a history: what there was to lose."""
    SHUFFLED_LABELS = "shuffled_labels"
    """The collective model on dealt items and ratings: an AUC beside 0.5 would be a leak."""

    @property
    def kv(self) -> Literal["collective", "dense"]:
        """The model's KV mode."""
        return "dense" if self is Variant.DENSE else "collective"

    def config(self, items: int) -> ModelConfig:
        """The model; docs/results.md says how small its entries are beside dense bf16."""
        return ModelConfig(
            embed_dim=64,
            layers=2,
            heads=2,
            kv_heads=2,
            head_dim=32,
            ffn_dim=128,
            tasks=TASKS,
            action_types=ACTION_TYPES,
            items=ItemListConfig(count=items),
            max_history=1024,  # the longest user has 737 actions
            kv=self.kv,
            router="tied",
            pool_rows=256,
            slice_dims=1,
            page_tokens=16,  # the median history is 52 tokens: larger pages would be mostly padding
        )

    def sampler(self, data: MovieLens, seed: int) -> CaseSampler:
        """Cuts this variant's cases; `seed` is that of the deal."""
        if self is Variant.SHUFFLED_LABELS:
            deal = deal_anew(data, seed)
            return CaseSampler(deal.data, deal.decoys)
        return CaseSampler(data)

    def cases(self, cases: Sequence[RankingCase]) -> list[RankingCase]:
        """The cases as this variant sees them, in training and in evaluation."""
        if self is Variant.NO_CONTEXT:
            return [case.without_history() for case in cases]
        return list(cases)
