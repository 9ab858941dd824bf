# mypy: ignore-errors
"""Exponentials and nothing else: what the special-function units can do."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def exp2_loop(out, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803  Triton's custom
    """`ROUNDS` dependent exponentials of each of BLOCK numbers; a warp has several in flight."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = at.to(tl.float32) * 1e-6
    for _ in range(ROUNDS):
        x = tl.exp2(-x)  # stays in (0, 1]; the sign is folded into the instruction's operand
    tl.store(out + at, x)
