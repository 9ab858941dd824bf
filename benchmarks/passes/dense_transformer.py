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
import torch.nn.functional as F
from torch import Tensor

from benchmarks.anchors import Attention, AttentionWithSum
from shared.model.batch import CandidateTokens, HistoryTokens
from shared.model.config import ModelConfig
from shared.model.kv_source import DenseKV
from shared.model.layers import Layer
from shared.model.ranker import Ranker

_EPS = 1e-6

KV = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, each [B, T, H, D]."""


@dataclass(frozen=True)
class _Weights:
    """One layer's, those of query, key and value joined: one product makes all three."""

    norm: Tensor
    qkv: Tensor
    candidate_qkv: Tensor
    out: Tensor
    norm_ffn: Tensor
    gate_up: Tensor
    down: Tensor

    @classmethod
    def of(cls, layer: Layer) -> _Weights:
        kv = cast(DenseKV, layer.kv)
        return cls(
            layer.norm_attention.weight,
            torch.cat((layer.query.weight, kv.key.weight, kv.value.weight)),
            torch.cat((layer.query.weight, layer.self_key.weight, layer.self_value.weight)),
            layer.out.weight,
            layer.norm_ffn.weight,
            layer.ffn.gate_up.weight,
            layer.ffn.down.weight,
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
        self._weights = [_Weights.of(cast(Layer, layer)) for layer in ranker.layers]
        self._project: Callable[..., Tensor] = project
        self._finish: Callable[..., Tensor] = finish
        self._add_own: Callable[..., Tensor] = add_own_and_finish
        if compiled:
            # Every shape for itself, as fast as can be; the limit is eight shapes a function.
            torch.compiler.reset()
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
        history = self._embedded_history(tokens)
        own = self._embedded_candidates(candidates)
        x = torch.cat((history.expand(len(own), -1, -1), own.unsqueeze(1)), dim=1)
        for number, weights in enumerate(self._weights):
            q, k, v = self._heads(self._project(x, weights.norm, weights.qkv))
            if number == len(self._weights) - 1:
                attended = self._causal(q[:, -1:], k, v, scale=self._scale)
                x = x[:, -1:]
            else:
                attended = self._causal(q, k, v, scale=self._scale, causal=True)
            x = self._finished(x, attended, weights)
        return self._scores(x.squeeze(1))

    def encode(self, tokens: HistoryTokens, users: int) -> KV:
        """Keys and values of every layer; the last layer stops there."""
        x = self._embedded_history(tokens).view(users, -1, self._config.embed_dim)
        kv = []
        for number, weights in enumerate(self._weights):
            q, k, v = self._heads(self._project(x, weights.norm, weights.qkv))
            kv.append((k, v))
            if number < len(self._weights) - 1:
                attended = self._causal(q, k, v, scale=self._scale, causal=True)
                x = self._finished(x, attended, weights)
        return kv

    def score(self, candidates: CandidateTokens, kv: KV) -> Tensor:
        """Scores [N, tasks]; a candidate's own token joins by the log-sum-exp of the others."""
        users = len(kv[0][0])
        x = self._embedded_candidates(candidates).view(users, -1, self._config.embed_dim)
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
                weights.out,
                weights.norm_ffn,
                weights.gate_up,
                weights.down,
            )
        return self._scores(x.flatten(0, 1))

    def _heads(self, qkv: Tensor) -> list[Tensor]:
        heads = (self._config.heads, self._config.head_dim)
        return [part.unflatten(-1, heads) for part in qkv.chunk(3, dim=-1)]

    def _finished(self, x: Tensor, attended: Tensor, weights: _Weights) -> Tensor:
        return self._finish(
            x, attended, weights.out, weights.norm_ffn, weights.gate_up, weights.down
        )

    def _embedded_history(self, tokens: HistoryTokens) -> Tensor:
        return self._embedded(tokens.item_rows, tokens.action_types, tokens.surfaces, tokens.gaps)

    def _embedded_candidates(self, candidates: CandidateTokens) -> Tensor:
        action = torch.full_like(candidates.gaps, len(self._config.action_types))
        return self._embedded(candidates.item_rows, action, candidates.surfaces, candidates.gaps)

    def _embedded(self, items: Tensor, action: Tensor, surface: Tensor, gap: Tensor) -> Tensor:
        model = self._ranker
        summed = (
            model.item(items).sum(dim=-2)
            + model.action(action)
            + model.surface(surface)
            + model.gap(gap)
        )
        return model.in_proj(summed)

    def _scores(self, x: Tensor) -> Tensor:
        return self._ranker.head(self._ranker.norm_head(x)).sigmoid()


def project(x: Tensor, norm: Tensor, weight: Tensor) -> Tensor:
    """[..., E] to queries, keys and values [..., 3 H D]."""
    return F.linear(F.rms_norm(x, x.shape[-1:], norm, _EPS), weight)


def finish(
    x: Tensor, attended: Tensor, out: Tensor, norm: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """The rest of a layer after attention [..., H, D]."""
    x = x + F.linear(attended.flatten(-2), out)
    gate, up = F.linear(F.rms_norm(x, x.shape[-1:], norm, _EPS), gate_up).chunk(2, dim=-1)
    return x + F.linear(F.silu(gate) * up, down)


def add_own_and_finish(
    x: Tensor,
    q: Tensor,
    k_own: Tensor,
    v_own: Tensor,
    attended: Tensor,
    log_sum: Tensor,
    scale: float,
    out: Tensor,
    norm: Tensor,
    gate_up: Tensor,
    down: Tensor,
) -> Tensor:
    """`finish`, each candidate's own token added to what it attended to.

    `log_sum` [B, H, C] is the log-sum-exp of its logits over the history.
    """
    own_logit = (q.float() * k_own.float()).sum(dim=-1) * scale
    share = torch.sigmoid(own_logit - log_sum.transpose(1, 2)).unsqueeze(-1)
    merged = torch.lerp(attended.float(), v_own.float(), share).to(attended.dtype)
    return finish(x, merged, out, norm, gate_up, down)
