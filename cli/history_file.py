"""A user's own actions, read from a JSON or CSV file.

JSON is a list of objects, CSV has a header; both have the fields `item_id`, `action` (a name among
the model's action types), `time_s` (whole seconds since 1970) and, if wanted, `surface` (a name
among the model's surfaces; left out: the first).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cli.failure import CommandError

if TYPE_CHECKING:
    from ranking_client import Actions, ModelDescription

Number = TypeVar("Number", np.uint64, np.int64)

_FIELDS = ("item_id", "action", "time_s")


def read_actions(path: Path, model: ModelDescription) -> Actions:
    """The actions in `path`, oldest first as they lie there.

    Raises:
        CommandError: the file cannot be read, or a field of a row is missing or wrong; the message
            names the row and the field.
    """
    from ranking_client import Actions  # noqa: PLC0415  imports gRPC

    rows = _rows(path)
    if not rows:
        raise CommandError(f"{path}: holds no actions; each needs {', '.join(_FIELDS)}")
    for number, row in enumerate(rows, start=1):
        for field in _FIELDS:
            if row.get(field) in (None, ""):
                raise CommandError(f"{path}, action {number}: {field} is missing")
    return Actions(
        _numbers(path, rows, "item_id", np.uint64),
        _indices(path, rows, "action", model.action_types),
        _numbers(path, rows, "time_s", np.int64),
        _surfaces(path, rows, model.surfaces),
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text("utf-8-sig")  # spreadsheets put a byte order mark first
        if path.suffix == ".csv":
            return list(csv.DictReader(text.splitlines()))
        rows = json.loads(text)
    except FileNotFoundError as error:
        raise CommandError(f"{path}: no such file") from error
    except (OSError, ValueError, csv.Error) as error:
        raise CommandError(f"{path}: cannot read as JSON or .csv ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CommandError(f"{path}: not a list of objects with {', '.join(_FIELDS)}")
    return rows


def _numbers(
    path: Path, rows: Sequence[Mapping[str, Any]], field: str, dtype: type[Number]
) -> NDArray[Number]:
    limits = np.iinfo(dtype)
    numbers = np.empty(len(rows), dtype)
    for at, row in enumerate(rows):
        try:
            number = int(row[field])
        except (TypeError, ValueError):
            number = None
        if number is None or not limits.min <= number <= limits.max:
            raise CommandError(
                f"{path}, action {at + 1}: {field} is {row[field]!r}, not a whole number from "
                f"{limits.min} to {limits.max}"
            )
        numbers[at] = number
    return numbers


def _surfaces(
    path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> NDArray[np.uint32]:
    filled = [
        {**row, "surface": names[0]} if row.get("surface") in (None, "") else row for row in rows
    ]
    return _indices(path, filled, "surface", names)


def _indices(
    path: Path, rows: Sequence[Mapping[str, Any]], field: str, names: Sequence[str]
) -> NDArray[np.uint32]:
    index = {name: at for at, name in enumerate(names)}
    for number, row in enumerate(rows, start=1):
        if str(row.get(field)) not in index:
            raise CommandError(
                f"{path}, action {number}: {field} is {row.get(field)!r}; the model knows "
                f"{', '.join(names)}"
            )
    return np.array([index[str(row[field])] for row in rows], np.uint32)
