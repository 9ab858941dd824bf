"""How a crossing attention is computed: chosen here, from numbers that the host knows.

| kind | what runs | for |
|---|---|---|
| `histogram` | one pass over the pool, weighted by how often the history holds each row | coded \
models, where the history is long against the pool |
| `hopper` | one pass over the history, one warpgroup gathering for two that multiply | bfloat16 |
| `expand` | `kv_expand`, then `hopper` | bfloat16, slices of an odd width or entries in float32 |
| `gather` | one pass over the history in plain Triton, gathering on the way | the rest |

Nothing is expanded by choice: writing and reading dense rows takes longer than gathering them while
others multiply.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

from kernels.hopper.limits import TILE_ROWS, steps_for

MAX_SPLITS = 64
START = 3
"""Steps that starting on a part costs: finding its user, page and rows, waiting for memory."""
MOST_ROW_TILES = 64
"""Row tiles of a program: beyond, its start is under 1 % of it."""


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
    hopper: bool = False
    """Whether the Hopper kernel takes the history as it is."""
    hopper_dense: bool = False
    """Whether it would take the history expanded."""
    histogram: bool = False
    """Whether counting pool rows pays."""
    dense: bool = False
    """Whether keys and values are plain, so that every user's lie in device memory."""


@dataclass(frozen=True)
class Plan:
    """One way to run, with the tile sizes for it."""

    kind: Literal["gather", "hopper", "expand", "histogram"]
    block_m: int = 0
    """Query rows of a program: candidates x query heads of one KV head. 0: the plan knows itself,
    here and below."""
    block_n: int = 0
    """History tokens of a step."""
    _: KW_ONLY
    splits: int = 1
    """Programs that share one tile's history; 1: none do."""
    row_tiles: int = 1
    """Tiles of query rows that a program takes one after the other."""
    stages: int = 0
    """Tiles of keys and values in flight."""
    warps: int = 0


def choose(problem: Problem) -> Plan:
    """The plan of a problem with at least one candidate."""
    if problem.histogram:
        return Plan("histogram")
    rows = problem.candidates * problem.heads // problem.kv_heads
    if problem.hopper or problem.hopper_dense:
        kind: Literal["hopper", "expand"] = "hopper" if problem.hopper else "expand"
        block_n, stages = steps_for(problem.dim)
        if problem.dense and problem.dim <= 64:
            stages += 1  # dense rows come from device memory: two tiles are to be on their way
        tiles = -(-problem.longest // block_n)
        programs = _tiles_of_rows(problem, rows, TILE_ROWS) * problem.kv_heads
        splits = _even_splits(programs, tiles, problem.processors)
        row_tiles = _row_tiles(problem, rows, tiles) if splits == 1 else 1
        return Plan(kind, TILE_ROWS, block_n, splits=splits, row_tiles=row_tiles, stages=stages)
    block_m, block_n, warps, stages = _tile(problem)
    programs = _tiles_of_rows(problem, rows, block_m) * problem.kv_heads
    splits = _splits(programs, -(-problem.longest // block_n), problem.processors)
    return Plan("gather", block_m, block_n, splits=splits, stages=stages, warps=warps)


def _tiles_of_rows(problem: Problem, rows: int, block_m: int) -> int:
    """The fewest that there can be: users share none, and who has candidates has one."""
    return max(-(-rows // block_m), min(problem.users, problem.candidates))


def _row_tiles(problem: Problem, rows: int, tiles: int) -> int:
    """How many tiles of a user's rows a program takes, where there are more than run at once.

    Users are taken to have equally many candidates.
    """
    of_a_user = -(-rows // (problem.users * TILE_ROWS))

    def steps(row_tiles: int) -> int:
        programs = -(-of_a_user // row_tiles) * problem.users * problem.kv_heads
        return -(-programs // problem.processors) * (row_tiles * (tiles + 1) + START)

    return min(range(1, min(of_a_user, MOST_ROW_TILES) + 1), key=steps)


def _even_splits(programs: int, tiles: int, processors: int) -> int:
    """The split that leaves least of the machine idle, one program to a multiprocessor.

    Every part has at least four tiles; one part more has to save a quarter of a step.
    """
    most = max(1, min(tiles // 4, MAX_SPLITS))
    return min(
        range(1, most + 1),
        key=lambda splits: (
            -(-programs * splits // processors) * (tiles / splits + START) + 0.25 * splits
        ),
    )


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
