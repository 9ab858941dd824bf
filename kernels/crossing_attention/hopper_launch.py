"""Launch of the Hopper kernel: which problems it takes, its workspace and its grid."""

from __future__ import annotations

from math import e, log2
from typing import Any

import torch
from torch import Tensor

from kernels.crossing_attention.hopper import crossing_kernel
from kernels.crossing_attention.parts import Parts
from kernels.crossing_attention.plans import Plan
from kernels.device import is_hopper, processors
from kernels.histories import CodedHistory, CollectiveHistory, DenseHistory, History, RaggedHistory
from kernels.hopper.copy_tiles import CODED, COLLECTIVE, PAGED, RAGGED
from kernels.hopper.limits import DIMS, is_aligned


def hopper_takes(q: Tensor, k_self: Tensor, v_self: Tensor, history: History) -> bool:
    """Whether the Hopper kernel can run: bfloat16, rows aligned for 16-byte copies.

    A user slice is stored into a tile in one piece, so its width is a power of two, or nothing.
    """
    if not (is_hopper(q.device) and q.dtype == torch.bfloat16 and q.shape[-1] in DIMS):
        return False
    if not all(is_aligned(rows) for rows in (q, k_self, v_self)):
        return False
    match history:
        case RaggedHistory(key, value):
            return all(rows.dtype == q.dtype and is_aligned(rows) for rows in (key, value))
        case DenseHistory(_, key, value):
            planes = (key, value)
            return (
                all(rows.dtype == q.dtype and is_aligned(rows) for rows in planes)
                and key.stride(0) == value.stride(0)
                and key.stride(0) % 16 == 0  # what Triton asks of a stride to copy 16 bytes
            )
        case CollectiveHistory() | CodedHistory():
            rows = _row_planes(history)
            width = history.value_slice.shape[-1]
            return (
                all(
                    pool.dtype == q.dtype and is_aligned(pool)
                    for pool in (history.key_pool, history.value_pool)
                )
                and all(is_aligned(plane) for plane in rows)
                and rows[0].stride(0) == rows[1].stride(0)
                and width & (width - 1) == 0
                and width < q.shape[-1]
            )


def attend_on_hopper(
    q: Tensor,
    k_self: Tensor,
    v_self: Tensor,
    history: History,
    cu_candidates: Tensor,
    scale: float,
    plan: Plan,
) -> Tensor:
    """One pass over the history by copying and multiplying warps; checked, contiguous, N > 0."""
    candidates, heads, dim = q.shape
    kv_heads, users = k_self.shape[1], len(cu_candidates) - 1
    rows = candidates * heads
    parts = Parts.like(q, plan.splits)
    # A user has at most its rows / unit whole units and a part of one.
    unit_rows = plan.block_m * plan.row_tiles
    items = (rows // kv_heads // unit_rows + users) * kv_heads * plan.splits
    crossing_kernel[(min(items, processors(q.device)),)](
        q,
        k_self,
        v_self,
        parts.out,
        parts.partial,
        parts.statistics,
        all_rows=rows,
        cu_candidates=cu_candidates,
        users=users,
        unit=plan.row_tiles,
        items=items,
        scale_log2=scale * log2(e),
        GROUP=heads // kv_heads,
        KV_HEADS=kv_heads,
        D=dim,
        BLOCK_N=plan.block_n,
        STAGES=plan.stages,
        SPLITS=plan.splits,
        num_warps=4,
        **_history_arguments(history, unread=q),
    )
    return parts.merged()


def _history_arguments(history: History, unread: Tensor) -> dict[str, Any]:
    """The kernel's arguments that depend on the form; `unread` stands for tensors it has not."""
    tensors = ("k_index", "v_index", "k_slices", "v_slices", "codebook", "value_scale")
    strides = ("row_stride", "k_slice_stride", "v_slice_stride", "table_stride")
    arguments: dict[str, Any] = dict.fromkeys(tensors, unread) | dict.fromkeys(strides, 0)
    arguments |= {"block_table": unread, "code_vectors": 0, "pool_rows": 0, "U": 0}
    if isinstance(history, RaggedHistory):
        return arguments | {
            "k_rows": history.key,
            "v_rows": history.value,
            "cu_history": history.cu_history,
            "FORM": RAGGED,
            "SCALED": False,
            "PAGE": 0,
        }
    pages = history.pages
    arguments |= {
        "cu_history": pages.cu_history,
        "block_table": pages.block_table,
        "table_stride": pages.block_table.stride(0),
        "PAGE": pages.page_tokens,
        "SCALED": isinstance(history, CodedHistory),
    }
    if isinstance(history, DenseHistory):
        key, value = history.key, history.value
        arguments |= {"k_rows": key, "v_rows": value, "row_stride": key.stride(0), "FORM": PAGED}
        return arguments
    k_index, v_index = _row_planes(history)
    arguments |= {
        "k_rows": history.key_pool,
        "v_rows": history.value_pool,
        "k_index": k_index.view(torch.int16),
        "v_index": v_index.view(torch.int16),
        "row_stride": k_index.stride(0),
        "pool_rows": len(history.key_pool),
        "v_slices": history.value_slice,
        "v_slice_stride": history.value_slice.stride(0),
        "U": history.value_slice.shape[-1],
    }
    if isinstance(history, CodedHistory):
        return arguments | {
            "k_slices": history.key_code,
            "k_slice_stride": history.key_code.stride(0),
            "codebook": history.codebook,
            "code_vectors": len(history.codebook),
            "value_scale": history.value_scale,
            "FORM": CODED,
        }
    return arguments | {
        "k_slices": history.key_slice,
        "k_slice_stride": history.key_slice.stride(0),
        "FORM": COLLECTIVE,
    }


def _row_planes(history: CollectiveHistory | CodedHistory) -> tuple[Tensor, Tensor]:
    if isinstance(history, CodedHistory):
        return history.row, history.row
    return history.key_row, history.value_row
