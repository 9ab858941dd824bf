"""`crosskv bench`: what Python costs around the model; with a GPU, what the passes cost on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.gpu_bench import kernels, passes

RESULTS = Path("benchmarks/results/cpu")

bench = typer.Typer(
    no_args_is_help=True,
    help="Measure what Python costs around the model, and what the passes cost on a GPU.",
)
bench.command()(kernels)
bench.command()(passes)

Out = Annotated[Path, typer.Option(help="JSON file the record is written to.")]


@bench.command()
def rpc(out: Out = RESULTS / "rpc.json") -> None:
    """Requests a second of ScoreCandidates with scoring stubbed, beside a bare grpc.aio echo.

    Example:

        crosskv bench rpc --out runs/rpc.json
    """
    from benchmarks.rpc import bench_rpc  # noqa: PLC0415  imports torch

    record = bench_rpc(out)
    title = (
        f"{record['candidates']} candidates, {record['concurrency']} requests in flight: "
        f"{record['request_bytes']:,} bytes in, {record['reply_bytes']:,} out"
    )
    table = Table(expand=False)
    table.add_column("server")
    for name in ("median of the rounds", "rounds"):
        table.add_column(name, justify="right")
    for name, median in record["median_requests_per_s"].items():
        rounds = ", ".join(f"{rate:,}" for rate in record["requests_per_s"][name])
        table.add_row(name, f"{median:,} requests/s", rounds)
    ratio = f"ratio {record['ratio']:.2f}, target at least {record['target_ratio']:.2f}"
    _show(title, table, ratio, out)


@bench.command()
def codec(out: Out = RESULTS / "codec.json") -> None:
    """Time to verify and view a stored entry, and to parse a long EncodeContext request.

    Example:

        crosskv bench codec --out runs/codec.json
    """
    from benchmarks.codec import bench_codec  # noqa: PLC0415  imports torch

    record = bench_codec(out)
    title = f"{record['tokens']:,} tokens, {record['layers']} layers, {record['runs']:,} runs"
    table = Table(expand=False)
    table.add_column("what")
    for name in ("bytes", "median", "90th percentile", "target"):
        table.add_column(name, justify="right")
    for row in record["times"]:
        times = [f"{row[key]:.3f} ms" for key in ("median_ms", "p90_ms", "target_ms")]
        table.add_row(row["what"], f"{row['bytes']:,}", *times)
    sizes = [
        f"{row['model']} {row['form']}, {row['tokens']:,} tokens: {row['percent_of_dense']:g} %"
        for row in record["sizes"]
    ]
    _show(title, table, "stored, of dense bf16:\n  " + "\n  ".join(sizes), out)


def _show(title: str, table: Table, below: str, out: Path) -> None:
    console = Console()
    console.print(title, highlight=False)
    console.print(table)
    console.print(f"{below}\n{out} written", highlight=False)
