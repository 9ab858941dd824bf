"""`crosskv rank`: candidates in the order the model puts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.addresses import find_address
from cli.counted import counted
from cli.failure import CommandError
from cli.movielens_user import (
    Data,
    find_user,
    require_movielens_model,
    unseen_items,
    whole_history,
)
from cli.program import program
from cli.session import ContextAddress, CrossingAddress, User, converse

if TYPE_CHECKING:
    from ranking_client import Actions, LoadHistory, RankingClient, Scores

_TASK_BY_POPULARITY = "watch"
_RARE_FILMS = (
    "watch is trained to tell a user's next films from others of like popularity, so its score "
    "leaves popularity out, and over the whole catalogue rare films may come first."
)


def rank(
    user: User,
    top: Annotated[int, typer.Option(min=1, help="How many to show.")] = 10,
    by: Annotated[
        str | None, typer.Option(help="Task to order by; left out: the model's first.")
    ] = None,
    items: Annotated[
        str | None,
        typer.Option(
            help="Candidates, ID,ID,...; left out: MovieLens films the user has not seen."
        ),
    ] = None,
    data: Data = None,
    context: ContextAddress = None,
    crossing: CrossingAddress = None,
) -> None:
    """Rank candidates for a user, and encode a MovieLens user first if nothing is stored yet.

    A MovieLens user is ranked as of the newest action, since the data end in 1998.

    Examples:

        crosskv rank --user 42 --top 10

        crosskv rank --user anna --items 50,181,258
    """
    titles: dict[int, str] = {}
    load_history: LoadHistory | None = None
    request_time_s = 0
    at_crossing = find_address("crossing", crossing)
    if items is not None:
        candidates = _item_ids(items)
    else:
        from training.movielens import load_movielens  # noqa: PLC0415  --help starts fast

        own = f"`{program()} rank --user {user} --items ID,ID,...`"
        model = converse(lambda client: client.describe_model("crossing"), crossing=at_crossing)
        require_movielens_model(model, f"say what to rank: {own}")
        movielens = load_movielens(data)
        actions = find_user(movielens, user, f"so say what to rank: {own}")
        candidates = unseen_items(movielens, actions.item_ids)
        titles, request_time_s = movielens.titles, int(actions.times_s[-1])

        async def load_history(_: str) -> Actions:
            return whole_history(actions)

    async def talk(client: RankingClient) -> Scores:
        return await client.score(
            user,
            candidates,
            request_time_s=request_time_s,
        )

    reply = converse(
        talk,
        context=find_address("context", context) if load_history else None,
        crossing=at_crossing,
        load_history=load_history,
    )
    by = by or next(iter(reply.by_task))
    if by not in reply.by_task:
        raise CommandError(f"--by {by}: no task of the model; take {' or '.join(reply.by_task)}")
    console = Console()
    shown = min(top, len(candidates))
    console.print(
        f"[bold]user {escape(user)}: {shown} of {counted(len(candidates), 'candidate')} "
        f"by {escape(by)}",
        highlight=False,
    )
    console.print(_table(candidates, titles, reply, by, top))
    console.print(
        f"on {counted(reply.history_tokens, 'action')}"
        + (", encoded just now" if reply.encoded else "")
        + (
            f"; {counted(reply.unknown_items, 'item')} unknown to the model"
            if reply.unknown_items
            else ""
        ),
        highlight=False,
    )
    if titles and by == _TASK_BY_POPULARITY:
        console.print(_RARE_FILMS, highlight=False)


def _item_ids(text: str) -> NDArray[np.uint64]:
    try:
        return np.array([int(item) for item in text.split(",")], np.uint64)
    except (ValueError, OverflowError) as error:
        raise CommandError(f"--items {text}: give unsigned 64-bit ids as ID,ID,...") from error


def _table(
    candidates: NDArray[np.uint64],
    titles: dict[int, str],
    reply: Scores,
    by: str,
    top: int,
) -> Table:
    table = Table(expand=False)
    for name in ("", "item"):
        table.add_column(name, justify="right", style="dim")
    if titles:
        table.add_column("title")
    for task in reply.by_task:
        table.add_column(task, justify="right", style="bold" if task == by else "")
    order = np.argsort(-reply.by_task[by], kind="stable")[:top]
    for number, at in enumerate(order, start=1):
        item = int(candidates[at])
        scores = [f"{scores[at]:.3f}" for scores in reply.by_task.values()]
        table.add_row(str(number), str(item), *([titles[item]] if titles else []), *scores)
    return table
