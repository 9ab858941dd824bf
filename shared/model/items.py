"""Item ids (any unsigned 64-bit numbers) to embedding rows."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.model.config import ItemHashConfig, ItemListConfig

Ids = NDArray[np.uint64]
Rows = NDArray[np.int64]


class ItemIndex(Protocol):
    """Maps item ids to the rows whose embeddings are summed."""

    def rows(self, ids: Ids) -> tuple[Rows, int]:
        """Rows [n, tables] of `ids` [n], and how many of them are unknown."""
        ...


class ItemList:
    """Known ids have rows 1, 2, ... in the checkpoint's order; all others share row 0."""

    def __init__(self, ids: Ids) -> None:
        order = np.argsort(ids, kind="stable")
        self._sorted = ids[order]
        self._row = order + 1

    def rows(self, ids: Ids) -> tuple[Rows, int]:
        """Rows [n, 1] of `ids` [n], and how many of them are unknown."""
        at = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
        known = self._sorted[at] == ids
        rows = np.where(known, self._row[at], 0)
        return rows[:, None].astype(np.int64), int((~known).sum())


class ItemHash:
    """Every id has one row in each of several tables; two ids rarely share all of them."""

    def __init__(self, config: ItemHashConfig) -> None:
        self._config = config

    def rows(self, ids: Ids) -> tuple[Rows, int]:
        """Rows [n, tables] of `ids` [n]; no id is unknown."""
        tables = np.arange(self._config.tables, dtype=np.uint64)
        hashed = _splitmix64(ids[:, None] ^ _splitmix64(tables)[None, :])
        slot = hashed % np.uint64(self._config.rows)
        return (slot + tables * np.uint64(self._config.rows)).astype(np.int64), 0


def embedding_rows(config: ItemListConfig | ItemHashConfig) -> int:
    """Rows of the item embedding under `config`."""
    if isinstance(config, ItemListConfig):
        return config.count + 1
    return config.tables * config.rows


def _splitmix64(x: Ids) -> Ids:
    """Steele, Lea and Flood's finaliser: a bijection of 64-bit numbers that mixes every bit."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
