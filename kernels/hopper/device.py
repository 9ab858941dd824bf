"""What the host knows of a Hopper device: whether it is one, how wide, and its registers."""

from __future__ import annotations

import torch


def is_hopper(device: torch.device) -> bool:
    """Whether kernels with warpgroup products run on `device`."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def processors(device: torch.device) -> int:
    """Multiprocessors: programs that run at once when one fills a multiprocessor."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def registers_for(dim: int) -> tuple[int, int]:
    """Registers of a multiplying and of a copying thread; two of one and the other make 504.

    At D 256 a multiplying thread holds 128 numbers of its output alone: 208 would spill.
    """
    return (216, 72) if dim > 128 else (208, 88)
