"""What the services refuse of a request, for the fake: so that a test fails where they would."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ranking_client.records import Actions, ModelDescription, floats, integers
from shared.errors import InvalidFieldError, ModelMismatchError
from shared.rpc.times import LATEST_S


def prove_actions(actions: Actions, model: ModelDescription) -> None:
    """Raise InvalidFieldError for actions that EncodeContext and AppendActions refuse."""
    count = len(actions.item_ids)
    if not count:
        raise InvalidFieldError("actions.item_ids", "no actions; send at least one")
    for name in ("action_types", "times_s", "surfaces"):
        values = getattr(actions, name)
        if values is not None and len(values) != count:
            raise InvalidFieldError(
                f"actions.{name}", f"{len(values)} values for {count} item_ids; send one each"
            )
    _prove_below("actions.action_types", actions.action_types, len(model.action_types))
    if actions.surfaces is not None:
        _prove_below("actions.surfaces", actions.surfaces, len(model.surfaces))
    times_s = actions.times_s
    if times_s[0] < 0 or times_s[-1] > LATEST_S or (np.diff(times_s) < 0).any():
        raise InvalidFieldError(
            "actions.times_s", "negative, falling or no seconds; send seconds, oldest first"
        )


def prove_candidates(
    model: ModelDescription,
    item_ids: NDArray[np.uint64],
    *,
    surfaces: ArrayLike | None,
    features: ArrayLike | None,
    request_time_s: int,
    tasks: Sequence[str],
    model_fingerprint: str,
) -> None:
    """Raise InvalidFieldError or ModelMismatchError for what ScoreCandidates refuses."""
    count = len(item_ids)
    if model_fingerprint not in {"", model.fingerprint}:
        raise ModelMismatchError(
            f"model_fingerprint: {model_fingerprint!r}, served is {model.fingerprint!r}"
        )
    if not 1 <= count <= model.max_candidates:
        raise InvalidFieldError("item_ids", f"{count} candidates; send 1 to {model.max_candidates}")
    if surfaces is not None:
        indices = integers("surfaces", surfaces, np.uint32)
        if len(indices) not in {0, count}:
            raise InvalidFieldError("surfaces", f"{len(indices)} for {count} candidates")
        _prove_below("surfaces", indices, len(model.surfaces))
    if features is not None:
        numbers = floats("features", features, count)
        if numbers.shape[-1] != model.feature_dim or not np.isfinite(numbers).all():
            raise InvalidFieldError(
                "features",
                f"{numbers.shape[-1]} a candidate; send {model.feature_dim}, all of them finite",
            )
    if not 0 <= request_time_s <= LATEST_S:
        raise InvalidFieldError("request_time_s", f"{request_time_s}; send seconds since 1970")
    if len(set(tasks)) < len(tasks) or not set(tasks) <= set(model.tasks):
        raise InvalidFieldError("tasks", f"{list(tasks)}; name some of {model.tasks} once each")


def _prove_below(field: str, values: NDArray[np.uint32], limit: int) -> None:
    if len(values) and values.max() >= limit:
        raise InvalidFieldError(field, f"{values.max()}; the model has 0 to {limit - 1}")
