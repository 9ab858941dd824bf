"""What a history has to look like before a kernel follows its pointers."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.checks import require, require_bounds, require_shape
from kernels.histories import (
    CodedHistory,
    DenseHistory,
    History,
    Pages,
    RaggedHistory,
)

_PLAIN = (DenseHistory, RaggedHistory)


def head_shape(history: History) -> tuple[int, int]:
    """G and D."""
    whole = history.key if isinstance(history, _PLAIN) else history.key_pool
    return whole.shape[-2], whole.shape[-1]


def history_bounds(history: History) -> Tensor:
    """[B + 1] int32: where each user's tokens begin and end."""
    return history.cu_history if isinstance(history, RaggedHistory) else history.pages.cu_history


def require_history(history: History) -> None:
    """Raise ValueError, naming the tensor, unless all shapes, dtypes and strides are as said.

    What tensors on the device say is not looked at: bounds, page numbers, rows and codes.
    """
    if isinstance(history, RaggedHistory):
        heads, dim = _heads_of("key", history.key, 3)
        require_shape("value", history.value, len(history.key), heads, dim)
        require_bounds("cu_history", history.cu_history)
        return
    pages = history.pages
    _require_pages(pages)
    if isinstance(history, DenseHistory):
        heads, dim = _heads_of("key", history.key, 4)
        _require_plane("key", history.key, pages, heads, dim)
        _require_plane("value", history.value, pages, heads, dim)
        return
    heads, dim = _heads_of("key_pool", history.key_pool, 3)
    for name, pool in (("key_pool", history.key_pool), ("value_pool", history.value_pool)):
        require_shape(name, pool, len(history.key_pool), heads, dim)
        require(pool.is_contiguous(), name, "not contiguous")
    if isinstance(history, CodedHistory):
        require_shape("codebook", history.codebook, None, None)
        require(history.codebook.is_contiguous(), "codebook", "not contiguous")
        require_shape("value_scale", history.value_scale)
        width = history.codebook.shape[1]
        _require_plane("row", history.row, pages, dtype=torch.uint16)
        _require_plane("key_code", history.key_code, pages, dtype=torch.uint8)
        _require_plane("value_slice", history.value_slice, pages, width, dtype=torch.int8)
    else:
        width = history.key_slice.shape[-1]
        _require_plane("key_row", history.key_row, pages, dtype=torch.uint16)
        _require_plane("value_row", history.value_row, pages, dtype=torch.uint16)
        _require_plane("key_slice", history.key_slice, pages, width)
        _require_plane("value_slice", history.value_slice, pages, width)
    require(width <= dim, "key_pool", f"heads of {dim} numbers have no room for slices of {width}")


def _heads_of(name: str, tensor: Tensor, axes: int) -> tuple[int, int]:
    require_shape(name, tensor, *[None] * axes)
    return tensor.shape[-2], tensor.shape[-1]


def _require_pages(pages: Pages) -> None:
    require_bounds("cu_history", pages.cu_history)
    table = pages.block_table
    require_shape("block_table", table, len(pages.cu_history) - 1, None)
    require(table.dtype == torch.int32, "block_table", f"dtype {table.dtype}, expected torch.int32")
    require(table.stride(1) == 1 or table.numel() < 2, "block_table", "rows are not contiguous")
    room = table.shape[1] * pages.page_tokens
    require(
        pages.longest <= room, "block_table", f"room for {room} tokens a user, not {pages.longest}"
    )


def _require_plane(
    name: str, plane: Tensor, pages: Pages, *inner: int, dtype: torch.dtype | None = None
) -> None:
    require_shape(name, plane, None, pages.page_tokens, *inner)
    require(dtype in {None, plane.dtype}, name, f"dtype {plane.dtype}, expected {dtype}")
    require(
        len(plane) == 0 or plane[0].is_contiguous(), name, "a page's numbers are not contiguous"
    )
