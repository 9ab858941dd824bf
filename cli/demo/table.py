"""The demo's figures as a table in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from cli.counted import counted
from cli.demo.charts import kilobytes
from cli.demo.summary import Summary


def print_summary(summary: Summary, concurrency: int, console: Console) -> None:
    """Print quality through the services beside offline, then sizes, latencies and rates."""
    console.print("[bold]Ranking quality: through the services, and offline")
    quality = Table()
    quality.add_column("task")
    for name in ("AUC", "offline", "GAUC", "offline"):
        quality.add_column(name, justify="right", style="dim" if name == "offline" else "")
    for task, figures in summary.tasks.items():
        numbers = (figures.auc, figures.offline_auc, figures.gauc, figures.offline_gauc)
        quality.add_row(task, *(f"{number:.5f}" for number in numbers))
    console.print(quality)

    console.print(
        f"[bold]Latency: {counted(concurrency, 'request')} in flight, everything on this machine",
        highlight=False,
    )
    costs = Table()
    costs.add_column("")
    costs.add_column("p50", justify="right")
    costs.add_column("p99", justify="right")
    for name, p50, p99 in (
        ("encode a history", summary.encode_ms_p50, summary.encode_ms_p99),
        ("score a candidate list", summary.score_ms_p50, summary.score_ms_p99),
    ):
        costs.add_row(name, f"{p50:.1f} ms", f"{p99:.1f} ms")
    console.print(costs)
    stored, dense = summary.stored_bytes_per_user, summary.dense_bytes_per_user
    console.print(
        f"{counted(summary.users, 'user')}, {counted(summary.candidates, 'candidate')}, "
        f"{summary.requests:,} requests: {summary.requests_per_s:,.0f} requests/s, encodes and "
        "scores together\n"
        f"stored: {kilobytes(stored)} a user on average, dense bf16 {kilobytes(dense)}: "
        f"{100 * stored / dense:.2f} % of all bytes",
        highlight=False,
        soft_wrap=True,
    )
