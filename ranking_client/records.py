"""What goes into a client call and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.errors import InvalidFieldError

EntrySource = Literal["device", "store"]
"""Where a request found the user's entry: already on the device, or fetched from the store."""


@dataclass(frozen=True, eq=False)
class Actions:
    """A user's actions, oldest first, as parallel arrays of one length.

    Anything array-like is taken and kept as the dtype named; InvalidFieldError tells of values that
    would not survive that.
    """

    item_ids: NDArray[np.uint64]
    action_types: NDArray[np.uint32]
    """Indices into the model's action types."""
    times_s: NDArray[np.int64]
    """Seconds since 1970-01-01 UTC, never falling."""
    surfaces: NDArray[np.uint32] | None = None
    """Indices into the model's surfaces. None: surface 0 throughout."""

    def __post_init__(self) -> None:
        for name, dtype in (
            ("item_ids", np.uint64),
            ("action_types", np.uint32),
            ("times_s", np.int64),
            ("surfaces", np.uint32),
        ):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, integers(f"actions.{name}", values, dtype))

    def __len__(self) -> int:
        return len(self.item_ids)

    def __getitem__(self, part: slice) -> Actions:
        """The actions of a slice."""
        surfaces = None if self.surfaces is None else self.surfaces[part]
        return Actions(self.item_ids[part], self.action_types[part], self.times_s[part], surfaces)


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one request's candidates."""

    by_task: Mapping[str, NDArray[np.float32]]
    """For each task [candidates], in (0, 1), in request order."""
    model_fingerprint: str
    """The model that scored and that encoded the entry, 32 hex digits."""
    history_version: int
    """Version of the history that was scored on."""
    history_tokens: int
    """Actions in that history."""
    unknown_items: int
    """Candidates whose item the model does not know."""
    entry_source: EntrySource
    attempts: int
    """ScoreCandidates calls it took, repeats included."""
    encoded: bool
    """Whether the user's history had to be encoded first."""


@dataclass(frozen=True)
class Prefetched:
    """What a prefetch brought onto the device."""

    history_version: int
    history_tokens: int
    entry_source: EntrySource


@dataclass(frozen=True)
class Receipt:
    """What an encode or an append published."""

    model_fingerprint: str
    history_version: int
    tokens: int
    """Actions in the entry."""
    dropped_actions: int
    """Oldest actions left out to fit the model's max_history."""
    unknown_items: int
    stored_bytes: int
    """Size of the stored value, header and padding included."""
    published: bool
    """False: the store already holds a newer history, which stays."""
    last_event_time_s: int


@dataclass(frozen=True)
class ContextDescription:
    """A user's stored entry."""

    model_fingerprint: str
    history_version: int
    tokens: int
    stored_bytes: int
    dense_bytes: int
    """Size of the same history as dense bf16 K and V."""
    last_event_time_s: int
    created_ms: int
    key_rows_used: tuple[int, ...]
    """Distinct pool rows that the keys use, one number a layer; empty for dense entries."""
    value_rows_used: tuple[int, ...]
    pool_rows: int


@dataclass(frozen=True)
class ModelDescription:
    """What a service serves."""

    fingerprint: str
    tasks: tuple[str, ...]
    feature_dim: int
    max_history: int
    max_candidates: int
    action_types: tuple[str, ...]
    surfaces: tuple[str, ...]
    config_json: str


def integers(field: str, values: ArrayLike, dtype: type[np.integer[Any]]) -> NDArray[Any]:
    """`values` as a one-dimensional array of `dtype`.

    Raises:
        InvalidFieldError: they are not whole numbers in one dimension that `dtype` can hold.
    """
    array = _array(field, values)
    if array.dtype.kind == "f" and not isinstance(values, np.ndarray):
        array = np.asarray(values, object)  # numpy makes float64 of ids on both sides of 2^63
        if all(isinstance(value, int | np.integer) for value in array.flat):
            array = _whole(field, array, dtype)
    if array.ndim != 1:
        raise InvalidFieldError(field, f"shape {list(array.shape)}; send one dimension")
    if array.size == 0:
        return np.zeros(0, dtype)
    if array.dtype.kind not in "iu":
        raise InvalidFieldError(field, f"{np.asarray(values).dtype} values; send {dtype.__name__}")
    limits = np.iinfo(dtype)
    for value in (int(array.min()), int(array.max())):
        if not limits.min <= value <= limits.max:
            raise InvalidFieldError(field, f"{value} is no {dtype.__name__}; send one that is")
    return array.astype(dtype)


def floats(field: str, values: ArrayLike, rows: int) -> NDArray[np.float32]:
    """`values` as a float32 array [rows, width].

    Raises:
        InvalidFieldError: they are no numbers in that shape.
    """
    array = _array(field, values)
    if array.ndim != 2 or len(array) != rows:
        raise InvalidFieldError(
            field, f"shape {list(array.shape)}; send [{rows}, width], a row for each candidate"
        )
    with np.errstate(over="ignore"):  # infinity is for the service to refuse, by its place
        try:
            return array.astype(np.float32)
        except (TypeError, ValueError) as error:
            raise InvalidFieldError(field, f"{error}; send numbers") from error


def _array(field: str, values: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InvalidFieldError(field, f"{error}; send rows of one length") from error


def _whole(field: str, values: NDArray[Any], dtype: type[np.integer[Any]]) -> NDArray[Any]:
    try:
        return values.astype(dtype)
    except OverflowError as error:
        raise InvalidFieldError(field, f"{error}; send {dtype.__name__}") from error
