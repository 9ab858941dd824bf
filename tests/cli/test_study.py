from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.demo.charts import Estimate
from cli.demo.study import read_study
from cli.failure import CommandError
from training.cases import TASKS
from training.evaluation import TaskMetrics
from training.report import METRICS_FILE
from training.variants import Variant

FINGERPRINT = "ab" * 16


def figures(value: float, deviation: float | None = 0.01) -> dict[str, Any]:
    return {
        task: {
            measure: {"mean": value + offset, "std": deviation, "seeds": [value + offset] * 3}
            for measure, offset in (("auc", 0.0), ("gauc", 0.1), ("log_loss", 0.2))
        }
        for task in TASKS
    }


def report() -> dict[str, Any]:
    """The parts of `metrics.json` that are shown, with a mean of its own for each variant."""
    means = {variant: 0.9 - 0.1 * number for number, variant in enumerate(Variant)}
    return {
        "served": {"fingerprint": FINGERPRINT},
        "variants": {
            str(variant): {"test": figures(mean), "runs": [{}, {}, {}]}
            for variant, mean in means.items()
        },
        "baselines": {
            "item_popularity": {task: vars(TaskMetrics(0.55, 0.56, None)) for task in TASKS}
        },
    }


def test_estimates_of_each_task_and_metric(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text(json.dumps(report()))
    study = read_study(tmp_path, FINGERPRINT)
    assert study is not None
    assert study.seeds == 3
    assert set(study.estimates) == {(task, of) for task in TASKS for of in ("auc", "gauc")}
    assert study.estimates["like", "gauc"] == [
        Estimate("collective", pytest.approx(1.0), 0.01, "brand"),
        Estimate("dense", pytest.approx(0.9), 0.01, "quiet"),
        Estimate("no context", pytest.approx(0.8), 0.01, "quiet"),
        Estimate("item popularity", 0.56, 0.0, "quiet"),
    ]
    assert study.shuffled_auc == {task: pytest.approx(0.6) for task in TASKS}


def test_no_study_or_that_of_another_model_is_not_shown(tmp_path: Path) -> None:
    assert read_study(tmp_path, FINGERPRINT) is None
    (tmp_path / METRICS_FILE).write_text(json.dumps(report()))
    assert read_study(tmp_path, "cd" * 16) is None


@pytest.mark.parametrize("part", ["served", "variants", "baselines"])
def test_a_malformed_study_is_an_error_that_names_the_file(part: str, tmp_path: Path) -> None:
    broken = report()
    del broken[part]
    (tmp_path / METRICS_FILE).write_text(json.dumps(broken))
    with pytest.raises(CommandError, match=rf"metrics\.json: not as .crosskv train. .*{part}"):
        read_study(tmp_path, FINGERPRINT)
