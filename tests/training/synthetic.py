"""Made-up ratings in MovieLens' files: two tastes, so that histories tell something."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from training.movielens import MovieLens, load_movielens

INTERACTION_HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
ITEM_HEADER = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"

ITEMS, ACTIONS = 30, 14


def write_files(
    directory: Path, rows: Iterable[tuple[int, int, int, int]], items: Iterable[int]
) -> Path:
    """Write rows (user, item, rating, time) and items as the two files; returns `directory`."""
    interactions = [INTERACTION_HEADER, *("\t".join(map(str, row)) for row in rows)]
    catalogue = [ITEM_HEADER, *(f"{item}\tFilm {item}\t19{item % 100:02}\tDrama" for item in items)]
    (directory / "ml-100k.inter").write_text("\n".join(interactions) + "\n")
    (directory / "ml-100k.item").write_text("\n".join(catalogue) + "\n")
    return directory


def write_tastes(directory: Path, users: int, items: int = ITEMS, actions: int = ACTIONS) -> Path:
    """Odd users mostly rate odd items, even users even ones; items above the middle are liked."""
    rng = np.random.default_rng(0)
    numbers = np.arange(1, items + 1)
    rows = []
    for user in range(1, users + 1):
        weights = np.where(numbers % 2 == user % 2, 12.0, 1.0)
        chosen = rng.choice(numbers, actions, replace=False, p=weights / weights.sum())
        times = 1_000_000 + np.cumsum(rng.integers(0, 5000, actions))
        for item, time_s in zip(chosen, times, strict=True):
            high = rng.random() < (0.8 if item > items // 2 else 0.2)
            rows.append(
                (
                    user,
                    int(item),
                    int(rng.integers(4, 6) if high else rng.integers(1, 4)),
                    int(time_s),
                )
            )
    rng.shuffle(rows)
    return write_files(directory, rows, range(1, items + 1))


def tastes(directory: Path, users: int, items: int = ITEMS, actions: int = ACTIONS) -> MovieLens:
    """The same, loaded."""
    return load_movielens(write_tastes(directory, users, items, actions))
