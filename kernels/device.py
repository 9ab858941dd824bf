"""What the host knows of a device: how many multiprocessors it has, and whether it is a Hopper."""

from __future__ import annotations

import torch


def is_hopper(device: torch.device) -> bool:
    """Whether kernels with warpgroup products run on `device`."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def processors(device: torch.device) -> int:
    """Multiprocessors: programs that run at once when one fills a multiprocessor. 1 for a CPU."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
