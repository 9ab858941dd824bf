"""Any history form to dense keys and values."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.dispatch import TRITON_DTYPES, runs_on_triton
from kernels.histories import CodedHistory, CollectiveHistory, DenseHistory, History, RaggedHistory
from kernels.history_contract import require_history
from kernels.kv_expand import reference

__all__ = ["kv_expand"]


def kv_expand(history: History, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Expand one layer's history to dense K and V.

    Args:
        history: any form of `kernels.histories`, B users, T tokens in all.
        dtype: floating dtype of the result.

    Returns:
        Keys and values, each [T, G, D], users behind each other as `cu_history` bounds them.

    Raises:
        ValueError: a tensor of `history` does not fit the others; the message names it.
    """
    require_history(history)
    if (
        not isinstance(history, RaggedHistory)
        and dtype in TRITON_DTYPES
        and runs_on_triton(*_numbers(history))
    ):
        from kernels.kv_expand.launch import expand  # noqa: PLC0415  triton is not needed on a CPU

        return expand(history, dtype)
    return reference.expand(history, dtype)


def _numbers(history: DenseHistory | CollectiveHistory | CodedHistory) -> tuple[Tensor, ...]:
    """The history's floating-point tensors."""
    match history:
        case DenseHistory(_, key, value):
            return key, value
        case CollectiveHistory():
            slices = history.key_slice, history.value_slice
        case CodedHistory():
            slices = history.codebook, history.value_scale
    return *slices, history.key_pool, history.value_pool
