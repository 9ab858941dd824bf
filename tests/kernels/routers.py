"""Random routers, and the Hopper kernel for all of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.pool_router import launch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def always_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hopper kernel for few tokens too, and on a CPU, where it cannot run."""
    monkeypatch.setattr(launch, "takes_roles", lambda hidden, weight, capability: True)


def random_router(
    tokens: int, width: int, rows: int, sides: int, dtype: torch.dtype, seed: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=draw)
    weight = torch.randn(sides, rows, width, generator=draw) * width**-0.5
    bias = torch.randn(sides, rows, generator=draw)
    return tuple(x.to(DEVICE, dtype) for x in (hidden, weight, bias))  # type: ignore[return-value]
