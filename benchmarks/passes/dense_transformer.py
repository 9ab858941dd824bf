"""The same transformer as a user of torch would run it: dense K and V, library attention.

Two ways: the whole of [history ; candidate] for every candidate, and DCAT, where a history is
encoded once. Batches are rectangular, so nothing is padded. What lies between two attentions is
compiled by `torch.compile`; attention is whichever backend is fastest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from benchmarks.anchors import Attention, AttentionWithSum
from benchmarks.passes.dense_parts import Rest, Tables, embed, finish, project, scores
from shared.model.batch import CandidateTokens, HistoryTokens
from shared.model.config import ModelConfig
from shared.model.kv_source import DenseKV
from shared.model.layers import Layer
from shared.model.ranker import Ranker

KV = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, each [B, T, H, D]."""


@dataclass(frozen=True)
class _Weights:
    """One layer's, those of query, key and value joined: one product makes all three."""

    norm: Tensor
    qkv: Tensor
    candidate_qkv: Tensor
    rest: Rest

    @classmethod
    def of(cls, layer: Layer) -> _Weights:
        kv = cast(DenseKV, layer.kv)
        return cls(
            layer.norm_attention.weight,
            torch.cat((layer.query.weight, kv.key.weight, kv.value.weight)),
            torch.cat((layer.query.weight, layer.self_key.weight, layer.self_value.weight)),
            Rest.of(layer),
        )


class DenseTransformer:
    """A ranker of kind `dense`, H = G, with every user's history equally long."""

    def __init__(
        self,
        ranker: Ranker,
        causal: Attention,
        crossing: AttentionWithSum,
        *,
        compiled: bool,
    ) -> None:
        self._ranker = ranker
        self._causal = causal
        self._crossing = crossing
        self._tables = Tables.of(ranker)
        self._weights = [_Weights.of(cast(Layer, layer)) for layer in ranker.layers]
        self._project: Callable[..., Tensor] = project
        self._finish: Callable[..., Tensor] = finish
        self._add_own: Callable[..., Tensor] = add_own_and_finish
        self._embed: Callable[..., Tensor] = embed
        self._scores: Callable[..., Tensor] = scores
        if compiled:
            self._embed = torch.compile(embed, dynamic=True)
            self._scores = torch.compile(scores, dynamic=True)
            # Every shape for itself, as fast as can be.
            self._project = torch.compile(project, dynamic=False)
            self._finish = torch.compile(finish, dynamic=False)
            self._add_own = torch.compile(add_own_and_finish, dynamic=False)

    @property
    def _config(self) -> ModelConfig:
        return self._ranker.config

    @property
    def _scale(self) -> float:
        return float(self._config.head_dim**-0.5)

    def score_each(self, tokens: HistoryTokens, candidates: CandidateTokens) -> Tensor:
        """Scores [S, tasks] of S candidates of one user, each behind a copy of the history.

        In the last layer only the candidate's token goes on after K and V.
        """
        history = self._embedded_history(tokens, 1)
        own = self._embedded_candidates(candidates, len(candidates.gaps))
        x = torch.cat((history.expand(len(own), -1, -1), own), dim=1)
        for number, weights in enumerate(self._weights):
            q, k, v = self._heads(self._project(x, weights.norm, weights.qkv))
            if number == len(self._weights) - 1:
                attended = self._causal(q[:, -1:], k, v, scale=self._scale)
                x = x[:, -1:]
            else:
                attended = self._causal(q, k, v, scale=self._scale, causal=True)
            x = self._finish(x, attended.flatten(-2), weights.rest)
        return self._scored(x.squeeze(1))

    def encode(self, tokens: HistoryTokens, users: int) -> KV:
        """Keys and values of every layer; the last layer stops there."""
        x = self._embedded_history(tokens, users)
        kv = []
        for number, weights in enumerate(self._weights):
            q, k, v = self._heads(self._project(x, weights.norm, weights.qkv))
            kv.append((k, v))
            if number < len(self._weights) - 1:
                attended = self._causal(q, k, v, scale=self._scale, causal=True)
                x = self._finish(x, attended.flatten(-2), weights.rest)
        return kv

    def score(self, candidates: CandidateTokens, kv: KV) -> Tensor:
        """Scores [N, tasks]; a candidate's own token joins by the log-sum-exp of the others."""
        x = self._embedded_candidates(candidates, len(kv[0][0]))
        for weights, (k, v) in zip(self._weights, kv, strict=True):
            q, k_own, v_own = self._heads(self._project(x, weights.norm, weights.candidate_qkv))
            attended, log_sum = self._crossing(q, k, v, scale=self._scale)
            x = self._add_own(
                x,
                q,
                k_own,
                v_own,
                attended,
                log_sum,
                self._scale,
                weights.rest,
            )
        return self._scored(x.flatten(0, 1))

    def _heads(self, qkv: Tensor) -> list[Tensor]:
        heads = (self._config.heads, self._config.head_dim)
        return [part.unflatten(-1, heads) for part in qkv.chunk(3, dim=-1)]

    def _embedded_history(self, tokens: HistoryTokens, users: int) -> Tensor:
        action = tokens.action_types.view(users, -1)
        return self._embedded(tokens.item_rows, action, tokens.surfaces, tokens.gaps, users)

    def _embedded_candidates(self, candidates: CandidateTokens, users: int) -> Tensor:
        return self._embedded(
            candidates.item_rows, None, candidates.surfaces, candidates.gaps, users
        )

    def _embedded(
        self, items: Tensor, action: Tensor | None, surface: Tensor, gap: Tensor, users: int
    ) -> Tensor:
        """[B, T, E], no view of another tensor: views make `torch.compile` start once more."""
        return self._embed(
            items.view(users, -1, items.shape[-1]),
            action,
            surface.view(users, -1),
            gap.view(users, -1),
            self._tables,
        )

    def _scored(self, x: Tensor) -> Tensor:
        model = self._ranker
        return self._scores(x, model.norm_head.weight, model.head.weight, model.head.bias)


def add_own_and_finish(
    x: Tensor,
    q: Tensor,
    k_own: Tensor,
    v_own: Tensor,
    attended: Tensor,
    log_sum: Tensor,
    scale: float,
    rest: Rest,
) -> Tensor:
    """`finish`, each candidate's own token added to what it attended to.

    `log_sum` [B, H, C] is the log-sum-exp of its logits over the history.
    """
    own_logit = (q.float() * k_own.float()).sum(dim=-1) * scale
    share = torch.sigmoid(own_logit - log_sum.transpose(1, 2)).unsqueeze(-1)
    merged = torch.lerp(attended.float(), v_own.float(), share).to(attended.dtype)
    return finish(x, merged.flatten(-2), rest)
