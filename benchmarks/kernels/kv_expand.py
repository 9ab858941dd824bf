"""kv_expand against the copy rate: it does nothing but move bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.ceilings import Work
from benchmarks.kernels.crossing_attention import SHAPES, gathered
from benchmarks.kernels.trial import (
    Accuracy,
    Case,
    Trial,
    poison,
    relative_error,
    share_of_ceiling,
)
from benchmarks.paged_history import RandomHistory, Shape, random_history
from kernels.kv_expand import kv_expand

DTYPE = torch.bfloat16


def cases() -> Iterator[Case]:
    """Eight long histories with four narrow heads, and with two wide ones."""
    for shape in (SHAPES[0], SHAPES[2]):
        name = (
            f"collective, B {shape.users}, T {shape.tokens}, G {shape.heads}, D {shape.dim}, "
            f"P {shape.pool_rows}"
        )
        yield Case("kv_expand", name, partial(trial, shape))


def trial(shape: Shape, device: torch.device) -> Trial:
    """Random entries of `shape`; the candidates in it play no part."""
    random = torch.Generator(device).manual_seed(4)
    data = random_history("collective", shape, DTYPE, random)
    ours = partial(kv_expand, data.history, DTYPE)
    tokens = (shape.users, shape.tokens)
    row = torch.randint(shape.pool_rows, tokens, device=device, generator=random)
    user_slice = torch.randn(*tokens, 1, device=device, generator=random).to(DTYPE)
    pool = torch.randn(
        shape.pool_rows, shape.heads * (shape.dim - 1), device=device, generator=random
    ).to(DTYPE)

    def torch_gather() -> tuple[Tensor, Tensor]:
        k, v = (gathered(pool, row, user_slice, shape.heads) for _ in range(2))
        return k, v

    width_bytes = shape.heads * shape.dim * DTYPE.itemsize
    written = 2 * shape.users * shape.tokens * width_bytes
    work = Work(bytes=written + data.entry_bytes + 2 * shape.pool_rows * width_bytes)
    return Trial(
        ours=ours,
        anchors={"gather_concat": torch_gather},
        accuracy=partial(_accuracy, ours, data, shape),
        work=work,
        goals=(share_of_ceiling("the copy rate", work, 0.7, 0.85),),
        plan="",
    )


def _accuracy(
    ours: Callable[[], tuple[Tensor, Tensor]], data: RandomHistory, shape: Shape
) -> Accuracy:
    """Every token of every user: expansion copies, so nothing may differ."""
    poison(*ours())
    key, value = (side.unflatten(0, (shape.users, shape.tokens)) for side in ours())
    errors = [
        relative_error(expanded[user], exact)
        for user in range(shape.users)
        for expanded, exact in zip((key, value), data.dense(user), strict=True)
    ]
    return Accuracy(float(torch.tensor(errors).amax()), 0.0)  # unlike max, amax keeps a NaN
