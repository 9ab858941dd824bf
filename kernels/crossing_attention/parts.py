"""What programs leave that share one tile's history, and how it becomes one result."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.crossing_attention.kernel import combine_kernel

_ROWS = 4
"""Rows of one program that merges parts."""


@dataclass(frozen=True)
class Parts:
    """Unnormalised results of each part of the history; without parts `out` stands for both.

    They take 4 * parts * N * H * (D + 2) bytes. Plans part a history only where programs are few,
    so that is some tens of MiB at most.
    """

    out: Tensor
    """[N, H, D]: what comes of it."""
    partial: Tensor
    """[parts, N * H, D] float32: weighted sums of values."""
    statistics: Tensor
    """[parts, 2, N * H] float32: largest logit in base 2, sum of weights."""

    @classmethod
    def like(cls, q: Tensor, parts: int) -> Parts:
        """Room for the results of queries `q` [N, H, D]."""
        out = torch.empty_like(q)
        if parts == 1:
            return cls(out, out, out)
        rows, dim = q.shape[0] * q.shape[1], q.shape[2]
        return cls(
            out,
            torch.empty(parts, rows, dim, dtype=torch.float32, device=q.device),
            torch.empty(parts, 2, rows, dtype=torch.float32, device=q.device),
        )

    def merged(self) -> Tensor:
        """The results, merged in the order of the history."""
        if self.partial is not self.out:
            parts, rows, dim = self.partial.shape
            combine_kernel[(-(-rows // _ROWS),)](
                self.partial, self.statistics, self.out, rows, parts, dim, _ROWS
            )
        return self.out
