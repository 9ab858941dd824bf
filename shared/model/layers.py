"""One transformer layer, the same weights in both passes (pre-RMSNorm, SwiGLU)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kernels.context_attention import context_attention
from kernels.crossing_attention import crossing_attention
from kernels.histories import History
from shared.model.config import ModelConfig
from shared.model.kv_source import CollectiveKV, DenseKV


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.embed_dim, 2 * config.ffn_dim, bias=False)
        self.down = nn.Linear(config.ffn_dim, config.embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] to [..., E]."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Layer(nn.Module):
    """Attention and SwiGLU; K and V of a history come from `kv`, a candidate's own are dense."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.scale = config.head_dim**-0.5
        self.norm_attention = nn.RMSNorm(config.embed_dim, eps=1e-6)
        self.query = nn.Linear(config.embed_dim, width, bias=False)
        self.kv = DenseKV(config) if config.kv == "dense" else CollectiveKV(config)
        self.self_key = nn.Linear(config.embed_dim, kv_width, bias=False)
        self.self_value = nn.Linear(config.embed_dim, kv_width, bias=False)
        self.out = nn.Linear(width, config.embed_dim, bias=False)
        self.norm_ffn = nn.RMSNorm(config.embed_dim, eps=1e-6)
        self.ffn = SwiGLU(config)
        self.dropout = nn.Dropout(dropout)

    def normed(self, x: Tensor) -> Tensor:
        """The layer's view of its input, [..., E]: what queries, K and V are made from."""
        return self.norm_attention(x)

    def context(
        self, x: Tensor, h: Tensor, k: Tensor, v: Tensor, cu_query: Tensor, cu_history: Tensor
    ) -> Tensor:
        """The history side: x [T_new, E] attends causally to k, v [T, G, D]."""
        q = self._heads(self.query(h), self.heads)
        attended = context_attention(q, k, v, cu_query, cu_history, scale=self.scale)
        return self._residual(x, attended)

    def crossing(self, x: Tensor, history: History, cu_candidates: Tensor) -> Tensor:
        """The candidate side: x [N, E] attends to its user's history and to itself."""
        h = self.normed(x)
        attended = crossing_attention(
            self._heads(self.query(h), self.heads),
            self._heads(self.self_key(h), self.kv_heads),
            self._heads(self.self_value(h), self.kv_heads),
            history,
            cu_candidates,
            scale=self.scale,
        )
        return self._residual(x, attended)

    def _heads(self, projected: Tensor, heads: int) -> Tensor:
        return projected.unflatten(-1, (heads, self.head_dim))

    def _residual(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.dropout(self.out(attended.flatten(-2)))
        return x + self.dropout(self.ffn(self.norm_ffn(x)))
