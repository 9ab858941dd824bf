"""`crosskv train` and `crosskv evaluate`: the demo's checkpoint and what it is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.checkpoint import DEFAULT_CHECKPOINT, require_checkpoint
from cli.counted import counted
from cli.movielens_user import Data, require_movielens_model
from cli.program import program

OFFLINE_THREADS = 1  # several on busy cores spin on each other and take many times as long


def train(
    data: Data = None,
    out: Annotated[
        Path, typer.Option(help="Directory for the checkpoint and metrics.json.")
    ] = DEFAULT_CHECKPOINT,
    seeds: Annotated[
        int, typer.Option(min=2, help="Runs of each variant; one has no deviation.")
    ] = 3,
) -> None:
    """Train the model and those it is compared with on MovieLens; write the checkpoint.

    Examples:

        crosskv train

        crosskv train --seeds 2 --out runs/mine
    """
    from training.study import run_study  # noqa: PLC0415  --help starts fast

    run_study(data, out, seeds)


def evaluate(
    checkpoint: Annotated[
        Path, typer.Option(help="Directory of the checkpoint to evaluate.")
    ] = DEFAULT_CHECKPOINT,
    data: Data = None,
) -> None:
    """Evaluate a checkpoint in this process on every user's held-out part.

    Examples:

        crosskv evaluate

        crosskv evaluate --checkpoint runs/mine
    """
    require_checkpoint(checkpoint)
    import torch  # noqa: PLC0415  --help starts fast

    from shared.model.checkpoint import load_checkpoint  # noqa: PLC0415
    from training.cases import CaseSampler  # noqa: PLC0415
    from training.evaluation import evaluate as evaluate_offline  # noqa: PLC0415
    from training.movielens import load_movielens  # noqa: PLC0415

    loaded = load_checkpoint(checkpoint)
    require_movielens_model(
        loaded.config,
        "evaluate measures on MovieLens alone. To rank with this model: "
        f"`{program()} up --checkpoint {checkpoint}`, then "
        f"`{program()} encode --user ID --actions FILE` and "
        f"`{program()} rank --user ID --items ID,ID,...`",
    )
    cases = CaseSampler(load_movielens(data)).test_cases()
    console = Console()
    torch.set_num_threads(OFFLINE_THREADS)
    with console.status(f"scoring {counted(len(cases), 'user')}"):
        metrics = evaluate_offline(loaded, cases)
    users = counted(len(cases), "user")
    console.print(f"{checkpoint}: {users}, held-out part", highlight=False, markup=False)
    table = Table(expand=False)
    for name in ("task", "AUC", "GAUC", "LogLoss"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for task, figures in metrics.items():
        table.add_row(task, f"{figures.auc:.4f}", f"{figures.gauc:.4f}", f"{figures.log_loss:.4f}")
    console.print(table)
