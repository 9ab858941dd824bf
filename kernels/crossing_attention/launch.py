"""Crossing attention on the device: contract, plan, workspace and grid."""

from __future__ import annotations

from collections.abc import Callable
from math import e, log2
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from kernels.checks import require
from kernels.crossing_attention.histogram import attend_histogram, histogram_pays
from kernels.crossing_attention.hopper_launch import (
    attend_on_hopper,
    hopper_takes,
)
from kernels.crossing_attention.kernel import attend_kernel
from kernels.crossing_attention.parts import Parts
from kernels.crossing_attention.plans import Plan, Problem, choose
from kernels.device import processors
from kernels.histories import CodedHistory, CollectiveHistory, DenseHistory, History, RaggedHistory
from kernels.kv_expand import kv_expand

LARGEST_POOL = 2**31 - 1
"""Numbers of a pool, which the kernels address with 32 bits."""
WIDEST_SLICE = 16
"""Numbers of a user slice: one step of the tensor cores."""
EXPANDED_BYTES = 1 << 30
"""Most workspace that expanded keys and values take: 1 GiB."""
_TENSORS = (
    "key_row", "value_row", "key_slice", "value_slice", "codebook", "value_scale", "block_table",
)  # fmt: skip
_NUMBERS = (
    "key_stride", "value_stride", "key_row_stride", "value_row_stride", "key_slice_stride",
    "value_slice_stride", "table_width", "pool_rows", "codes",
)  # fmt: skip


def attend(
    q: Tensor, k_self: Tensor, v_self: Tensor, history: History, cu_candidates: Tensor, scale: float
) -> Tensor:
    """See `kernels.crossing_attention.crossing_attention`; runs the plan for these sizes.

    Raises:
        ValueError: a slice or a pool has more numbers than kernels take; the message names it.
    """
    if isinstance(history, CollectiveHistory | CodedHistory):
        width, pool = history.value_slice.shape[-1], history.key_pool
        require(width <= WIDEST_SLICE, "value_slice", f"{width} numbers, at most {WIDEST_SLICE}")
        require(pool.numel() <= LARGEST_POOL, "key_pool", f"{pool.numel()} numbers, above 2^31 - 1")
    if not len(q):
        return torch.empty_like(q)
    q, k_self, v_self = q.contiguous(), k_self.contiguous(), v_self.contiguous()
    if isinstance(history, RaggedHistory):
        key, value = history.key.contiguous(), history.value.contiguous()
        history = RaggedHistory(key, value, history.cu_history)
    plan = choose(problem_of(q, k_self, v_self, history, cu_candidates))
    return RUN[plan.kind](q, k_self, v_self, history, cu_candidates, scale, plan)


def gather(
    q: Tensor,
    k_self: Tensor,
    v_self: Tensor,
    history: History,
    cu_candidates: Tensor,
    scale: float,
    plan: Plan,
) -> Tensor:
    """One pass over the history, gathering pool rows on the way; checked and contiguous, N > 0."""
    candidates, heads, dim = q.shape
    kv_heads, users = k_self.shape[1], len(cu_candidates) - 1
    rows = candidates * heads
    parts = Parts.like(q, plan.splits)
    # A user has at most its rows / block_m whole tiles and a part of one.
    tiles = rows // kv_heads // plan.block_m + users
    attend_kernel[tiles * kv_heads, plan.splits](
        q,
        k_self,
        v_self,
        parts.out,
        parts.partial,
        parts.statistics,
        cu_candidates=cu_candidates,
        scale=scale * log2(e),
        users=users,
        row_count=rows,
        H=heads,
        G=kv_heads,
        D=dim,
        SPLITS=plan.splits,
        BLOCK_M=plan.block_m,
        BLOCK_N=plan.block_n,
        num_warps=plan.warps,
        num_stages=plan.stages,
        **_history_arguments(history, unread=q),
    )
    return parts.merged()


def expand(
    q: Tensor,
    k_self: Tensor,
    v_self: Tensor,
    history: History,
    cu_candidates: Tensor,
    scale: float,
    plan: Plan,
) -> Tensor:
    """Dense rows first, in a workspace of `EXPANDED_BYTES` at most, then one pass over those."""
    key, value = kv_expand(history, q.dtype)
    dense = RaggedHistory(key, value, cast(CollectiveHistory, history).pages.cu_history)
    return attend_on_hopper(q, k_self, v_self, dense, cu_candidates, scale, plan)


def count(
    q: Tensor,
    k_self: Tensor,
    v_self: Tensor,
    history: History,
    cu_candidates: Tensor,
    scale: float,
    _: Plan,
) -> Tensor:
    """A histogram of the history first, then one pass over the pool."""
    return attend_histogram(q, k_self, v_self, cast(CodedHistory, history), cu_candidates, scale)


Run: TypeAlias = Callable[[Tensor, Tensor, Tensor, History, Tensor, float, Plan], Tensor]
RUN: dict[str, Run] = {
    "gather": gather,
    "hopper": attend_on_hopper,
    "expand": expand,
    "histogram": count,
}
"""What runs each kind of plan."""


def problem_of(
    q: Tensor, k_self: Tensor, v_self: Tensor, history: History, cu_candidates: Tensor
) -> Problem:
    """What the plan depends on."""
    # A ragged history's bounds are known to the device alone: T stands for the longest.
    longest = len(history.key) if isinstance(history, RaggedHistory) else history.pages.longest
    hopper = hopper_takes(q, k_self, v_self, history)
    return Problem(
        candidates=q.shape[0],
        users=len(cu_candidates) - 1,
        longest=longest,
        heads=q.shape[1],
        kv_heads=k_self.shape[1],
        dim=q.shape[2],
        itemsize=q.element_size(),
        processors=processors(q.device),
        hopper=hopper,
        hopper_dense=not hopper and _expands(q, k_self, v_self, history),
        histogram=isinstance(history, CodedHistory) and histogram_pays(q, history),
        dense=isinstance(history, DenseHistory | RaggedHistory),
    )


def _expands(q: Tensor, k_self: Tensor, v_self: Tensor, history: History) -> bool:
    """Whether the history may be expanded, and the Hopper kernel takes what comes out."""
    if isinstance(history, RaggedHistory):
        return False
    row = k_self[:0]  # expanded keys and values have the shape, dtype and strides of own ones
    return (
        hopper_takes(q, k_self, v_self, RaggedHistory(row, row, history.pages.cu_history))
        and 2 * history.pages.tokens * k_self[0].nbytes <= EXPANDED_BYTES
    )


def _history_arguments(history: History, unread: Tensor) -> dict[str, Any]:
    """The kernel's arguments that depend on the form; `unread` stands for tensors it has not."""
    arguments: dict[str, Any] = dict.fromkeys(_TENSORS, unread) | dict.fromkeys(_NUMBERS, 0)
    arguments |= {"FORM": "dense", "U": 0, "TIED": False}
    if isinstance(history, RaggedHistory):
        return arguments | {
            "key": history.key,
            "value": history.value,
            "cu_history": history.cu_history,
            "PAGE_TOKENS": 0,
        }
    match history:
        case DenseHistory(_, key, value):
            planes = {"key": key, "value": value}
        case CollectiveHistory(_, key_row, value_row, key_slice, value_slice):
            planes = {"key_row": key_row, "value_row": value_row}
            planes |= {"key_slice": key_slice, "value_slice": value_slice}
            tied = key_row.data_ptr() == value_row.data_ptr()
            arguments |= {"FORM": "collective", "TIED": tied}
        case CodedHistory(_, row, key_code, value_slice, codebook, value_scale):
            planes = {"key_row": row, "key_slice": key_code, "value_slice": value_slice}
            arguments |= {"FORM": "coded", "TIED": True, "codes": len(codebook)}
            arguments |= {"codebook": codebook, "value_scale": value_scale}
    if not isinstance(history, DenseHistory):
        arguments |= {"key": history.key_pool, "value": history.value_pool}
        arguments |= {"pool_rows": len(history.key_pool), "U": history.value_slice.shape[-1]}
    for name, plane in planes.items():
        arguments |= {name: plane, f"{name}_stride": plane.stride(0)}
    pages = history.pages
    return arguments | {
        "cu_history": pages.cu_history,
        "block_table": pages.block_table,
        "table_width": pages.block_table.stride(0),
        "PAGE_TOKENS": pages.page_tokens,
    }
