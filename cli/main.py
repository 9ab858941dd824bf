"""The `crosskv` command: what it can do, each part in a file of its own.

Nothing here imports torch: every command imports what it needs when it runs, so --help is fast.
"""

from __future__ import annotations

import typer

from cli.bench import bench
from cli.demo.command import demo
from cli.entry import delete, encode, inspect
from cli.failure import ForeseenErrors
from cli.learning import evaluate, train
from cli.ranking import rank
from cli.settings_reference import settings
from cli.up import up

app = typer.Typer(
    cls=ForeseenErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Rank candidates against one shared, compressed KV entry per user.\n\n"
    "Start with `crosskv demo`; or `crosskv up`, and in another terminal "
    "`crosskv rank --user 42 --top 10`.",
)
for panel, commands in {
    "Serve": (up, demo, settings),
    "Ask the running stack": (encode, rank, inspect, delete),
    "Learn and measure": (train, evaluate),
}.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(bench, name="bench", rich_help_panel="Learn and measure")
