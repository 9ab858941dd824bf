"""What the GPU can do at most, measured, and the time that a piece of work must take at least."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.graph_timing import Run, time_in_turn

_COPIED_MIB = (256, 2048)
_HOST_BYTES = 1 << 29
_MATRIX = 8192
_EXP_BLOCK, _EXP_ROUNDS, _EXP_PROGRAMS_A_SM = 1024, 4096, 16


@dataclass(frozen=True)
class Work:
    """What an op has to do, whatever its kernel: each input read once, each output written once."""

    flops: float = 0.0
    """Floating-point operations of the matrix products."""
    bytes: float = 0.0
    """Bytes read from and written to device memory."""
    exps: float = 0.0
    """Exponentials."""
    host_bytes: float = 0.0
    """Bytes copied from pinned host memory."""


@dataclass(frozen=True)
class Ceilings:
    """Measured rates, each a second."""

    flops: float
    """bf16 matrix product of random numbers, 8192 in all three sizes."""
    bytes: float
    """The fastest of `copies`."""
    exps: float
    """`ex2.approx` in a loop without memory traffic."""
    host_bytes: float
    """Copy of 512 MiB from pinned host memory."""
    copies: dict[str, float]
    """Bytes read plus bytes written on the device, by what moved them and how many."""

    def floor_us(self, work: Work) -> dict[str, float]:
        """The time that each kind of `work` takes at its ceiling; kinds without work left out."""
        rates = asdict(self)
        return {
            kind: round(amount / rates[kind] * 1e6, 3)
            for kind, amount in asdict(work).items()
            if amount
        }


def measured_ceilings() -> Ceilings:
    """Measure on the current CUDA device; takes a second or two."""
    random = torch.Generator("cuda").manual_seed(0)
    source = torch.randn(max(_COPIED_MIB) << 18, device="cuda", generator=random)  # float32
    target = torch.empty_like(source)
    matrices = [
        torch.randn(_MATRIX, _MATRIX, device="cuda", generator=random).bfloat16() for _ in range(2)
    ]
    at_host = source[: _HOST_BYTES // source.itemsize]
    host = torch.empty_like(at_host, device="cpu", pin_memory=True).copy_(at_host)
    product = torch.empty_like(matrices[0])
    programs = _EXP_PROGRAMS_A_SM * torch.cuda.get_device_properties().multi_processor_count
    copies = measured_copies(source, target)
    return Ceilings(
        flops=2 * _MATRIX**3 / _seconds(partial(torch.mm, *matrices, out=product)),
        bytes=max(copies.values()),
        exps=programs * _EXP_BLOCK * _EXP_ROUNDS / _seconds(_exponentials(programs)),
        host_bytes=_HOST_BYTES
        / _seconds(partial(target[: len(host)].copy_, host, non_blocking=True)),
        copies=copies,
    )


def measured_copies(source: Tensor, target: Tensor) -> dict[str, float]:
    """Bytes a second, read and written, of copies from `source` to `target`, both float32.

    In a graph `copy_` is a node of the driver's own copier, which on an H200 stays at two thirds of
    what an elementwise kernel moves.
    """
    found = {}
    for mib in _COPIED_MIB:
        numbers, out = source[: mib << 18], target[: mib << 18]
        ways: dict[str, Run] = {
            "copy_": partial(out.copy_, numbers),
            "neg": partial(torch.neg, numbers, out=out),
            "mul": partial(torch.mul, numbers, 0.5, out=out),
        }
        for way, timing in time_in_turn(ways).items():
            if timing.us is not None:
                found[f"{way}, {mib} MiB"] = 2 * numbers.nbytes / (timing.us * 1e-6)
    return found


def _exponentials(programs: int) -> Run:
    from benchmarks.exp2_kernel import exp2_loop  # noqa: PLC0415  triton is not needed on a CPU

    out = torch.empty(programs * _EXP_BLOCK, device="cuda")

    def run() -> None:
        exp2_loop[(programs,)](out, ROUNDS=_EXP_ROUNDS, BLOCK=_EXP_BLOCK, num_warps=4)

    return run


def _seconds(run: Run) -> float:
    timing = time_in_turn({"it": run})["it"]
    if timing.us is None:
        raise RuntimeError(f"a ceiling could not be measured: {timing.problem}")
    return timing.us * 1e-6
