"""`crosskv encode`, `inspect` and `delete`: one user's stored entry."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.addresses import find_address
from cli.counted import counted
from cli.history_file import read_actions
from cli.movielens_user import Data, find_user, require_movielens_model, whole_history
from cli.program import program
from cli.session import ContextAddress, User, converse

if TYPE_CHECKING:
    from ranking_client import ContextDescription, ModelDescription, RankingClient, Receipt


def encode(
    user: User,
    actions: Annotated[
        Path | None,
        typer.Option(
            help="CSV or JSON file of the user's actions, as told above; left out: MovieLens."
        ),
    ] = None,
    data: Data = None,
    context: ContextAddress = None,
) -> None:
    """Encode a user's whole history and publish it to the store.

    The file of --actions is a .csv with a header, or otherwise JSON, a list of objects. One row or
    object is one action, oldest first:

    * `item_id`: whole number from 0 to 2^64 - 1

    * `action`: name of one of the model's action types; for the demo's model the rating, 1 to 5

    * `time_s`: when, in whole SECONDS since 1970 (not milliseconds)

    * `surface`: name of one of the model's surfaces; left out: its first

    Examples:

        crosskv encode --user 42

        crosskv encode --user anna --actions anna.csv
    """

    async def talk(client: RankingClient) -> Receipt:
        model = await client.describe_model("context")
        if actions is not None:
            history = read_actions(actions, model)
        else:
            from training.movielens import load_movielens  # noqa: PLC0415  --help starts fast

            own = f"`{program()} encode --user {user} --actions FILE`"
            require_movielens_model(model, f"give the user's own actions: {own}")
            way_out = f"so say what to encode: {own}"
            history = whole_history(find_user(load_movielens(data), user, way_out))
        return await client.encode(user, history)

    receipt = converse(talk, context=find_address("context", context))
    table = _facts()
    table.add_row("published", "yes" if receipt.published else "no: the store has a newer history")
    table.add_row("actions", f"{receipt.tokens:,}")
    table.add_row("dropped, oldest first", f"{receipt.dropped_actions:,}")
    table.add_row("of items unknown to the model", f"{receipt.unknown_items:,}")
    table.add_row("history version", str(receipt.history_version))
    table.add_row("stored", f"{receipt.stored_bytes:,} bytes")
    _show(user, table)


def inspect(
    user: User,
    context: ContextAddress = None,
) -> None:
    """Show a user's stored entry: version, size beside dense, pool rows used, age.

    Example:

        crosskv inspect --user 42
    """

    async def talk(client: RankingClient) -> tuple[ContextDescription, ModelDescription]:
        return await client.describe(user), await client.describe_model("context")

    entry, model = converse(talk, context=find_address("context", context))
    table = _facts()
    table.add_row("model", entry.model_fingerprint)
    table.add_row("history version", str(entry.history_version))
    # What is stored is whole pages.
    is_short = entry.tokens < json.loads(model.config_json)["page_tokens"]
    short = " (short history: header and page padding)" if is_short else ""
    table.add_row("tokens", f"{entry.tokens:,}")
    table.add_row(
        "stored",
        f"{entry.stored_bytes:,} bytes, {entry.stored_bytes / entry.dense_bytes:.2%} of "
        f"{entry.dense_bytes:,} as dense bf16{short}",
    )
    layers = zip(entry.key_rows_used, entry.value_rows_used, strict=True)
    for number, (keys, values) in enumerate(layers, start=1):
        table.add_row(
            f"pool rows used, layer {number}",
            f"{keys:,} by keys, {values:,} by values, of {entry.pool_rows:,}",
        )
    table.add_row("newest action", _utc(entry.last_event_time_s))
    created_s = entry.created_ms / 1e3
    table.add_row("encoded", f"{_utc(created_s)}, {time.time() - created_s:,.0f} s ago")
    _show(user, table)


def delete(
    user: User,
    context: ContextAddress = None,
) -> None:
    """Delete everything stored of a user, under every model.

    Example:

        crosskv delete --user 42
    """

    async def talk(client: RankingClient) -> int:
        return await client.delete(user)

    deleted = converse(talk, context=find_address("context", context))
    Console().print(f"user {user}: {counted(deleted, 'entry', 'entries')} deleted", markup=False)


def _show(user: str, table: Table) -> None:
    console = Console()
    console.print(f"[bold]user {escape(user)}", highlight=False)
    console.print(table)


def _facts() -> Table:
    table = Table(show_header=False, expand=False)
    table.add_column(style="dim")
    table.add_column()
    return table


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
