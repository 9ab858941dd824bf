"""Which op the time of a pass goes to: one profiled run, kernels summed by what they belong to."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

import kernels
from benchmarks.graph_timing import Run

_JITTED = re.compile(r"@(?:triton|gluon)\.jit(?:\([^)]*\))?[^\n]*\ndef (\w+)")
_LIBRARY = (
    ("matrix products", re.compile(r"gemm|nvjet|cutlass|cublas|splitk", re.IGNORECASE)),
    ("copies", re.compile(r"memcpy|memset", re.IGNORECASE)),
    ("gather and scatter", re.compile(r"index|gather|scatter", re.IGNORECASE)),
)


def shares_by_op(run: Run) -> dict[str, float]:
    """Percent of the device time of one call, by op, largest first."""
    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        run()
        torch.cuda.synchronize()
    times: Counter[str] = Counter()
    for event in profiler.key_averages():
        times[op_of(event.key)] += event.self_device_time_total
    total = times.total()
    return {op: round(100 * time / total, 1) for op, time in times.most_common() if time}


def op_of(kernel: str) -> str:
    """The op a device kernel belongs to, by its name."""
    for name, op in _own_kernels().items():
        if kernel == name or kernel.startswith(f"{name}_"):
            return op
    for op, pattern in _LIBRARY:
        if pattern.search(kernel):
            return op
    return "norms, activations, sums"


@cache
def _own_kernels() -> dict[str, str]:
    """Name and op of every kernel in kernels/<op>/, longest name first."""
    found = {
        name: source.parent.name
        for source in Path(kernels.__path__[0]).glob("*/*.py")
        for name in _JITTED.findall(source.read_text())
    }
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))
