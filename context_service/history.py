"""A request's actions as proven arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from shared.errors import InvalidFieldError
from shared.model.config import ModelConfig
from shared.model.items import Ids
from shared.rpc.times import LATEST_S
from shared.rpc.wire import packed


@dataclass(frozen=True)
class History:
    """Actions of one user in time order, T of them, at least one."""

    item_ids: Ids
    """[T] uint64."""
    action_types: NDArray[np.int64]
    """[T], each below the number of the model's action types."""
    surfaces: NDArray[np.int64]
    """[T], each below the number of the model's surfaces."""
    times_s: NDArray[np.int64]
    """[T] seconds since 1970-01-01 UTC, never negative, never falling."""
    dropped: int = 0
    """Older actions that were cut off."""

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def last_event_time_s(self) -> int:
        """Time of the newest action."""
        return int(self.times_s[-1])

    def newest(self, limit: int) -> History:
        """The newest `limit` actions, with the others counted as dropped."""
        dropped = len(self) - limit
        if dropped <= 0:
            return self
        return replace(
            self,
            item_ids=self.item_ids[dropped:],
            action_types=self.action_types[dropped:],
            surfaces=self.surfaces[dropped:],
            times_s=self.times_s[dropped:],
            dropped=self.dropped + dropped,
        )


def read_history(request: Message, config: ModelConfig, max_actions: int) -> History:
    """Prove the field `actions` of a parsed request and view its arrays.

    Raises:
        InvalidFieldError: naming the field, the value and the way out.
    """
    item_ids = packed(request, "actions.item_ids")
    count = len(item_ids)
    if count == 0:
        raise InvalidFieldError("actions.item_ids", "no actions; send at least one")
    if count > max_actions:
        raise InvalidFieldError(
            "actions.item_ids",
            f"{count} actions, the limit is {max_actions}; send the newest {max_actions}",
        )
    action_types = packed(request, "actions.action_types")
    times_s = packed(request, "actions.times_s")
    surfaces = packed(request, "actions.surfaces")
    if len(surfaces) == 0:
        surfaces = np.zeros(count, np.uint32)
    for name, array in (
        ("action_types", action_types),
        ("times_s", times_s),
        ("surfaces", surfaces),
    ):
        if len(array) != count:
            raise InvalidFieldError(
                f"actions.{name}",
                f"{len(array)} values for {count} item_ids; send one value for each action",
            )
    _prove_below("actions.action_types", action_types, config.action_types)
    _prove_below("actions.surfaces", surfaces, config.surfaces)
    _prove_times(times_s)
    return History(
        item_ids.astype(np.uint64, copy=False),
        action_types.astype(np.int64),
        surfaces.astype(np.int64),
        times_s.astype(np.int64, copy=False),
    )


def _prove_below(field: str, values: NDArray[np.uint32], names: tuple[str, ...]) -> None:
    wrong = values >= len(names)
    if wrong.any():
        first = int(wrong.argmax())
        raise InvalidFieldError(
            f"{field}[{first}]",
            f"{values[first]}, the model knows 0 to {len(names) - 1} ({', '.join(names)}); "
            "DescribeModel lists them",
        )


def _prove_times(times_s: NDArray[np.int64]) -> None:
    negative = times_s < 0
    if negative.any():
        first = int(negative.argmax())
        raise InvalidFieldError(
            f"actions.times_s[{first}]",
            f"{times_s[first]} is negative; send seconds since 1970-01-01 UTC",
        )
    beyond = times_s > LATEST_S
    if beyond.any():
        first = int(beyond.argmax())
        raise InvalidFieldError(
            f"actions.times_s[{first}]",
            f"{times_s[first]} is past the year 5138; send seconds, not milliseconds",
        )
    falling = times_s[1:] < times_s[:-1]
    if falling.any():
        first = int(falling.argmax()) + 1
        raise InvalidFieldError(
            f"actions.times_s[{first}]",
            f"{times_s[first]} comes before {times_s[first - 1]} at {first - 1}; "
            "send actions oldest first",
        )
