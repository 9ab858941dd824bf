"""Product keys: P = p * p rows routed to by two routers of p keys (arXiv 1907.05242)."""

from __future__ import annotations

from torch import Tensor

from kernels.checks import require_shape
from kernels.pool_router import pool_router


def product_key_router(hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Choose a pool row per token and side among p * p pairs of keys, with the winning logit.

    Row a * p + b has the logit of key a in the first list plus that of key b in the second. The
    best sum is the sum of the bests, so 2 p logits a token and side say what P = p * p would.

    Args:
        hidden: [T, E] floating; both lists see the whole vector.
        weight: [S, 2, p, E] two lists of keys a side: S is 1 (tied) or 2 (keys, then values).
        bias: [S, 2, p].

    Returns:
        Row numbers [S, T] int64, of the lowest winning key of each list, and their logits [S, T].

    Raises:
        ValueError: a shape does not fit; the message names it.
    """
    require_shape("weight", weight, None, 2, None, None)
    sides, lists, keys, _ = weight.shape
    require_shape("bias", bias, sides, lists, keys)
    winners, logits = pool_router(hidden, weight.flatten(0, 1), bias.flatten(0, 1))
    first, second = winners.unflatten(0, (sides, lists)).unbind(1)
    return first * keys + second, logits.unflatten(0, (sides, lists)).sum(dim=1)
