"""Item ids to rows: any unsigned 64-bit number."""

from __future__ import annotations

import numpy as np
import pytest

from shared.model.config import ItemHashConfig, ItemListConfig
from shared.model.items import ItemHash, ItemList, embedding_rows
from tests.tiny_model import tiny_item_ids

EXTREMES = np.array([0, 1, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1], np.uint64)


def test_listed_items_have_rows_in_list_order() -> None:
    ids = tiny_item_ids()
    rows, unknown = ItemList(ids).rows(ids)
    assert rows[:, 0].tolist() == list(range(1, len(ids) + 1))
    assert rows.dtype == np.int64
    assert unknown == 0


def test_unlisted_items_share_row_0() -> None:
    listed = np.array([2**64 - 1, 7, 2**63], np.uint64)
    asked = np.array([0, 7, 8, 6, 2**64 - 1, 2**64 - 2, 2**63, 2**63 - 1, 2**63 + 1], np.uint64)
    rows, unknown = ItemList(listed).rows(asked)
    assert rows[:, 0].tolist() == [0, 2, 0, 0, 1, 0, 3, 0, 0]
    assert unknown == 6
    rows, unknown = ItemList(listed).rows(asked[:0])
    assert (rows.shape, unknown) == ((0, 1), 0)


def test_one_listed_item() -> None:
    rows, unknown = ItemList(np.array([5], np.uint64)).rows(EXTREMES)
    assert rows[:, 0].tolist() == [0] * 6
    assert unknown == 6


def _splitmix64(x: int) -> int:
    """Steele, Lea and Flood 2014, in whole numbers."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_splitmix_is_the_published_one() -> None:
    """First output of the public generator seeded with 1234567."""
    assert _splitmix64(1234567) == 6457827717110365317


@pytest.mark.parametrize(("tables", "rows"), [(1, 1), (2, 10), (3, 41), (8, 1 << 20)])
def test_hashed_items_have_a_row_in_each_table(tables: int, rows: int) -> None:
    """A stored model depends on every bit of this: it is fixed here in whole numbers."""
    got, unknown = ItemHash(ItemHashConfig(tables=tables, rows=rows)).rows(EXTREMES)
    wanted = [
        [_splitmix64(int(item) ^ _splitmix64(t)) % rows + t * rows for t in range(tables)]
        for item in EXTREMES
    ]
    assert got.tolist() == wanted
    assert (got.dtype, unknown) == (np.int64, 0)
    assert got.max() < embedding_rows(ItemHashConfig(tables=tables, rows=rows))


def test_two_tables_tell_items_apart() -> None:
    """1000 ids in 2 x 1000 rows: one table has hundreds of collisions, both together few."""
    rows, _ = ItemHash(ItemHashConfig(tables=2, rows=1000)).rows(np.arange(1000, dtype=np.uint64))
    assert len(np.unique(rows[:, 0])) < 700
    assert len(np.unique(rows, axis=0)) > 995


def test_embedding_rows() -> None:
    assert embedding_rows(ItemListConfig(count=50)) == 51
    assert embedding_rows(ItemHashConfig(tables=3, rows=41)) == 123
