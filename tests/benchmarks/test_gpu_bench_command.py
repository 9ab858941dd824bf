"""`crosskv bench kernels` and `passes`: what they print and write of a record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import benchmarks.gpu_record
import benchmarks.kernels
import benchmarks.passes
from cli.main import app
from tests.benchmarks.gpu_records import KERNELS, PASSES

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
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["bench", name])
    assert result.exit_code == (1 if name == "kernels" else 0)
    assert asked == [("", None)]
    assert json.loads((tmp_path / "h200" / f"{name}.json").read_text()) == RECORDS[name]
    assert "NVIDIA H200, driver 580.1" in result.output
    shown = {
        "kernels": ("40.5", "151.0 sdpa_cudnn", "176.0", "aim 3.73 times faster", "missed 0.55"),
        "passes": ("5,000.0", "W3 lifelong", "must 1.50 times faster than DCAT", "900,000.0"),
    }
    for text in shown[name]:
        assert text in result.output


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
