"""`crosskv bench kernels` and `passes`: what they print and write of a record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import benchmarks.gpu_record
import benchmarks.kernels
import benchmarks.passes
from cli import gpu_bench
from cli.main import app
from tests.benchmarks.gpu_records import KERNELS, PASSES, goal

RECORDS = {"kernels": KERNELS, "passes": PASSES}


@pytest.fixture(params=RECORDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """A GPU that isn't there; each benchmark yields the sample record."""
    calls: list[Any] = []

    def measure(record: dict[str, Any]) -> Any:
        return lambda *arguments: calls.append(arguments) or record

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(benchmarks.gpu_record, "_RESULTS", tmp_path)
    monkeypatch.setattr(benchmarks.kernels, "bench_kernels", measure(KERNELS))
    monkeypatch.setattr(benchmarks.passes, "bench_passes", measure(PASSES))
    return calls


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(name: str) -> None:
    result = CliRunner().invoke(app, ["bench", name])
    assert result.exit_code == 1
    assert "needs an NVIDIA GPU" in result.output
    assert "Traceback" not in result.output


def test_the_table_and_the_file(name: str, asked: list[Any], tmp_path: Path) -> None:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["bench", name])
    assert result.exit_code == (1 if name == "kernels" else 0)
    assert asked == [("", None)]
    assert json.loads((tmp_path / "h200" / f"{name}.json").read_text()) == RECORDS[name]
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "NVIDIA H200, driver 580.1" in lines
    shown = {
        "kernels": (
            "coded B8 T16384 40.5 151.0 sdpa_cudnn 1.07 <=1.15 met 12.0",
            "T16384 320.0 900.0 torch 0.55 >=0.6 MISSED 176.0",
            "G4 - - - -",
            "MISSED pool_router: T 16384: 0.55 share of the matrix-product rate, must 0.6",
        ),
        "passes": (
            "W3 collective 5,000.0 500.0 9,000.0 750.0 163.60 1.50 1.77 met",
            "W3 coded compiled 4,000.0 700.0 9,000.0 750.0 191.49 1.07 2.07 MISSED",
            "MISSED W3, coded compiled: 1.07 times faster than DCAT dense, crossing pass, must 1.3",
        ),
    }
    for text in shown[name]:
        assert text in lines


def test_all_cases_fit_in_a_hundred_columns() -> None:
    goals = [goal("times faster", 123.45, "missed", must=12.5)]
    rows = [
        {
            "op": case.op,
            "case": case.name,
            "ours_us": 98765.4,
            "anchors_us": {"flash_attention_3_varlen": 98765.4},
            "floor_us": {"flops": 1234.5},
            "goals": goals,
        }
        for case in benchmarks.kernels.all_cases()
    ]
    console = Console(width=gpu_bench.COLUMNS)
    with console.capture() as capture:
        console.print(gpu_bench.kernel_table({"rows": rows}))
    lines = capture.get().splitlines()
    assert len(lines) == 1 + len(rows) + len({row["op"] for row in rows})
    assert "…" not in capture.get()


def test_a_wrong_kernel_is_named_and_fails(asked: list[Any]) -> None:
    result = CliRunner().invoke(app, ["bench", "kernels"])
    assert result.exit_code == 1
    assert "kv_expand, G 4: relative error 1.0" in result.output


def test_json_goes_to_standard_output(name: str, asked: list[Any], tmp_path: Path) -> None:
    arguments = ["bench", name, "--json", "--only", "W3", "--commit", "abc"]
    result = CliRunner().invoke(app, arguments)
    assert asked == [("W3", "abc")]
    assert json.loads(result.stdout) == RECORDS[name]
    assert list(tmp_path.iterdir()) == []
    out = tmp_path / "deep" / "record.json"
    CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert json.loads(out.read_text()) == RECORDS[name]
