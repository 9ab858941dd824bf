"""Pools as attention reads them: rows as long as a head, so that each starts on 16 bytes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_UNKNOWN = -1


def aligned_pool(pool: Tensor, head_dim: int) -> Tensor:
    """A copy [P, G, D] of `pool` [P, G, D - U]: U columns of zeros, then the pool's.

    A row of D - U numbers starts on any even byte; one of D numbers can be read 16 bytes at a time.
    """
    return F.pad(pool, (head_dim - pool.shape[-1], 0))


class AlignedPool:
    """One pool's aligned copy, made once and kept for as long as the pool stays the same.

    For serving: the copy carries no gradient. A change through `pool.data` is not noticed, every
    other one is; weights made in inference mode are copied every time. Ask once before capturing a
    CUDA graph, else the copying is captured too.
    """

    def __init__(self, head_dim: int) -> None:
        self._head_dim = head_dim
        self._source: Tensor | None = None
        self._version = _UNKNOWN
        self._copy: Tensor | None = None

    def of(self, pool: Tensor) -> Tensor:
        """`aligned_pool` of `pool` [P, G, D - U]; the same tensor until the pool changes."""
        if self._copy is None or not self._is_current(pool):
            # An inference tensor could never be part of a graph of gradients, nor be copied deeply.
            with torch.inference_mode(False), torch.no_grad():
                self._copy = aligned_pool(pool, self._head_dim)
                # Held, so that no other pool can come to lie at this address.
                self._source, self._version = pool.detach(), _version(pool)
        return self._copy

    def _is_current(self, pool: Tensor) -> bool:
        source = self._source
        return (
            source is not None
            and source.data_ptr() == pool.data_ptr()
            and source.dtype == pool.dtype
            and source.device == pool.device
            and self._version == _version(pool) != _UNKNOWN
        )


def _version(pool: Tensor) -> int:
    """Changes in place so far; a model built in inference mode has weights that do not count."""
    return _UNKNOWN if pool.is_inference() else pool._version
