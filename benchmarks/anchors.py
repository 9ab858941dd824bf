"""What a user would take instead: PyTorch's attention backends and FlashAttention-3.

All of them want keys and values that lie dense in device memory, and take q [B, C, H, D] with
k, v [B, T, H, D]. FlashAttention-3 is not in PyTorch: its wheel, `fa3-fwd` or one built from
source, is used where it is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from types import ModuleType
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Attention: TypeAlias = Callable[..., Tensor]
"""(q, k, v, scale=, causal=) to [B, C, H, D]."""

AttentionWithSum: TypeAlias = Callable[..., tuple[Tensor, Tensor]]
"""The same, and the log-sum-exp of the logits [B, H, C], with which a token can be added."""


@cache
def flash_attention_3() -> ModuleType | None:
    """FlashAttention-3's Python interface, None where it is not installed."""
    for name in ("flash_attn_interface", "fa3_fwd_interface"):
        try:
            return import_module(name)
        except ImportError:
            continue
    return None


def attentions() -> dict[str, Attention]:
    """Every backend that is here, by the name it has in records."""
    found: dict[str, Attention] = {
        "sdpa_flash": partial(_sdpa, SDPBackend.FLASH_ATTENTION),
        "sdpa_cudnn": partial(_sdpa, SDPBackend.CUDNN_ATTENTION),
    }
    if flash_attention_3() is not None:
        found["flash_attention_3"] = _flash_attention_3
    return found


def attentions_with_sums() -> dict[str, AttentionWithSum]:
    """The same backends, asked for the log-sum-exp too."""
    found: dict[str, AttentionWithSum] = {"sdpa_flash": _flash_sums, "sdpa_cudnn": _cudnn_sums}
    if flash_attention_3() is not None:
        found["flash_attention_3"] = _flash_attention_3_sums
    return found


def _sdpa(
    backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool = False
) -> Tensor:
    with sdpa_kernel(backend):
        out = F.scaled_dot_product_attention(*_heads_first(q, k, v), is_causal=causal, scale=scale)
    return out.transpose(1, 2)


def _flash_attention_3(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool = False
) -> Tensor:
    return _required().flash_attn_func(q, k, v, softmax_scale=scale, causal=causal)


def _flash_sums(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool = False
) -> tuple[Tensor, Tensor]:
    out, log_sum, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        *_heads_first(q, k, v), 0.0, causal, False, scale=scale
    )
    return out.transpose(1, 2), log_sum


def _cudnn_sums(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool = False
) -> tuple[Tensor, Tensor]:
    out, log_sum, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        *_heads_first(q, k, v), None, True, 0.0, causal, False, scale=scale
    )
    return out.transpose(1, 2), log_sum.reshape(out.shape[:3])  # cuDNN's has a fourth axis of 1


def _flash_attention_3_sums(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool = False
) -> tuple[Tensor, Tensor]:
    out, log_sum, *_ = _required().flash_attn_func(
        q, k, v, softmax_scale=scale, causal=causal, return_attn_probs=True
    )
    return out, log_sum


def _heads_first(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _required() -> ModuleType:
    module = flash_attention_3()
    if module is None:
        raise RuntimeError("FlashAttention-3 is not installed")
    return module
