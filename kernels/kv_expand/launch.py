"""Tile sizes and launch of the Triton kernels for expansion."""

from __future__ import annotations

import torch
from torch import Tensor
from triton import next_power_of_2

from kernels.histories import CodedHistory, CollectiveHistory, DenseHistory
from kernels.history_contract import head_shape
from kernels.kv_expand.kernel import copy_paged_kernel, expand_pooled_kernel

TILE_BYTES = 8192
"""Output of one program: 16 bytes to each of 128 threads, four times. 5 % over 32 KiB."""
WARPS = 4


def expand(
    history: DenseHistory | CollectiveHistory | CodedHistory, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `kernels.kv_expand.kv_expand`; bfloat16 and float32, in and out."""
    pages = history.pages
    heads, dim = head_shape(history)
    key = torch.empty(pages.tokens, heads, dim, dtype=dtype, device=pages.cu_history.device)
    value = torch.empty_like(key)
    if not key.numel():
        return key, value
    columns = next_power_of_2(heads * dim)
    tokens = max(1, TILE_BYTES // (columns * dtype.itemsize))
    users = len(pages.cu_history) - 1
    grid = (pages.tokens // tokens + users, 2)
    tile = {
        "cu_history": pages.cu_history,
        "block_table": pages.block_table,
        "users": users,
        "table_width": pages.block_table.stride(0),
        "WIDTH": heads * dim,
        "PAGE_TOKENS": pages.page_tokens,
        "BLOCK_T": tokens,
        "BLOCK_C": columns,
        "num_warps": WARPS,
    }
    if isinstance(history, DenseHistory):
        copy_paged_kernel[grid](
            key,
            value,
            history.key,
            history.value,
            key_stride=history.key.stride(0),
            value_stride=history.value.stride(0),
            **tile,
        )
        return key, value
    if isinstance(history, CodedHistory):
        key_row = value_row = history.row
        key_plane, codebook, value_scale = history.key_code, history.codebook, history.value_scale
    else:
        key_row, value_row = history.key_row, history.value_row
        key_plane = history.key_slice
        codebook = value_scale = key_plane  # neither is read
    expand_pooled_kernel[grid](
        key,
        value,
        history.key_pool,
        history.value_pool,
        key_row,
        value_row,
        key_plane,
        history.value_slice,
        codebook,
        value_scale,
        key_row_stride=key_row.stride(0),
        value_row_stride=value_row.stride(0),
        key_stride=key_plane.stride(0),
        value_stride=history.value_slice.stride(0),
        rows=len(history.key_pool),
        codes=len(codebook),
        CODED=isinstance(history, CodedHistory),
        U=history.value_slice.shape[-1],
        D=dim,
        **tile,
    )
    return key, value
