"""Our two passes with what lies between two attentions compiled, from the weights of a ranker.

Routing, writing entries and attention are the model's own, as they stand; `torch.compile` gets the
arithmetic around them, for any number of tokens, as a service has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.passes.dense_parts import Rest, Tables, embed, finish, normed, scores
from kernels.context_attention import context_attention
from kernels.crossing_attention import crossing_attention
from kernels.kv_expand import kv_expand
from shared.model.batch import CandidateTokens, HistoryTokens, PagedKV
from shared.model.layers import Layer
from shared.model.ranker import Ranker


class CompiledPasses:
    """Takes the place of a ranker without dense features and with collective KV."""

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker
        self._tables = Tables.of(ranker)
        self._layers = cast(list[Layer], list(ranker.layers))
        self._enter: Callable[..., list[Tensor]] = torch.compile(enter, dynamic=True)
        self._between: Callable[..., list[Tensor]] = torch.compile(between, dynamic=True)
        self._leave: Callable[..., Tensor] = torch.compile(leave, dynamic=True)

    @torch.inference_mode()
    def context_pass(self, tokens: HistoryTokens, kv: PagedKV) -> Tensor:
        """See `Ranker.context_pass`."""
        at = kv.pages.newest_slots(tokens.cu_tokens, len(tokens.gaps))
        x, h, *q = self._enter(
            tokens.item_rows,
            tokens.action_types,
            tokens.surfaces,
            tokens.gaps,
            self._tables,
            self._layers[0].norm_attention.weight,
            self._context_weights(0),
        )
        for number, layer in enumerate(self._layers):
            planes = self._ranker.layout.planes(kv.arena, number)
            layer.kv.write(h, planes, at)
            if number == len(self._layers) - 1:
                break
            k, v = kv_expand(layer.kv.history(planes, kv.pages), x.dtype)
            heads = q[0].unflatten(-1, (layer.heads, layer.head_dim))
            attended = context_attention(
                heads, k, v, tokens.cu_tokens, kv.pages.cu_history, scale=layer.scale
            )
            following = self._layers[number + 1]
            x, h, *q = self._between(
                x,
                attended.flatten(-2),
                Rest.of(layer),
                following.norm_attention.weight,
                self._context_weights(number + 1),
            )
        return h.isfinite().all(dim=-1)

    @torch.inference_mode()
    def crossing_pass(self, candidates: CandidateTokens, kv: PagedKV) -> Tensor:
        """See `Ranker.crossing_pass`."""
        x, _, *qkv = self._enter(
            candidates.item_rows,
            None,
            candidates.surfaces,
            candidates.gaps,
            self._tables,
            self._layers[0].norm_attention.weight,
            self._crossing_weights(0),
        )
        for number, layer in enumerate(self._layers):
            history = layer.kv.history(self._ranker.layout.planes(kv.arena, number), kv.pages)
            q, k_self, v_self = (part.unflatten(-1, (-1, layer.head_dim)) for part in qkv)
            attended = crossing_attention(
                q, k_self, v_self, history, candidates.cu_candidates, scale=layer.scale
            ).flatten(-2)
            if number == len(self._layers) - 1:
                break
            following = self._layers[number + 1]
            x, _, *qkv = self._between(
                x,
                attended,
                Rest.of(layer),
                following.norm_attention.weight,
                self._crossing_weights(number + 1),
            )
        model = self._ranker
        return self._leave(
            x, attended, Rest.of(layer), model.norm_head.weight, model.head.weight, model.head.bias
        )

    def _context_weights(self, number: int) -> list[Tensor]:
        """Nobody queries in the last layer: nothing reads its output."""
        return [] if number == len(self._layers) - 1 else [self._layers[number].query.weight]

    def _crossing_weights(self, number: int) -> list[Tensor]:
        layer = self._layers[number]
        return [layer.query.weight, layer.self_key.weight, layer.self_value.weight]


def enter(
    items: Tensor,
    action: Tensor | None,
    surface: Tensor,
    gap: Tensor,
    tables: Tables,
    norm: Tensor,
    weights: list[Tensor],
) -> list[Tensor]:
    """Tokens to x [T, E], its norm h [T, E] and a projection of h by each of `weights`."""
    return _ahead(embed(items, action, surface, gap, tables), norm, weights)


def between(
    x: Tensor, attended: Tensor, rest: Rest, norm: Tensor, weights: list[Tensor]
) -> list[Tensor]:
    """The rest of a layer after attention [T, H * D], then as `enter`, of the next layer."""
    return _ahead(finish(x, attended, rest), norm, weights)


def leave(
    x: Tensor, attended: Tensor, rest: Rest, norm: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """The rest of the last layer, then scores [N, tasks]."""
    return scores(finish(x, attended, rest), norm, weight, bias)


def _ahead(x: Tensor, norm: Tensor, weights: list[Tensor]) -> list[Tensor]:
    h = normed(x, norm)
    return [x, h, *(F.linear(h, weight) for weight in weights)]
