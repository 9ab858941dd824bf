"""Product keys on the Triton router: four lists at once, in small whole numbers that are exact."""

from __future__ import annotations

import pytest
import torch

from kernels.pool_router import launch, product_key
from kernels.pool_router.product_key import product_key_router

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
SIZES = [(1, 1), (63, 7), (257, 7), (257, 70)]  # 70 keys are more than a tile
if ON_GPU:
    SIZES += [(16384, 91), (4099, 256)]


@pytest.fixture(autouse=True)
def triton_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sides each launch had; on a CPU the interpreter stands in for the dispatch."""
    launched: list[int] = []
    route = launch.route

    def counted(
        hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        launched.append(len(weight))
        return route(hidden, weight, bias)

    monkeypatch.setattr(launch, "route", counted)
    if not ON_GPU:
        monkeypatch.setattr(product_key, "pool_router", counted)
    return launched


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize(("tokens", "keys"), SIZES)
def test_finds_the_lowest_of_the_best_pairs(
    tokens: int, keys: int, sides: int, dtype: torch.dtype, triton_runs: list[int]
) -> None:
    """Logits are at most 20: sums, and their rounding to bfloat16, are exact, and ties abound."""
    draw = torch.Generator().manual_seed(5)

    def whole_numbers(*shape: int) -> torch.Tensor:
        return torch.randint(-1, 2, shape, generator=draw).to(DEVICE, torch.float64)

    hidden, weight = whole_numbers(tokens, 9), whole_numbers(sides, 2, keys, 9)
    bias = whole_numbers(sides, 2, keys)
    rows, logits = product_key_router(hidden.to(dtype), weight.to(dtype), bias.to(dtype))
    assert triton_runs == [2 * sides]
    assert (rows.dtype, logits.dtype) == (torch.int64, dtype)
    for side in range(sides):
        first, second = torch.einsum("te,lpe->ltp", hidden, weight[side]) + bias[side].unsqueeze(1)
        for some in torch.arange(tokens, device=DEVICE).split(256):
            every = (first[some, :, None] + second[some, None]).flatten(1)  # [256, P]
            best = every.amax(dim=1)
            lowest = (every == best[:, None]).int().argmax(dim=1)
            assert torch.equal(rows[side, some], lowest)
            assert torch.equal(logits[side, some].double(), best)
