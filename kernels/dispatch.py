"""Which implementation of an op runs: one rule for all of them."""

from __future__ import annotations

import torch
from torch import Tensor

TRITON_DTYPES = (torch.bfloat16, torch.float32)
TRITON_DIMS = (16, 32, 64, 128, 256)
"""Head dims that fill the tiles of an attention; a model with another runs the reference."""


def runs_on_triton(*tensors: Tensor) -> bool:
    """Whether an op takes its Triton kernel; else the torch reference runs, on any device.

    Triton runs on CUDA, for bfloat16 and float32 numbers that nobody differentiates. float64, which
    makes appends exact to the last bit, and gradients are the reference's.
    """
    return all(
        tensor.is_cuda
        and tensor.dtype in TRITON_DTYPES
        and not (tensor.requires_grad and torch.is_grad_enabled())
        for tensor in tensors
    )
