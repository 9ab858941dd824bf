"""`crosskv bench kernels` and `passes`: ours on the GPU, against what torch offers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.failure import CommandError

Json = Annotated[
    bool, typer.Option("--json", help="Print the record to standard output instead of a table.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="JSON file the record is written to; by default, unless --only is given, in the "
        "folder of benchmarks/results that is named after the GPU."
    ),
]
Only = Annotated[str, typer.Option(help="Measure only what has this in its name.")]
Commit = Annotated[
    str | None,
    typer.Option(help="Commit that is measured, where the code lies outside a git checkout."),
]


def kernels(as_json: Json = False, out: Out = None, only: Only = "", commit: Commit = None) -> None:
    """Time every op on the GPU against SDPA, FlashAttention-3 and torch's own way.

    Example:

        crosskv bench kernels --out runs/kernels.json
    """
    _require_gpu()
    from benchmarks.kernels import bench_kernels  # noqa: PLC0415  imports torch

    record = bench_kernels(only, commit)
    wrong = [
        f"{row['op']}, {row['case']}: {row['problems']['ours']}"
        for row in record["rows"]
        if row["ours_us"] is None
    ]
    _finish(record, kernel_table, wrong, as_json=as_json, out=out, partly=bool(only))


def passes(as_json: Json = False, out: Out = None, only: Only = "", commit: Commit = None) -> None:
    """Time both whole passes against the same transformer as torch would run it.

    Example:

        crosskv bench passes --only W3 --out runs/passes.json
    """
    _require_gpu()
    from benchmarks.passes import bench_passes  # noqa: PLC0415  imports torch

    record = bench_passes(only, commit)
    wrong = [
        f"{workload['name']}, {who}: {problem}"
        for workload in record["workloads"]
        for who, problem in workload["problems"].items()
        if who == "baselines" or _form(who) in set(workload["forms"]) - set(workload["ours"])
    ]
    _finish(record, pass_table, wrong, as_json=as_json, out=out, partly=bool(only))


def kernel_table(record: dict[str, Any]) -> Table:
    """A row a case, ops apart: ours, the fastest anchor, the floor, what was reached."""
    table = Table(expand=False)
    table.add_column("case")
    for name in ("ours us", "fastest anchor us", "floor us"):
        table.add_column(name, justify="right")
    table.add_column("reached")
    op = ""
    for row in record["rows"]:
        if row["op"] != op:
            op = row["op"]
            table.add_section()
            table.add_row(f"[bold]{op}[/]")
        name, best = min(row["anchors_us"].items(), key=lambda item: item[1], default=("", None))
        table.add_row(
            row["case"],
            _number(row["ours_us"]),
            f"{_number(best)} {name}".strip(),
            _number(max(row.get("floor_us", {}).values(), default=None)),
            "\n".join(_goals(row.get("goals", []))),
        )
    return table


def pass_table(record: dict[str, Any]) -> Table:
    """One line a workload and form of entries."""
    table = Table(expand=False)
    for name in ("workload", "entries"):
        table.add_column(name)
    for name in ("context us", "crossing us", "dense context", "dense crossing", "each candidate"):
        table.add_column(name, justify="right")
    table.add_column("reached")
    for workload in record["workloads"]:
        dense, each = workload["dcat_dense"], workload["each_candidate"]
        for form, ours in workload["ours"].items():
            table.add_row(
                f"{workload['name']} {workload['about']}",
                form,
                _number(ours["context_us"]),
                _number(ours["crossing_us"]),
                _number(dense["context_us"]),
                _number(dense["crossing_us"]),
                _number(each["us"]),
                "\n".join(_goals(ours["goals"])),
            )
    return table


def _goals(goals: list[dict[str, Any]]) -> Iterator[str]:
    colours = {"aim": "green", "must": "green", "missed": "red"}
    for goal in goals:
        colour = colours.get(goal["reached"], "default")
        wanted = "" if goal["must"] is None else f" (must {goal['must']:g})"
        yield f"[{colour}]{goal['reached']}[/] {_number(goal['value'], 2)} {goal['text']}{wanted}"


def _form(contender: str) -> str:
    """Of "coded" and of "coded, crossing": coded."""
    return contender.partition(",")[0]


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _require_gpu() -> None:
    import torch  # noqa: PLC0415  --help must not wait for it

    if not torch.cuda.is_available():
        raise CommandError(
            "this benchmark needs an NVIDIA GPU and a torch built for CUDA, neither of which torch "
            "sees here; run it on such a machine, `crosskv bench codec` and `rpc` run on any"
        )


def _finish(
    record: dict[str, Any],
    table: Callable[[dict[str, Any]], Table],
    wrong: list[str],
    *,
    as_json: bool,
    out: Path | None,
    partly: bool,
) -> None:
    from benchmarks.gpu_record import results_file, write_record  # noqa: PLC0415  imports torch

    if out is None and not partly:
        out = results_file(record["benchmark"])
    if out is not None:
        write_record(record, out)
    if as_json:
        typer.echo(json.dumps(record, indent=2))
    else:
        console = Console()
        console.print(f"{record['gpu']}, driver {record['driver']}", highlight=False)
        console.print(table(record))
        if out is not None:
            console.print(f"{out} written", highlight=False)
    if wrong:
        raise CommandError("not timed, because wrong or failing: " + "; ".join(wrong))
