"""What the GPU can do at most, measured, and the time that a piece of work must take at least."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial

import torch

from benchmarks.graph_timing import Run, time_in_turn

_COPIED_BYTES = 2 << 30
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
    """Device-to-device copy of 2 GiB, bytes read plus bytes written."""
    exps: float
    """`ex2.approx` in a loop without memory traffic."""
    host_bytes: float
    """Copy of 512 MiB from pinned host memory."""

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
    source = torch.randint(
        0, 256, (_COPIED_BYTES,), dtype=torch.uint8, device="cuda", generator=random
    )
    target = torch.empty_like(source)
    matrices = [
        torch.randn(_MATRIX, _MATRIX, device="cuda", generator=random).bfloat16() for _ in range(2)
    ]
    host = torch.empty(_HOST_BYTES, dtype=torch.uint8, pin_memory=True).copy_(source[:_HOST_BYTES])
    product = torch.empty_like(matrices[0])
    programs = _EXP_PROGRAMS_A_SM * torch.cuda.get_device_properties().multi_processor_count
    return Ceilings(
        flops=2 * _MATRIX**3 / _seconds(partial(torch.mm, *matrices, out=product)),
        bytes=2 * _COPIED_BYTES / _seconds(partial(target.copy_, source)),
        exps=programs * _EXP_BLOCK * _EXP_ROUNDS / _seconds(_exponentials(programs)),
        host_bytes=_HOST_BYTES
        / _seconds(partial(target[:_HOST_BYTES].copy_, host, non_blocking=True)),
    )


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
