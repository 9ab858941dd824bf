"""One command's conversation with a running stack."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cli.failure import CommandError
from cli.program import program

if TYPE_CHECKING:
    from ranking_client import LoadHistory, RankingClient

_TIMEOUT_S = 10.0  # a command line may wait longer than an orchestrator

Reply = TypeVar("Reply")

User = Annotated[str, typer.Option(help="User id.")]
ContextAddress = Annotated[
    str | None,
    typer.Option("--context", help="HOST:PORT of the context service; left out: of `crosskv up`."),
]
CrossingAddress = Annotated[
    str | None,
    typer.Option(
        "--crossing", help="HOST:PORT of the crossing service; left out: of `crosskv up`."
    ),
]


def converse(
    talk: Callable[[RankingClient], Awaitable[Reply]],
    *,
    context: str | None = None,
    crossing: str | None = None,
    load_history: LoadHistory | None = None,
) -> Reply:
    """What `talk` returns, given a client of the services at these addresses.

    Args:
        talk: makes the calls.
        context: host:port of the context service; None: `talk` does not call it.
        crossing: host:port of the crossing service, likewise.
        load_history: where the client gets a history that has not been encoded yet.

    Raises:
        CommandError: a service does not answer, or nothing is stored.
    """
    from ranking_client import RankingClient, ServiceUnavailableError  # noqa: PLC0415  gRPC
    from shared.errors import KVMissError  # noqa: PLC0415

    used = [address for address in (context, crossing) if address]

    async def run() -> Reply:
        # The client wants both; it sends nothing to the one that `talk` does not call.
        async with RankingClient(
            [context] if context else used,
            [crossing] if crossing else used,
            timeout_s=_TIMEOUT_S,
            load_history=load_history,
        ) as client:
            return await talk(client)

    try:
        return asyncio.run(run())
    except KVMissError as error:
        raise CommandError(
            f"nothing usable is stored for user {error.user!r} ({error.cause}); encode a history "
            f"first: `{program()} encode --user {error.user}`, with --actions FILE for one of "
            "your own"
        ) from error
    except ServiceUnavailableError as error:
        raise CommandError(
            f"{error}; is `{program()} up` still running, and is it at {' and '.join(used)}?"
        ) from error
