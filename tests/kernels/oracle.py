"""Attention, expansion and routing in loops over single numbers' vectors, float64 numpy."""

from __future__ import annotations

from math import exp

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def attend_one(q: Array, keys: list[Array], values: list[Array], scale: float) -> Array:
    """softmax(scale * q . keys) @ values for one query of one head."""
    logits = [scale * sum(float(a) * float(b) for a, b in zip(q, k, strict=True)) for k in keys]
    weights = [exp(logit - max(logits)) for logit in logits]
    out = np.zeros_like(q)
    for weight, value in zip(weights, values, strict=True):
        out += weight / sum(weights) * value
    return out


def context_attention(
    q: Array, k: Array, v: Array, new: list[int], total: list[int], scale: float
) -> Array:
    """Query j of a user's `new` sees that user's first `total - new + j + 1` keys."""
    out = np.full_like(q, np.nan)
    group = q.shape[1] // k.shape[1]
    at_q = at_k = 0
    for fresh, length in zip(new, total, strict=True):
        for j in range(fresh):
            seen = range(at_k, at_k + length - fresh + j + 1)
            for head in range(q.shape[1]):
                keys = [k[t, head // group] for t in seen]
                values = [v[t, head // group] for t in seen]
                out[at_q + j, head] = attend_one(q[at_q + j, head], keys, values, scale)
        at_q, at_k = at_q + fresh, at_k + length
    return out


def crossing_attention(
    q: Array,
    k_self: Array,
    v_self: Array,
    k: Array,
    v: Array,
    candidates: list[int],
    total: list[int],
    scale: float,
) -> Array:
    """A candidate sees all of its user's keys and its own."""
    out = np.full_like(q, np.nan)
    group = q.shape[1] // k_self.shape[1]
    at_c = at_k = 0
    for count, length in zip(candidates, total, strict=True):
        for c in range(at_c, at_c + count):
            for head in range(q.shape[1]):
                g = head // group
                keys = [*(k[t, g] for t in range(at_k, at_k + length)), k_self[c, g]]
                values = [*(v[t, g] for t in range(at_k, at_k + length)), v_self[c, g]]
                out[c, head] = attend_one(q[c, head], keys, values, scale)
        at_c, at_k = at_c + count, at_k + length
    return out


def error(out: object, ref: Array) -> float:
    """||out - ref|| / ||ref||, 0 for nothing at all."""
    difference = np.asarray(out, np.float64) - ref
    return float(np.linalg.norm(difference) / np.linalg.norm(ref)) if ref.size else 0.0
