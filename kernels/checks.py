"""The one way a kernel refuses its arguments: by name, with the shape or dtype it wanted."""

from __future__ import annotations

import torch
from torch import Tensor


def require(condition: bool, name: str, problem: str) -> None:
    """Raise ValueError `name: problem` unless `condition` holds."""
    if not condition:
        raise ValueError(f"{name}: {problem}")


def require_shape(name: str, tensor: Tensor, *shape: int | None) -> None:
    """Raise ValueError unless `tensor` has `shape`; None stands for any length."""
    fits = tensor.dim() == len(shape) and all(
        want is None or have == want for have, want in zip(tensor.shape, shape, strict=True)
    )
    wanted = ", ".join("*" if want is None else str(want) for want in shape)
    require(fits, name, f"shape {list(tensor.shape)}, expected [{wanted}]")


def require_bounds(name: str, bounds: Tensor) -> None:
    """Raise ValueError unless `bounds` [B + 1] is int32, contiguous and not empty."""
    require(bounds.dtype == torch.int32, name, f"dtype {bounds.dtype}, expected torch.int32")
    require(
        bounds.dim() == 1 and len(bounds) > 0, name, f"shape {list(bounds.shape)}, expected [B + 1]"
    )
    require(bounds.is_contiguous(), name, "not contiguous")
