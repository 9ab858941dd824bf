"""What a ScoreCandidates request asks for, proven and in arrays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosskv.v1 import crossing_pb2
from shared.errors import InvalidFieldError, ModelMismatchError
from shared.model.config import ModelConfig
from shared.rpc.times import LATEST_S
from shared.rpc.wire import packed

_SHOWN = 64
"""Characters of a caller's text that a message repeats."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The candidates of one request; n of them."""

    item_ids: NDArray[np.uint64]
    """[n]."""
    surfaces: NDArray[np.uint32] | None
    """[n]; None: surface 0 throughout."""
    features: NDArray[np.float32] | None
    """[n, feature_dim], finite; None: none were sent."""
    tasks: tuple[int, ...]
    """Asked tasks as indices into the model's, in the order of the reply."""
    request_time_s: int
    """Seconds since 1970-01-01 UTC."""


class CandidateReader:
    """Reads requests for one model.

    Args:
        config: the served model.
        fingerprint: its fingerprint.
        max_candidates: most candidates of a request.
        now: the server's clock, seconds since 1970-01-01 UTC.
    """

    def __init__(
        self,
        config: ModelConfig,
        fingerprint: str,
        *,
        max_candidates: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._fingerprint = fingerprint
        self._max_candidates = max_candidates
        self._now = now
        self._surfaces = config.surfaces
        self._feature_dim = config.feature_dim
        self._task_index = {name: index for index, name in enumerate(config.tasks)}
        self._all_tasks = tuple(range(len(config.tasks)))

    def read(self, request: crossing_pb2.ScoreCandidatesRequest) -> Candidates:
        """Prove a request as `shared.rpc.wire.parse` returns it.

        Raises:
            InvalidFieldError: a field is wrong.
            ModelMismatchError: the caller expects another model.
        """
        expected = request.model_fingerprint
        if expected and expected != self._fingerprint:
            raise ModelMismatchError(
                f"model_fingerprint: {expected[:_SHOWN]!r} is expected, {self._fingerprint!r} is "
                "served; ask the replicas of that model, or leave the field empty"
            )
        item_ids = packed(request, "item_ids")
        count = len(item_ids)
        if not count:
            raise InvalidFieldError("item_ids", "no candidates; send at least one")
        if count > self._max_candidates:
            raise InvalidFieldError(
                "item_ids",
                f"{count} candidates, at most {self._max_candidates} a request; split them",
            )
        if not 0 <= request.request_time_s <= LATEST_S:
            raise InvalidFieldError(
                "request_time_s",
                f"{request.request_time_s} is negative or past the year 5138; send seconds since "
                "1970-01-01 UTC, not milliseconds, or 0 for the server's clock",
            )
        return Candidates(
            item_ids,
            self._read_surfaces(packed(request, "surfaces"), count),
            self._read_features(packed(request, "features"), count),
            self._read_tasks(request.tasks) if request.tasks else self._all_tasks,
            request.request_time_s or int(self._now()),
        )

    def _read_surfaces(self, surfaces: NDArray[np.uint32], count: int) -> NDArray[np.uint32] | None:
        if not len(surfaces):
            return None
        if len(surfaces) != count:
            raise InvalidFieldError(
                "surfaces",
                f"{len(surfaces)} values for {count} candidates; send one each, or none for "
                "surface 0 throughout",
            )
        known = len(self._surfaces)
        if surfaces.max() >= known:
            index = int(np.argmax(surfaces >= known))
            raise InvalidFieldError(
                f"surfaces[{index}]",
                f"{surfaces[index]}, the model knows 0 to {known - 1} "
                f"({', '.join(self._surfaces)}); DescribeModel lists them",
            )
        return surfaces

    def _read_features(
        self, features: NDArray[np.float32], count: int
    ) -> NDArray[np.float32] | None:
        if not len(features):
            return None
        width = self._feature_dim
        if not width:
            raise InvalidFieldError(
                "features", f"{len(features)} values, but the model takes none; leave it empty"
            )
        if len(features) != count * width:
            raise InvalidFieldError(
                "features",
                f"{len(features)} values, expected {count * width} ({width} for each of {count} "
                "candidates), or none",
            )
        finite = np.isfinite(features)
        if not finite.all():
            index = int(np.argmin(finite))
            raise InvalidFieldError(
                "features",
                f"{features[index]} at candidate {index // width}, feature {index % width}; send "
                "finite numbers",
            )
        return features.reshape(count, width)

    def _read_tasks(self, names: Iterable[str]) -> tuple[int, ...]:
        tasks: list[int] = []
        for name in names:
            index = self._task_index.get(name)
            if index is None:
                raise InvalidFieldError(
                    "tasks",
                    f"{name[:_SHOWN]!r} is unknown; the model has {', '.join(self._task_index)}",
                )
            if index in tasks:
                raise InvalidFieldError("tasks", f"{name!r} is named twice; name it once")
            tasks.append(index)
        return tuple(tasks)
