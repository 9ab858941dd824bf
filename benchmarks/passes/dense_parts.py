"""What lies between two attentions, as functions of weights: what `torch.compile` is given."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.model.layers import Layer
from shared.model.ranker import Ranker

_EPS = 1e-6


class Tables(NamedTuple):
    """What tokens are embedded by."""

    item: Tensor
    action: Tensor
    surface: Tensor
    gap: Tensor
    in_proj: Tensor

    @classmethod
    def of(cls, ranker: Ranker) -> Tables:
        """The tables of a ranker without dense features."""
        parts = (ranker.item, ranker.action, ranker.surface, ranker.gap, ranker.in_proj)
        return cls(*(part.weight for part in parts))


class Rest(NamedTuple):
    """A layer's weights behind its attention."""

    out: Tensor
    norm: Tensor
    gate_up: Tensor
    down: Tensor

    @classmethod
    def of(cls, layer: Layer) -> Rest:
        """Of one layer."""
        ffn = layer.ffn
        return cls(layer.out.weight, layer.norm_ffn.weight, ffn.gate_up.weight, ffn.down.weight)


def embed(
    items: Tensor, action: Tensor | None, surface: Tensor, gap: Tensor, tables: Tables
) -> Tensor:
    """Tokens to [T, E]; candidates have no action."""
    done = tables.action[-1] if action is None else F.embedding(action, tables.action)
    first, *others = items.unbind(dim=-1)  # of a free size, a sum would be a loop when compiled
    x = F.embedding(first, tables.item)
    for item in others:
        x = x + F.embedding(item, tables.item)
    x = x + done + F.embedding(surface, tables.surface) + F.embedding(gap, tables.gap)
    return F.linear(x, tables.in_proj)


def normed(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm of x [..., E]."""
    return F.rms_norm(x, x.shape[-1:], weight, _EPS)


def project(x: Tensor, norm: Tensor, weight: Tensor) -> Tensor:
    """[..., E] to queries, keys and values [..., 3 H D]."""
    return F.linear(normed(x, norm), weight)


def finish(x: Tensor, attended: Tensor, rest: Rest) -> Tensor:
    """The rest of a layer after attention [..., H * D]."""
    x = x + F.linear(attended, rest.out)
    gate, up = F.linear(normed(x, rest.norm), rest.gate_up).chunk(2, dim=-1)
    return x + F.linear(F.silu(gate) * up, rest.down)


def scores(x: Tensor, norm: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Scores [N, tasks] of x [N, E]; logits in float32 at least."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return F.linear(normed(x, norm).to(dtype), weight.to(dtype), bias.to(dtype)).sigmoid()
