"""The whole transformer on [history ; candidate], in loops over tokens and heads, float64.

Written from the formulas, sharing nothing with the layers but their weights. `Event` 0 .. T-1 are
actions whose keys and values come from the pool (or are dense), event T is the candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, sqrt

import numpy as np
import torch
from numpy.typing import NDArray

from shared.model.config import ModelConfig

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Event:
    """One token: its embedding rows and the seconds since the token before it."""

    item_rows: list[int]
    action: int
    surface: int
    gap_s: int
    features: list[float] | None = None


class NaiveTransformer:
    """Scores of one candidate after one history, recomputing everything."""

    def __init__(
        self, config: ModelConfig, state: dict[str, torch.Tensor], scale_factor: float = 1.0
    ) -> None:
        self.config = config
        self.w = {name: tensor.double().numpy() for name, tensor in state.items()}
        self.scale = scale_factor / sqrt(config.head_dim)

    def score(self, history: list[Event], candidate: Event) -> Vector:
        """Sigmoid of one logit a task."""
        x = [self._embed(event) for event in [*history, candidate]]
        for layer in range(self.config.layers):
            x = self._layer(f"layers.{layer}.", x)
        logits = (
            self.w["head.weight"] @ _rms(x[-1], self.w["norm_head.weight"]) + self.w["head.bias"]
        )
        return np.array([1 / (1 + exp(-logit)) for logit in logits])

    def _embed(self, event: Event) -> Vector:
        bucket = min(31, (1 + max(0, event.gap_s)).bit_length() - 1)
        summed = self.w["action.weight"][event.action] + self.w["surface.weight"][event.surface]
        summed = summed + self.w["gap.weight"][bucket]
        for row in event.item_rows:
            summed = summed + self.w["item.weight"][row]
        x = self.w["in_proj.weight"] @ summed
        return x if event.features is None else x + self.w["feature.weight"] @ event.features

    def _layer(self, name: str, x: list[Vector]) -> list[Vector]:
        w, config = self.w, self.config
        normed = [_rms(token, w[name + "norm_attention.weight"]) for token in x]
        pairs = [self._history_pair(name + "kv.", h) for h in normed[:-1]]
        own = (w[name + "self_key.weight"] @ normed[-1], w[name + "self_value.weight"] @ normed[-1])
        shape = (config.kv_heads, config.head_dim)
        pairs.append((own[0].reshape(shape), own[1].reshape(shape)))
        out = []
        for j, h in enumerate(normed):
            q = (w[name + "query.weight"] @ h).reshape(config.heads, config.head_dim)
            heads = [self._attend(q[head], pairs[: j + 1], head) for head in range(config.heads)]
            y = x[j] + w[name + "out.weight"] @ np.concatenate(heads)
            n = _rms(y, w[name + "norm_ffn.weight"])
            gate, up = np.split(w[name + "ffn.gate_up.weight"] @ n, 2)
            out.append(y + w[name + "ffn.down.weight"] @ (gate / (1 + np.exp(-gate)) * up))
        return out

    def _attend(self, q: Vector, pairs: list[tuple[Vector, Vector]], head: int) -> Vector:
        kv_head = head * self.config.kv_heads // self.config.heads
        logits = [self.scale * float(q @ k[kv_head]) for k, _ in pairs]
        weights = [exp(logit - max(logits)) for logit in logits]
        summed = np.zeros(self.config.head_dim)
        for weight, (_, v) in zip(weights, pairs, strict=True):
            summed += weight / sum(weights) * v[kv_head]
        return summed

    def _history_pair(self, name: str, h: Vector) -> tuple[Vector, Vector]:
        """K and V [G, D] of one action, as an entry stores them."""
        w, config = self.w, self.config
        if config.kv == "dense":
            shape = (config.kv_heads, config.head_dim)
            k, v = w[name + "key.weight"] @ h, w[name + "value.weight"] @ h
            return self._stored(k).reshape(shape), self._stored(v).reshape(shape)
        sides = len(w[name + "router_weight"])
        rows = [self._route(name, side, h) for side in range(sides)]
        key_slice = value_slice = np.zeros(0)
        if config.slice_dims:
            key_slice, value_slice = np.split(w[name + "slices.weight"] @ h, 2)
            if config.slices == "coded":
                distances = [((key_slice - code) ** 2).sum() for code in w[name + "codebook"]]
                key_slice = w[name + "codebook"][distances.index(min(distances))]
                step = float(w[name + "value_scale"])
                value_slice = np.array(
                    [step * max(-127, min(127, round(v / step))) for v in value_slice]
                )
            else:
                key_slice, value_slice = self._stored(key_slice), self._stored(value_slice)
        k = [np.concatenate((key_slice, row)) for row in w[name + "key_pool"][rows[0]]]
        v = [np.concatenate((value_slice, row)) for row in w[name + "value_pool"][rows[-1]]]
        return np.array(k), np.array(v)

    def _route(self, name: str, side: int, h: Vector) -> int:
        weight, bias = self.w[name + "router_weight"][side], self.w[name + "router_bias"][side]
        if self.config.router_keys == "product":  # every pair's keys and biases added up
            weight = (weight[0][:, None] + weight[1]).reshape(self.config.pool_rows, -1)
            bias = (bias[0][:, None] + bias[1]).reshape(-1)
        best, best_logit = 0, -np.inf
        for row in range(self.config.pool_rows):
            logit = float(weight[row] @ h + bias[row])
            if logit > best_logit:
                best, best_logit = row, logit
        return best

    def _stored(self, values: Vector) -> Vector:
        """`values` rounded to the entry's dtype."""
        rounded = torch.from_numpy(values).to(self.config.storage_dtype)
        return rounded.double().numpy()


def _rms(x: Vector, weight: Vector) -> Vector:
    return x / np.sqrt((x**2).mean() + 1e-6) * weight
