"""Any history form to dense keys and values."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.histories import History
from kernels.kv_expand.reference import expand

__all__ = ["kv_expand"]


def kv_expand(history: History, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Expand one layer's history to dense K and V.

    Args:
        history: any form of `kernels.histories`, B users, T tokens in all.
        dtype: floating dtype of the result.

    Returns:
        Keys and values, each [T, G, D], users behind each other as `cu_history` bounds them.
    """
    return expand(history, dtype)
