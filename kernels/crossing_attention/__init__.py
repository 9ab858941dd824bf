"""Candidates attend to their user's history and to themselves (DCAT, arXiv 2507.12704)."""

from __future__ import annotations

from torch import Tensor

from kernels.checks import require, require_bounds, require_shape
from kernels.crossing_attention import reference
from kernels.dispatch import TRITON_DIMS, runs_on_triton
from kernels.histories import CodedHistory, CollectiveHistory, History
from kernels.history_contract import head_shape, history_bounds, require_history

__all__ = ["crossing_attention"]


def crossing_attention(
    q: Tensor,
    k_self: Tensor,
    v_self: Tensor,
    history: History,
    cu_candidates: Tensor,
    *,
    scale: float,
) -> Tensor:
    """Attend from every candidate to its user's whole history and to its own token.

    Args:
        q: [N, H, D] queries, the candidates of B users behind each other.
        k_self: [N, G, D] the candidates' own keys in the dtype of `q`, H a multiple of G.
        v_self: [N, G, D] the candidates' own values in the dtype of `q`.
        history: one layer's keys and values of the B users, in any form.
        cu_candidates: [B + 1] int32 bounds of the candidates; a user may have none.
        scale: factor on the dot products, above 0.

    Returns:
        [N, H, D] in the dtype of `q`.

    Raises:
        ValueError: a shape or dtype does not fit; the message names it.
    """
    candidates, heads, dim = q.shape if q.dim() == 3 else (0, 0, 0)
    require_shape("q", q, candidates, heads, dim)
    require_shape("k_self", k_self, candidates, None, dim)
    require_shape("v_self", v_self, *k_self.shape)
    kv_heads = k_self.shape[1]
    require(heads % kv_heads == 0, "q", f"{heads} heads, expected a multiple of {kv_heads}")
    require(k_self.dtype == q.dtype, "k_self", f"dtype {k_self.dtype}, expected {q.dtype}")
    require(v_self.dtype == q.dtype, "v_self", f"dtype {v_self.dtype}, expected {q.dtype}")
    require_history(history)
    heads_fit = head_shape(history) == k_self.shape[1:]
    require(heads_fit, "history", f"heads of {head_shape(history)} beside k_self's")
    require_bounds("cu_candidates", cu_candidates)
    require_shape("cu_candidates", cu_candidates, len(history_bounds(history)))
    require(scale > 0, "scale", f"{scale}, expected more than 0")
    if dim in TRITON_DIMS and runs_on_triton(q, k_self, v_self, *_numbers(history)):
        from kernels.crossing_attention.launch import attend  # noqa: PLC0415  triton is not needed on a CPU

        return attend(q, k_self, v_self, history, cu_candidates, scale)
    return reference.attend(q, k_self, v_self, history, cu_candidates, scale)


def _numbers(history: History) -> list[Tensor]:
    """The floating tensors of a history."""
    match history:
        case CollectiveHistory():
            return [history.key_slice, history.value_slice, history.key_pool, history.value_pool]
        case CodedHistory():
            return [history.codebook, history.value_scale, history.key_pool, history.value_pool]
        case _:
            return [history.key, history.value]
