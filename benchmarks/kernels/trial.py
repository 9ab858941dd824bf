"""One row of the kernel benchmark: what is timed against what, and what it has to reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.bound import Bound
from benchmarks.ceilings import Ceilings, Work
from benchmarks.graph_timing import Run


@dataclass(frozen=True)
class Accuracy:
    """||out - reference|| / ||reference|| against float64."""

    ours: float
    torch: float
    """Of plain torch in the same low precision."""

    @property
    def passed(self) -> bool:
        """No more than twice torch's error; a NaN fails."""
        return self.ours <= 2 * self.torch + 1e-6


@dataclass(frozen=True)
class Measured:
    """What the goals are judged by."""

    ours_us: float
    anchors_us: dict[str, float]
    """Those that ran."""
    extra_bytes: int
    ceilings: Ceilings


@dataclass(frozen=True)
class Goal:
    """A bound, and how the figure that must keep it is made."""

    bound: Bound
    value: Callable[[Measured], float | None]
    """None where an anchor it needs did not run."""


@dataclass(frozen=True)
class Trial:
    """A call on data in device memory, and what it is held against."""

    ours: Run
    anchors: dict[str, Run]
    accuracy: Callable[[], Accuracy]
    """Calls the op once and looks at its result."""
    work: Work
    goals: tuple[Goal, ...]
    plan: str
    """How the op does this case, in words; "" where it has one way only."""


@dataclass(frozen=True)
class Case:
    """A trial that has not been set up yet."""

    op: str
    name: str
    prepare: Callable[[torch.device], Trial]


def no_slower(text: str, anchors: Sequence[str], must: float, aim: float) -> Goal:
    """Our time over that of the fastest of `anchors`."""

    def value(measured: Measured) -> float | None:
        best = _fastest(measured, anchors)
        return None if best is None else measured.ours_us / best

    return Goal(Bound(f"time over {text}", must, aim, at_least=False), value)


def faster(text: str, anchors: Sequence[str], must: float, aim: float) -> Goal:
    """The time of the fastest of `anchors` over ours."""

    def value(measured: Measured) -> float | None:
        best = _fastest(measured, anchors)
        return None if best is None else best / measured.ours_us

    return Goal(Bound(f"times faster than {text}", must, aim), value)


def share_of_ceiling(text: str, work: Work, must: float, aim: float) -> Goal:
    """What is reached of the one ceiling that `work` names."""

    def value(measured: Measured) -> float:
        (floor_us,) = measured.ceilings.floor_us(work).values()
        return floor_us / measured.ours_us

    return Goal(Bound(f"share of {text}", must, aim), value)


def memory_below(mib: int) -> Goal:
    """Device memory a call takes besides its inputs, at its peak."""
    bound = Bound("MiB of extra memory", mib, at_least=False)
    return Goal(bound, lambda measured: measured.extra_bytes / 2**20)


def relative_error(out: Tensor, reference: Tensor) -> float:
    """||out - reference|| / ||reference||, in float64."""
    reference = reference.double()
    return float((out.double() - reference).norm() / reference.norm())


def poison(*results: Tensor) -> None:
    """Overwrite an op's results, in memory that its next call is likely to get for its own."""
    for result in results:
        result.fill_(torch.nan if result.is_floating_point() else -1)


def _fastest(measured: Measured, anchors: Sequence[str]) -> float | None:
    times = [measured.anchors_us[name] for name in anchors if name in measured.anchors_us]
    return min(times, default=None)
