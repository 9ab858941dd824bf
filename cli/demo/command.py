"""`crosskv demo`: start everything, replay MovieLens, compare with offline, tell it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.checkpoint import DEFAULT_CHECKPOINT, require_checkpoint
from cli.learning import OFFLINE_THREADS
from cli.movielens_user import Data, require_movielens_model
from cli.program import program
from cli.stack import LocalStack

if TYPE_CHECKING:
    from cli.addresses import Addresses
    from cli.demo.replay import Replay
    from training.cases import RankingCase

_WATCH_S = 0.2
_CALL_TIMEOUT_S = 30.0  # a measurement waits; an orchestrator would not


def demo(
    data: Data = None,
    users: Annotated[int, typer.Option(min=1, help="Users to replay, at most.")] = 300,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 4,
    checkpoint: Annotated[
        Path, typer.Option(help="Directory of the checkpoint to serve.")
    ] = DEFAULT_CHECKPOINT,
    out: Annotated[
        Path, typer.Option(help="Directory for summary.json, report.html and logs/.")
    ] = Path("runs/demo"),
) -> None:
    """Rank real users end to end: MovieLens through a store and two services, on this machine.

    Starts a Valkey server, the context service and the crossing service, replays users through the
    client, checks the ranking against the offline evaluation, and stops everything again.

    Examples:

        crosskv demo

        crosskv demo --users 50 --data ~/ml-100k --out runs/small
    """
    began = time.perf_counter()
    console = Console()
    require_checkpoint(checkpoint)
    # Imported only now: a missing checkpoint is told at once, and so is --help.
    import torch  # noqa: PLC0415

    from cli.demo.facts import gather_facts  # noqa: PLC0415
    from cli.demo.report import ReportInput, render_report  # noqa: PLC0415
    from cli.demo.story import make_story, tell_story, typical_case  # noqa: PLC0415
    from cli.demo.study import read_study  # noqa: PLC0415
    from cli.demo.summary import require_equal_quality, require_measurable, summarise  # noqa: PLC0415
    from cli.demo.table import print_summary  # noqa: PLC0415
    from shared.model.checkpoint import load_checkpoint  # noqa: PLC0415
    from training.cases import CaseSampler  # noqa: PLC0415
    from training.evaluation import offline_scores, task_metrics  # noqa: PLC0415
    from training.movielens import load_movielens  # noqa: PLC0415

    loaded = load_checkpoint(checkpoint)
    require_movielens_model(
        loaded.config,
        "the demo replays MovieLens alone. To rank with this model: "
        f"`{program()} up --checkpoint {checkpoint}`, then "
        f"`{program()} encode --user ID --actions FILE` and "
        f"`{program()} rank --user ID --items ID,ID,...`",
    )
    movielens = load_movielens(data)
    cases = CaseSampler(movielens).test_cases()[:users]
    require_measurable(cases)
    with LocalStack(checkpoint, out / "logs", console) as stack:
        at = stack.addresses
        console.print(
            f"context service   {at.context}\n"
            f"crossing service  {at.crossing}\n"
            f"store             {at.store}",
            highlight=False,
        )
        try:
            replayed = asyncio.run(_while_running(stack, _replay(at, cases, concurrency, console)))
        except Exception:
            stack.check()  # if a process has died, that is the cause
            raise
        wall_s = time.perf_counter() - began
    torch.set_num_threads(OFFLINE_THREADS)
    with console.status("scoring the same cases in this process"):
        offline = task_metrics(cases, offline_scores(loaded, cases))
    dense_bytes = replayed.tokens * loaded.config.dense_bytes_per_token
    summary = summarise(
        replayed,
        dense_bytes=dense_bytes,
        candidates=sum(len(case.candidate_ids) for case in cases),
        served=task_metrics(cases, replayed.scores),
        offline=offline,
        wall_s=wall_s,
    )
    told = typical_case(cases, replayed.scores)
    story = make_story(movielens, cases[told], replayed.scores[told])
    summary.write(out / "summary.json")
    page = render_report(
        ReportInput(
            summary=summary,
            story=story,
            stored_share=replayed.stored_bytes / dense_bytes,
            encode_ms=replayed.encode_ms,
            score_ms=replayed.score_ms,
            study=read_study(checkpoint, loaded.fingerprint),
            concurrency=concurrency,
            facts=gather_facts(loaded, checkpoint),
        )
    )
    (out / "report.html").write_text(page, "utf-8")
    tell_story(story, console)
    print_summary(summary, concurrency, console)
    require_equal_quality(summary.tasks)
    console.print(
        f"\n{out / 'summary.json'} and {out / 'report.html'} written",
        highlight=False,
        soft_wrap=True,
    )


async def _while_running(stack: LocalStack, work: Coroutine[Any, Any, Replay]) -> Replay:
    """What `work` returns; a process that dies ends it at once, not at the calls' time-out."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=_WATCH_S))[0]:
            stack.check()
    finally:
        task.cancel()
    return task.result()


async def _replay(
    addresses: Addresses, cases: Sequence[RankingCase], concurrency: int, console: Console
) -> Replay:
    from cli.demo.replay import replay  # noqa: PLC0415  --help starts fast
    from ranking_client import RankingClient  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    async with RankingClient(
        [addresses.context], [addresses.crossing], timeout_s=_CALL_TIMEOUT_S
    ) as client:
        with Progress(*columns, console=console) as progress:
            return await replay(client, cases, concurrency, progress)
