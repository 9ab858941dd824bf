"""`crosskv up`: the local stack, until Ctrl-C."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.panel import Panel

from cli.addresses import announced, require_no_stack
from cli.checkpoint import DEFAULT_CHECKPOINT
from cli.ports import WantedPorts
from cli.program import program
from cli.stack import LocalStack

LOGS = Path("runs/up")
_WATCH_S = 0.5

Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Port; left out: a free one.")]


def up(
    checkpoint: Annotated[
        Path, typer.Option(help="Directory of the checkpoint to serve.")
    ] = DEFAULT_CHECKPOINT,
    context_port: Port = None,
    crossing_port: Port = None,
    store_port: Port = None,
) -> None:
    """Start a Valkey server and both services, and keep them running until Ctrl-C.

    Logs go to runs/up/; runs/up.json tells the other commands where the services listen.

    Examples:

        crosskv up

        crosskv up --checkpoint runs/mine --context-port 50051 --crossing-port 50052
    """
    require_no_stack()
    console = Console()
    ports = WantedPorts(context_port, crossing_port, store_port)
    with LocalStack(checkpoint, LOGS, console, ports) as stack:
        try:
            at = stack.addresses
            console.print(
                Panel(
                    f"context service   {at.context}, {at.context_metrics}\n"
                    f"crossing service  {at.crossing}, {at.crossing_metrics}\n"
                    f"store             {at.store}\n"
                    f"checkpoint        {checkpoint}\n\n"
                    "[bold]In another terminal, in this directory:[/]\n"
                    f"  {program()} encode --user 42\n"
                    f"  {program()} rank --user 42 --top 10\n"
                    f"  {program()} inspect --user 42\n"
                    "With a model of your own: encode --user NAME --actions FILE, "
                    "rank --user NAME --items ID,ID\n\n"
                    "Ctrl-C stops all three.",
                    title="CrossKV is up",
                    expand=False,
                ),
                highlight=False,
            )
            with announced(stack.addresses):
                while True:
                    stack.check()
                    time.sleep(_WATCH_S)
        except KeyboardInterrupt:
            console.print("stopping")
    console.print("stopped")
