"""Bringing keys onto the device, as in table 2 of the CollectiveKV paper.

Dense fp32 keys against an entry's indices and slices, each one copy from pinned memory; the fused
kernel then reads the entry as it arrived, so nothing has to follow the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.ceilings import Work
from benchmarks.kernels.trial import Accuracy, Case, Goal, Trial, faster

TOKENS, WIDTH = 999, 256
BATCHES = (1, 8, 64, 256, 512)
LARGEST = 512
PAGE_TOKENS = 128

_TOKEN_BYTES = torch.uint16.itemsize + torch.bfloat16.itemsize  # index and a slice of one number


def cases() -> Iterator[Case]:
    """The paper's batch sizes; only the largest has a bound to keep."""
    for batch in BATCHES:
        goals = (faster("the dense copy", ["dense_fp32_copy"], 47.5, 150.0),)
        yield Case(
            "host_to_device",
            f"keys, batch {batch}, T {TOKENS}, d {WIDTH}",
            partial(trial, batch, TOKENS, goals if batch == LARGEST else ()),
        )


def trial(batch: int, tokens: int, goals: tuple[Goal, ...], device: torch.device) -> Trial:
    """Pinned random bytes of both sizes; whole pages of the entries, as they are stored."""
    pages = -(-tokens // PAGE_TOKENS)
    entry = _random_bytes(batch * pages * PAGE_TOKENS * _TOKEN_BYTES, device)
    dense = _random_bytes(batch * tokens * WIDTH * torch.float32.itemsize, device)
    arrived, dense_arrived = (torch.empty_like(it, device=device) for it in (entry, dense))
    return Trial(
        ours=partial(arrived.copy_, entry, non_blocking=True),
        anchors={"dense_fp32_copy": partial(dense_arrived.copy_, dense, non_blocking=True)},
        accuracy=partial(
            _accuracy, partial(arrived.copy_, entry, non_blocking=True), arrived, entry
        ),
        work=Work(host_bytes=entry.numel()),
        goals=goals,
        plan="one copy",
    )


def _random_bytes(size: int, device: torch.device) -> Tensor:
    on_device = torch.randint(
        0,
        256,
        (size,),
        dtype=torch.uint8,
        device=device,
        generator=torch.Generator(device).manual_seed(5),
    )
    pinned = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    return pinned.copy_(on_device)


def _accuracy(ours: Callable[[], object], arrived: Tensor, entry: Tensor) -> Accuracy:
    """Every byte has to arrive."""
    arrived.zero_()
    ours()
    return Accuracy(float((arrived.cpu() != entry).double().mean()), 0.0)
