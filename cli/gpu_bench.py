"""`crosskv bench kernels` and `passes`: ours on the GPU, against what torch offers."""

from __future__ import annotations

import json
import re
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


VERDICTS = {
    "missed": "[red]MISSED[/]",
    "not measured": "no time",
    "must": "[green]met[/]",
    "aim": "[green]aim[/]",
    "stated": "",
}
"""By what a goal reached, the worst first."""
SHORT = {"flash_attention_3": "fa3", "gather_concat": "gather", "_padded": "", "_copy": ""}
"""What to write for parts of anchors' names."""
COLUMNS = 100
"""What the tables need; a terminal of fewer breaks their lines, a file does not."""


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
    _finish(record, kernel_table, kernel_notes, wrong, as_json=as_json, out=out, partly=bool(only))


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
        if who == "baselines"
        or _contender(who) in set(workload["contenders"]) - set(workload["ours"])
    ]
    _finish(record, pass_table, pass_notes, wrong, as_json=as_json, out=out, partly=bool(only))


def kernel_table(record: dict[str, Any]) -> Table:
    """A line a case; of several bounds, the one that is kept least."""
    columns = ("case", "ours us", "best us", "", "ratio", "must", "verdict", "floor us")
    table = _narrow_table(columns, left=("case", ""))
    op = ""
    for row in record["rows"]:
        if row["op"] != op:
            op = row["op"]
            table.add_row(f"[bold]{op}[/]")
        name, best = min(row["anchors_us"].items(), key=lambda item: item[1], default=("", None))
        table.add_row(
            _short_case(row["case"]),
            _number(row["ours_us"]),
            _number(best),
            _short_anchor(name),
            *_judged(row.get("goals", []), row["ours_us"] and best and row["ours_us"] / best),
            _number(max(row.get("floor_us", {}).values(), default=None)),
        )
    return table


def pass_table(record: dict[str, Any]) -> Table:
    """A line a workload and way of ours; times in us, then how many times faster ours is."""
    columns = ("", "entries", "context", "crossing", "dense", "dense", "/each", "/cross", "/both")
    table = _narrow_table((*columns, "verdict"), left=("", "entries"))
    for workload in record["workloads"]:
        dense = workload["dcat_dense"]
        for name, ours in workload["ours"].items():
            table.add_row(
                workload["name"],
                name,
                *(_number(ours[it]) for it in ("context_us", "crossing_us")),
                *(_number(dense[it]) for it in ("context_us", "crossing_us")),
                *(_number(goal["value"], 2) for goal in ours["goals"]),
                _judged(ours["goals"], None)[-1],
            )
    return table


def kernel_notes(record: dict[str, Any]) -> Iterator[str]:
    """Below the table: every bound that is missed."""
    for row in record["rows"]:
        yield from _missed(f"{row['op']}: {row['case']}", row.get("goals", []))


def pass_notes(record: dict[str, Any]) -> Iterator[str]:
    """Below the table: what its columns are, and every bound that is missed."""
    yield (
        "dense: DCAT with dense K and V, context and crossing; /each, /cross, /both: times faster "
        "than each candidate by itself, than dense DCAT's crossing pass, than both its passes"
    )
    for workload in record["workloads"]:
        for name, ours in workload["ours"].items():
            yield from _missed(f"{workload['name']}, {name}", ours["goals"])


def _narrow_table(columns: tuple[str, ...], left: tuple[str, ...]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    return table


def _short_case(case: str) -> str:
    """`B 8, C 512` as `B8 C512`."""
    return re.sub(r"\b([A-Z]\w*|d) (?=\d)", r"\1", case).replace(", ", " ")


def _short_anchor(name: str) -> str:
    for long, short in SHORT.items():
        name = name.replace(long, short)
    return name


def _judged(goals: list[dict[str, Any]], otherwise: float | None) -> tuple[str, str, str]:
    """Figure, bound and verdict of the goal that is kept least; the first one of equals."""
    if not goals:
        return _number(otherwise, 2), "", ""
    goal = min(goals, key=lambda goal: list(VERDICTS).index(goal["reached"]))
    sign = ">=" if goal["at_least"] else "<="
    must = "" if goal["must"] is None else f"{sign}{goal['must']:g}"
    return _number(goal["value"], 2), must, VERDICTS[goal["reached"]]


def _missed(what: str, goals: list[dict[str, Any]]) -> Iterator[str]:
    for goal in goals:
        if goal["reached"] == "missed":
            yield (
                f"[red]MISSED[/] {what}: {_number(goal['value'], 2)} {goal['text']}, "
                f"must {goal['must']:g}"
            )


def _contender(who: str) -> str:
    """Of "coded" and of "coded, crossing": coded."""
    return who.partition(",")[0]


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
    notes: Callable[[dict[str, Any]], Iterator[str]],
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
        console = Console(width=max(COLUMNS, Console().width))
        console.print(f"{record['gpu']}, driver {record['driver']}", highlight=False)
        console.print(table(record))
        for note in notes(record):
            console.print(note, highlight=False)
        if out is not None:
            console.print(f"{out} written", highlight=False)
    if wrong:
        raise CommandError("not timed, because wrong or failing: " + "; ".join(wrong))
