"""pool_router against torch, which writes all logits to memory and reads them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.ceilings import Work
from benchmarks.kernels.trial import (
    Accuracy,
    Case,
    Trial,
    memory_below,
    poison,
    relative_error,
    share_of_ceiling,
)
from kernels.pool_router import pool_router, reference

DTYPE = torch.bfloat16
TOKENS, WIDTH, POOL_ROWS, SIDES = 16384, 256, 8192, 2

_CHECKED = 512  # tokens


def cases() -> Iterator[Case]:
    """One batch, both sides."""
    name = f"T {TOKENS}, E {WIDTH}, P {POOL_ROWS}, S {SIDES}"
    yield Case("pool_router", name, partial(trial, TOKENS, WIDTH, POOL_ROWS, SIDES))


def trial(tokens: int, width: int, pool_rows: int, sides: int, device: torch.device) -> Trial:
    """Random tokens and router keys."""
    random = torch.Generator(device).manual_seed(3)

    def normal(*size: int, std: float = 1.0) -> Tensor:
        return (std * torch.randn(size, device=device, generator=random)).to(DTYPE)

    hidden = normal(tokens, width)
    weight = normal(sides, pool_rows, width, std=width**-0.5)
    bias = normal(sides, pool_rows, std=0.1)
    ours = partial(pool_router, hidden, weight, bias)
    flops = 2.0 * tokens * width * pool_rows * sides
    moved = sum(tensor.numel() * tensor.element_size() for tensor in (hidden, weight, bias))
    result = sides * tokens * (torch.int64.itemsize + DTYPE.itemsize)
    return Trial(
        ours=ours,
        anchors={"torch": partial(reference.route, hidden, weight, bias)},
        accuracy=partial(_accuracy, ours, hidden, weight, bias),
        work=Work(flops=flops, bytes=moved + result),
        goals=(
            share_of_ceiling("the matrix-product rate", Work(flops=flops), 0.6, 0.8),
            memory_below(64),
        ),
        plan="",
    )


def _accuracy(
    ours: Callable[[], tuple[Tensor, Tensor]], hidden: Tensor, weight: Tensor, bias: Tensor
) -> Accuracy:
    """Of some tokens: the logit reported, and the exact logit of the row chosen, against the best.

    The larger of the two errors counts: a right logit beside a wrong row is wrong.
    """
    at = torch.linspace(0, len(hidden) - 1, min(_CHECKED, len(hidden)), device=hidden.device).long()
    logits = torch.einsum("te,spe->stp", hidden[at].double(), weight.double())
    logits += bias.double().unsqueeze(1)
    best = logits.amax(dim=-1)

    def error(rows: Tensor, winning: Tensor) -> float:
        chosen = logits.gather(-1, rows.unsqueeze(-1)).squeeze(-1)
        return max(relative_error(chosen, best), relative_error(winning, best))

    poison(*ours())
    rows, winning = ours()
    if not winning.isfinite().all() or rows.amin() < 0 or rows.amax() >= bias.shape[1]:
        return Accuracy(torch.nan, 0.0)
    return Accuracy(
        error(rows[:, at], winning[:, at]), error(*reference.route(hidden[at], weight, bias))
    )
