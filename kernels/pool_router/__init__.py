"""Which pool row a token uses: the argmax of its router logits."""

from __future__ import annotations

from torch import Tensor

from kernels.checks import require_shape
from kernels.dispatch import runs_on_triton
from kernels.pool_router import reference

__all__ = ["pool_router"]


def pool_router(hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Choose a pool row per token and side, with the winning logit.

    Args:
        hidden: [T, E] floating.
        weight: [S, P, E] one router a side: keys, then values, or one for both. Product keys have
            two lists of keys a side.
        bias: [S, P].

    Returns:
        Row numbers [S, T] int64, the lowest one on a tie, and their logits [S, T].

    Raises:
        ValueError: a shape does not fit; the message names it.
    """
    sides, rows, width = weight.shape if weight.dim() == 3 else (0, 0, 0)
    require_shape("weight", weight, sides, rows, width)
    require_shape("bias", bias, sides, rows)
    require_shape("hidden", hidden, None, width)
    if runs_on_triton(hidden, weight, bias):
        from kernels.pool_router.launch import route  # noqa: PLC0415  triton is not needed on a CPU

        return route(hidden, weight, bias)
    return reference.route(hidden, weight, bias)
