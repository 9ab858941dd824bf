"""How a crossing attention is computed: chosen here, by measured rules, from host numbers alone.

| kind | what runs | for |
|---|---|---|
| `gather` | `kernel.py`: one pass over the history, gathering pool rows on the way | all forms |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MAX_SPLITS = 64


@dataclass(frozen=True)
class Problem:
    """What decides the plan; all of it is known without asking the device."""

    candidates: int
    """N, of all users."""
    users: int
    """B."""
    longest: int
    """History tokens of the user who has most."""
    heads: int
    kv_heads: int
    dim: int
    itemsize: int
    """Bytes of a number of `q`."""
    processors: int
    """Multiprocessors of the device."""


@dataclass(frozen=True)
class Plan:
    """One way to run, with the tile sizes for it."""

    kind: Literal["gather"]
    block_m: int
    """Query rows of a program: candidates x query heads of one KV head."""
    block_n: int
    """History tokens of a step."""
    splits: int
    """Programs that share one tile's history; 1: none do."""
    warps: int
    stages: int
    """Tiles of keys and values in flight."""
    registers: int | None = None
    """Most registers of a thread, so that more programs fit on a multiprocessor."""


def choose(problem: Problem) -> Plan:
    """The plan of a problem with at least one candidate."""
    block_m, block_n, warps, stages = _tile(problem)
    rows = problem.candidates * problem.heads // problem.kv_heads
    programs = -(-rows // block_m) * problem.kv_heads
    splits = _splits(programs, -(-problem.longest // block_n), problem.processors)
    return Plan("gather", block_m, block_n, splits, warps, stages)


def _tile(problem: Problem) -> tuple[int, int, int, int]:
    """Block sizes, warps and stages that fit in registers and shared memory."""
    if problem.itemsize == 4:  # exact float32 products run on the FMA units: small tiles
        return (32, 32, 8, 2) if problem.dim <= 128 else (16, 16, 8, 2)
    if problem.dim <= 64:
        return 128, 64, 4, 3
    if problem.dim <= 128:
        return 128, 64, 8, 3
    return 64, 64, 8, 2


def _splits(programs: int, tiles: int, processors: int) -> int:
    """Enough programs for two on each multiprocessor, each with at least four tiles of history."""
    return max(1, min(2 * processors // programs, tiles // 4, MAX_SPLITS))
