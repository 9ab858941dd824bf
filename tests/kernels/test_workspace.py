"""Long histories are attended to in pieces, with the same result."""

from __future__ import annotations

import pytest
import torch

from kernels import workspace
from kernels.context_attention import context_attention
from kernels.crossing_attention import crossing_attention
from kernels.histories import RaggedHistory

BOUNDS = torch.tensor([0, 9, 9, 30], dtype=torch.int32)
CANDIDATES = torch.tensor([0, 5, 6, 17], dtype=torch.int32)


def test_rows_stay_within_the_limit() -> None:
    assert workspace.rows_at_once(4, 16384) * 4 * 16384 <= workspace.LOGITS_AT_ONCE
    assert workspace.rows_at_once(4, 16384) == 256
    assert workspace.rows_at_once(1 << 20, 1 << 20) == 1
    assert workspace.rows_at_once(4, 0) >= 1


@pytest.mark.parametrize("limit", [1, 60, 200])
def test_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    k, v = random(30, 2, 8), random(30, 2, 8)
    context_q, crossing_q = random(30, 4, 8), random(17, 4, 8)
    k_self, v_self = random(17, 2, 8), random(17, 2, 8)

    def both() -> list[torch.Tensor]:
        history = RaggedHistory(k, v, BOUNDS)
        return [
            context_attention(context_q, k, v, BOUNDS, BOUNDS, scale=0.3),
            crossing_attention(crossing_q, k_self, v_self, history, CANDIDATES, scale=0.3),
        ]

    whole = both()
    monkeypatch.setattr(workspace, "LOGITS_AT_ONCE", limit)
    assert workspace.rows_at_once(4, 30) < 2
    for one, other in zip(whole, both(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)
