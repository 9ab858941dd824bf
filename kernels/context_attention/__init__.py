"""Causal self-attention over histories of different lengths."""

from __future__ import annotations

from torch import Tensor

from kernels.checks import require, require_bounds, require_shape
from kernels.context_attention import reference
from kernels.dispatch import TRITON_DIMS, runs_on_triton

__all__ = ["context_attention"]


def context_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_query: Tensor, cu_history: Tensor, *, scale: float
) -> Tensor:
    """Attend from each user's newest tokens to all of that user's tokens, causally.

    A user's queries are the last `cu_query` tokens of its `cu_history` tokens: all of them when a
    history is encoded, only the new ones when it is appended to.

    The Triton kernels give the same bits every time. Where all tokens are new, a query's output
    depends on its own user's tokens alone, bit by bit, whoever else is in the call. An append may
    split the keys among programs; it agrees with that to rounding.

    Args:
        q: [T_new, H, D] queries.
        k: [T, G, D] keys, H a multiple of G.
        v: [T, G, D] values.
        cu_query: [B + 1] int32 bounds of `q`.
        cu_history: [B + 1] int32 bounds of `k` and `v`; no user has fewer keys than queries.
        scale: factor on the dot products, above 0.

    Returns:
        [T_new, H, D] in the dtype of `q`.

    Raises:
        ValueError: a shape or dtype does not fit; the message names it.
    """
    queries, heads, dim = q.shape if q.dim() == 3 else (0, 0, 0)
    require_shape("q", q, queries, heads, dim)
    require_shape("k", k, None, None, dim)
    require_shape("v", v, *k.shape)
    require(heads % k.shape[1] == 0, "q", f"{heads} heads, expected a multiple of {k.shape[1]}")
    require_bounds("cu_query", cu_query)
    require_bounds("cu_history", cu_history)
    require_shape("cu_query", cu_query, len(cu_history))
    require(len(cu_query) > 1 or not queries, "q", f"{queries} rows of no user")
    require(k.dtype == q.dtype, "k", f"dtype {k.dtype}, expected {q.dtype}")
    require(v.dtype == q.dtype, "v", f"dtype {v.dtype}, expected {q.dtype}")
    require(scale > 0, "scale", f"{scale}, expected more than 0")
    if dim in TRITON_DIMS and runs_on_triton(q, k, v):
        from kernels.context_attention.launch import attend  # noqa: PLC0415  triton is not needed on a CPU

        return attend(q, k, v, cu_query, cu_history, scale)
    return reference.attend(q, k, v, cu_query, cu_history, scale)
