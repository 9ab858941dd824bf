"""What the host has to know of the Hopper attention: its tiles, and what its copies ask for."""

from __future__ import annotations

from torch import Tensor

TILE_ROWS = 128
"""Query rows of a tile: 64 for each of the two warpgroups that multiply."""
DIMS = (32, 64, 128, 256)
"""Head dimensions they are built for."""
_COPY_BYTES = 16
"""What a thread copies at once."""


def steps_for(dim: int) -> tuple[int, int]:
    """Keys of a step, and steps in flight, that 227 KiB of shared memory hold beside queries."""
    if dim <= 64:
        return 128, 3
    return (128, 2) if dim <= 128 else (64, 2)


def is_aligned(rows: Tensor) -> bool:
    """Whether `rows` [n, ...] begin where a copy may."""
    bytes_apart = rows.stride(0) * rows.element_size()
    return rows.data_ptr() % _COPY_BYTES == 0 and bytes_apart % _COPY_BYTES == 0
