"""Device time of a call: the median of event-timed CUDA-graph replays, contenders in turn.

Every contender is called on the same buffers again and again, so what fits the L2 cache is read
from it: by all of them alike. Turns alternate, so that a GPU that grows hot slows all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch

Run = Callable[[], object]

ROUNDS = 7
REPLAYS_A_ROUND = 3

_WARM_UPS = 2
_REPLAY_US = 2000.0  # calls are gathered into a graph of about this length: its launch vanishes
_MOST_CALLS = 20


@dataclass(frozen=True)
class Timing:
    """How long one call takes on the device."""

    us: float | None
    """Microseconds; None if the call failed."""
    by: Literal["graph replay", "events", "nothing"]
    """What was timed; events around plain calls where a call cannot be captured."""
    problem: str | None = None
    """Why it failed, or why it could not be captured."""


@dataclass(frozen=True)
class _Ready:
    launch: Run
    calls: int
    timing: Timing


def time_in_turn(runs: Mapping[str, Run], rounds: int = ROUNDS) -> dict[str, Timing]:
    """Time each of `runs`, which take no arguments and leave their results on the device.

    A run that raises yields a `Timing` without a time; the others are timed all the same.
    """
    ready = {name: _prepared(run) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, contender in ready.items():
            if contender.calls:
                for _ in range(REPLAYS_A_ROUND):
                    samples[name].append(_elapsed_us(contender.launch) / contender.calls)
    return {
        name: Timing(
            round(median(samples[name]), 3) if samples[name] else None,
            contender.timing.by,
            contender.timing.problem,
        )
        for name, contender in ready.items()
    }


def _prepared(run: Run) -> _Ready:
    try:
        calls = _warmed_up(run)
    except Exception as error:  # Triton's errors have no other base
        return _Ready(run, 0, Timing(None, "nothing", told(error)))
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(calls):
                run()
    except Exception as error:
        torch.cuda.synchronize()

        def plain_calls() -> None:
            for _ in range(calls):
                run()

        return _Ready(plain_calls, calls, Timing(None, "events", told(error)))
    graph.replay()
    torch.cuda.synchronize()
    return _Ready(graph.replay, calls, Timing(None, "graph replay"))


def _warmed_up(run: Run) -> int:
    """Compile and allocate on a side stream, as capture wants; returns the calls for one graph."""
    side, current = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            run()
    current.wait_stream(side)
    torch.cuda.synchronize()
    return max(1, min(_MOST_CALLS, int(_REPLAY_US / _elapsed_us(run))))


def _elapsed_us(launch: Run) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    launch()
    end.record()
    torch.cuda.synchronize()
    return max(1e-3, begin.elapsed_time(end) * 1e3)


def told(error: Exception) -> str:
    """An error's kind and first line: CUDA's messages go on for a page."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
