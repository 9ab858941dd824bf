"""One MovieLens user as the commands need them: a history to encode, films not seen yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from cli.failure import CommandError

if TYPE_CHECKING:
    from ranking_client import Actions
    from training.movielens import MovieLens, UserActions

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Directory with ml-100k.inter and ml-100k.item; left out: downloaded once.",
    ),
]


def find_user(data: MovieLens, user: str) -> UserActions:
    """The actions of `user`.

    Raises:
        CommandError: there is no such user.
    """
    for actions in data.users:
        if actions.user == user:
            return actions
    first, last = data.users[0].user, data.users[-1].user
    raise CommandError(
        f"user {user!r} is not in MovieLens; take one from {first} to {last}, or bring your own: "
        "`crosskv encode --actions FILE`, then `crosskv rank --items ID,ID,...`"
    )


def whole_history(actions: UserActions) -> Actions:
    """All of the user's ratings as actions; the action type is the rating, counted from 0."""
    from ranking_client import Actions  # noqa: PLC0415  imports gRPC

    return Actions(actions.item_ids, (actions.ratings - 1).astype(np.uint32), actions.times_s)


def unseen_items(data: MovieLens, seen: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Everything in the catalogue that is not among `seen`, ascending."""
    return np.setdiff1d(data.item_ids, seen)
