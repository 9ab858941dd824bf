"""The ranking transformer: the context pass, the crossing pass, and both at once for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.histories import RaggedHistory
from kernels.kv_expand import kv_expand
from shared.kv.layout import EntryLayout
from shared.model.batch import CandidateTokens, HistoryTokens, PagedKV
from shared.model.config import GAP_BUCKETS, ModelConfig
from shared.model.items import embedding_rows
from shared.model.kv_source import RouterLosses
from shared.model.layers import Layer


@dataclass(frozen=True)
class TrainingOutput:
    """What a training step needs."""

    logits: Tensor
    """[N, tasks]."""
    router_losses: list[RouterLosses]
    """One a layer; empty for dense KV."""


class Ranker(nn.Module):
    """DCAT over collective or dense KV.

    Candidates see their user's history and themselves, never each other, so the crossing pass over
    stored keys and values equals running the whole transformer on [history ; candidate].
    """

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        width = config.embed_dim
        self.config = config
        self.layout = EntryLayout(config)
        self.item = nn.Embedding(embedding_rows(config.items), width)
        self.action = nn.Embedding(len(config.action_types) + 1, width)  # the last: CANDIDATE
        self.surface = nn.Embedding(len(config.surfaces), width)
        self.gap = nn.Embedding(GAP_BUCKETS, width)
        self.in_proj = nn.Linear(width, width, bias=False)
        if config.feature_dim:
            self.feature = nn.Linear(config.feature_dim, width, bias=False)
        self.layers = nn.ModuleList(Layer(config, dropout) for _ in range(config.layers))
        self.norm_head = nn.RMSNorm(width, eps=1e-6)
        self.head = nn.Linear(width, len(config.tasks))
        self.dropout = nn.Dropout(dropout)
        for table in (self.action, self.surface, self.gap):
            nn.init.normal_(table.weight, std=0.1)
        # At 0.1 histories go unlearned for much of a run, on small data for all of it.
        nn.init.normal_(self.item.weight, std=0.3)

    @torch.inference_mode()
    def context_pass(self, tokens: HistoryTokens, kv: PagedKV) -> Tensor:
        """Encode new actions into their users' pages.

        `kv` bounds each user's history with the new actions included; what lies before them was
        written by earlier passes and is read. An encode is an append to nothing.

        Returns:
            [T_new] bool: whether a token is finite. The residual stream carries a NaN from any
            layer to the last, so an entry of finite tokens was made of finite numbers alone.
        """
        x = self._embed_history(tokens)
        at = kv.pages.newest_slots(tokens.cu_tokens, len(tokens.gaps))
        for number, layer in enumerate(self._layers()):
            h = layer.normed(x)
            planes = self.layout.planes(kv.arena, number)
            layer.kv.write(h, planes, at)
            if number == self.config.layers - 1:
                break  # nothing reads the last layer's output
            k, v = kv_expand(layer.kv.history(planes, kv.pages), x.dtype)
            x = layer.context(x, h, k, v, tokens.cu_tokens, kv.pages.cu_history)
        return h.isfinite().all(dim=-1)

    @torch.inference_mode()
    def crossing_pass(self, candidates: CandidateTokens, kv: PagedKV) -> Tensor:
        """Scores [N, tasks] in (0, 1), float32 at least, of candidates against users' entries."""
        x = self._embed_candidates(candidates)
        for number, layer in enumerate(self._layers()):
            history = layer.kv.history(self.layout.planes(kv.arena, number), kv.pages)
            x = layer.crossing(x, history, candidates.cu_candidates)
        return self._head(x).sigmoid()

    def forward(self, tokens: HistoryTokens, candidates: CandidateTokens) -> TrainingOutput:
        """Both passes over B users with gradients, each history encoded once."""
        x = self.dropout(self._embed_history(tokens))
        crossing = self.dropout(self._embed_candidates(candidates))
        bounds = tokens.cu_tokens
        router_losses = []
        for number, layer in enumerate(self._layers()):
            h = layer.normed(x)
            k, v, losses = layer.kv.training_form(h)
            if losses is not None:
                router_losses.append(losses)
            crossing = layer.crossing(
                crossing, RaggedHistory(k, v, bounds), candidates.cu_candidates
            )
            if number < self.config.layers - 1:
                x = layer.context(x, h, k, v, bounds, bounds)
        return TrainingOutput(self._head(crossing), router_losses)

    def _layers(self) -> list[Layer]:
        return cast(list[Layer], list(self.layers))

    def _embed_history(self, tokens: HistoryTokens) -> Tensor:
        return self._embed(tokens.item_rows, tokens.action_types, tokens.surfaces, tokens.gaps)

    def _embed_candidates(self, candidates: CandidateTokens) -> Tensor:
        action = torch.full_like(candidates.gaps, len(self.config.action_types))
        x = self._embed(candidates.item_rows, action, candidates.surfaces, candidates.gaps)
        if candidates.features is None:
            return x
        return x + self.feature(candidates.features.to(x.dtype))

    def _embed(self, item_rows: Tensor, action: Tensor, surface: Tensor, gap: Tensor) -> Tensor:
        summed = (
            self.item(item_rows).sum(dim=-2)
            + self.action(action)
            + self.surface(surface)
            + self.gap(gap)
        )
        return self.in_proj(summed)

    def _head(self, x: Tensor) -> Tensor:
        """Logits [N, tasks], float32 at least.

        bfloat16 steps are 1/256 below 1: a logit and its sigmoid in it lose more than all layers do
        (the shipped model's scores move by 8e-4 in the mean, 3e-4 without).
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.head.weight.to(dtype), self.head.bias.to(dtype)
        return F.linear(self.norm_head(x).to(dtype), weight, bias)
