from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import benchmarks.codec
import benchmarks.rpc
import training.study
from cli.main import app
from shared.model.checkpoint import load_checkpoint
from training.cases import CaseSampler
from training.evaluation import evaluate
from training.movielens import load_movielens


def test_evaluate_shows_the_offline_metrics(
    runner: CliRunner, checkpoint: Path, movielens: Path
) -> None:
    arguments = ["evaluate", "--checkpoint", str(checkpoint), "--data", str(movielens)]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    cases = CaseSampler(load_movielens(movielens)).test_cases()
    for task, figures in evaluate(load_checkpoint(checkpoint), cases).items():
        numbers = (figures.auc, figures.gauc, figures.log_loss)
        row = rf"│ {task} +│ +{' │ +'.join(f'{number:.4f}' for number in numbers)} │"
        assert re.search(row, result.output), result.output


def test_train_runs_the_study_as_asked(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(training.study, "run_study", lambda *arguments: asked.append(arguments))
    arguments = ["train", "--data", "here", "--out", str(tmp_path), "--seeds", "4"]
    assert runner.invoke(app, arguments).exit_code == 0
    assert runner.invoke(app, ["train"]).exit_code == 0
    assert asked == [(Path("here"), tmp_path, 4), (None, Path("checkpoints/ml-100k"), 3)]


@pytest.mark.parametrize("name", ["codec", "rpc"])
def test_bench_shows_what_it_writes(
    name: str, runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(benchmarks.codec, "RUNS", 3)
    monkeypatch.setattr(benchmarks.rpc, "SECONDS", 0.1)
    monkeypatch.setattr(benchmarks.rpc, "ROUNDS", 1)
    out = tmp_path / "record.json"
    result = runner.invoke(app, ["bench", name, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "record.json written" in result.output
    record = json.loads(out.read_text())
    shown = (
        [f"{row['median_ms']:.3f} ms" for row in record["times"]]
        if name == "codec"
        else [f"{rate:,} requests/s" for rate in record["median_requests_per_s"].values()]
    )
    assert len(shown) >= 2
    for figure in shown:
        assert figure in result.output
