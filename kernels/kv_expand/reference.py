"""Expansion of a history in plain torch."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor

from kernels.histories import CodedHistory, CollectiveHistory, DenseHistory, History, RaggedHistory


def expand(history: History, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values [T, G, D] of `history`; see `kernels.kv_expand.kv_expand`."""
    match history:
        case RaggedHistory(key, value):
            return key.to(dtype), value.to(dtype)
        case DenseHistory(pages, key, value):
            at = pages.token_slots()
            return key[at].to(dtype), value[at].to(dtype)
        case CollectiveHistory(pages):
            at = pages.token_slots()
            return (
                _join(history.key_slice[at], history.key_pool, _rows(history.key_row, at), dtype),
                _join(
                    history.value_slice[at], history.value_pool, _rows(history.value_row, at), dtype
                ),
            )
        case CodedHistory(pages):
            at = pages.token_slots()
            row = _rows(history.row, at)
            key_slice = history.codebook[history.key_code[at].long()]
            value_slice = history.value_slice[at].to(dtype) * history.value_scale.to(dtype)
            return (
                _join(key_slice, history.key_pool, row, dtype),
                _join(value_slice, history.value_pool, row, dtype),
            )
    assert_never(history)


def _rows(plane: Tensor, at: tuple[Tensor, Tensor]) -> Tensor:
    """[T] int64 row numbers; torch cannot gather uint16 on CUDA, int16 has the same bits."""
    return plane.view(torch.int16)[at].long() & 0xFFFF


def _join(user_slice: Tensor, pool: Tensor, row: Tensor, dtype: torch.dtype) -> Tensor:
    """The pool rows [T, G, D] with the slice [T, U] in the first U columns of every head."""
    joined = pool[row].to(dtype)
    joined[..., : user_slice.shape[-1]] = user_slice.to(dtype).unsqueeze(1)
    return joined
