"""One MovieLens user as the commands need them: a history to encode, films not seen yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from cli.failure import CommandError

if TYPE_CHECKING:
    from ranking_client import Actions, ModelDescription
    from shared.model.config import ModelConfig
    from training.movielens import MovieLens, UserActions

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Directory with ml-100k.inter and ml-100k.item; left out: downloaded once.",
    ),
]


def require_movielens_model(model: ModelConfig | ModelDescription, way_out: str) -> None:
    """Return if the model's tasks and actions are those of MovieLens.

    Raises:
        CommandError: they are not; the message tells what the model has, then `way_out`.
    """
    from training.cases import ACTION_TYPES, TASKS  # noqa: PLC0415  --help starts fast

    differing = [
        f"{name} {', '.join(has)} instead of {', '.join(wanted)}"
        for name, has, wanted in (
            ("tasks", model.tasks, TASKS),
            ("action types", model.action_types, ACTION_TYPES),
        )
        if has != wanted
    ]
    if model.feature_dim:
        differing.append(f"{model.feature_dim} candidate features instead of none")
    if differing:
        raise CommandError(
            f"this model does not fit the MovieLens data: it has {', '.join(differing)}; {way_out}"
        )


def find_user(data: MovieLens, user: str, way_out: str) -> UserActions:
    """The actions of `user`.

    Raises:
        CommandError: there is no such user; the message goes on with `way_out`.
    """
    for actions in data.users:
        if actions.user == user:
            return actions
    first, last = data.users[0].user, data.users[-1].user
    raise CommandError(
        f"user {user} is not in MovieLens (its users are {first} to {last}), {way_out}"
    )


def whole_history(actions: UserActions) -> Actions:
    """All of the user's ratings as actions; the action type is the rating, counted from 0."""
    from ranking_client import Actions  # noqa: PLC0415  imports gRPC

    return Actions(actions.item_ids, (actions.ratings - 1).astype(np.uint32), actions.times_s)


def unseen_items(data: MovieLens, seen: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Everything in the catalogue that is not among `seen`, ascending."""
    return np.setdiff1d(data.item_ids, seen)
