from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from shared.model.checkpoint import load_checkpoint
from tests.training.synthetic import write_tastes
from training import study
from training.cases import CaseSampler
from training.evaluation import evaluate
from training.jobs import Job, run_jobs
from training.movielens import DataError, load_movielens
from training.study import run_study
from training.trainer import Recipe
from training.variants import Variant

QUICK = Recipe(epochs=1, validate_every=1, batch_users=20)


def test_study_leaves_the_best_validated_checkpoint_and_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "RECIPE", QUICK)
    data = write_tastes(tmp_path, users=40)
    run_study(data, tmp_path / "out", seeds=2)
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    runs = report["variants"]["collective"]["runs"]
    best = max(runs, key=lambda run: run["validation_auc"])
    assert report["served"]["seed"] == best["seed"]
    checkpoint = load_checkpoint(tmp_path / "out")
    assert checkpoint.fingerprint == report["served"]["fingerprint"]
    cases = CaseSampler(load_movielens(data)).test_cases()
    again = evaluate(checkpoint, cases)
    assert vars(again["watch"]) == report["served"]["test"]["watch"]
    for name, variant in report["variants"].items():
        values = variant["test"]["watch"]["gauc"]["seeds"]
        assert len(values) == (1 if name == "shuffled_labels" else 2)
        assert variant["test"]["watch"]["gauc"]["mean"] == pytest.approx(sum(values) / len(values))
    values = report["variants"]["dense"]["test"]["like"]["auc"]
    assert values["std"] == pytest.approx(abs(values["seeds"][0] - values["seeds"][1]) / 2**0.5)
    assert report["baselines"]["item_popularity"]["watch"]["auc"] > 0
    assert report["data"]["actions"] == 40 * 14
    assert report["recipe"]["epochs"] == 1
    # 14 actions: 11 in the history, one page of 16 tokens, header and padding
    stored = report["stored"]
    dense = 11 * checkpoint.config.dense_bytes_per_token
    assert stored["mean_bytes"] > checkpoint.ranker.layout.payload_bytes(11)
    percent = pytest.approx(100 * stored["mean_bytes"] / dense)
    assert stored["mean_of_users_percent_of_dense"] == percent
    assert stored["worst_user_percent_of_dense"] == percent
    assert {"cpu", "commit", "versions"} <= set(report["provenance"])


def test_one_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seeds: 1, expected at least 2"):
        run_study(tmp_path, tmp_path / "out", seeds=1)


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    job = Job(Variant.DENSE, 0, QUICK, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match="nowhere"):
        run_jobs([job], Console(quiet=True))
