"""`metrics.json`: every figure of a study with what it was measured on, and the table of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from shared.kv.codec import EntryCodec, EntryHeader
from shared.kv.layout import EntryLayout
from training.cases import TASKS, RankingCase
from training.evaluation import TaskMetrics
from training.jobs import THREADS, JobResult
from training.movielens import MovieLens
from training.variants import Variant

METRICS_FILE = "metrics.json"
MEASURES = ("auc", "gauc", "log_loss")


def study_report(
    data: MovieLens,
    cases: Sequence[RankingCase],
    results: Sequence[JobResult],
    served: JobResult,
    baselines: dict[str, dict[str, TaskMetrics]],
    wall_s: float,
    measured_on: dict[str, Any],
) -> dict[str, Any]:
    """What `metrics.json` holds.

    Args:
        data: what was trained on.
        cases: the test cases.
        results: every run.
        served: the run whose checkpoint is kept.
        baselines: metrics of each baseline's tasks.
        wall_s: of the whole study.
        measured_on: what `provenance` said before the study wrote anything.
    """
    variants = {
        str(variant): _summary([each for each in results if each.job.variant is variant])
        for variant in Variant
    }
    return {
        "served": {
            "variant": str(served.job.variant),
            "seed": served.job.seed,
            "chosen_by": "validation_auc",
            "validation_auc": served.validation_auc,
            "fingerprint": served.fingerprint,
            "test": {task: asdict(metrics) for task, metrics in served.metrics.items()},
        },
        "variants": variants,
        "baselines": {
            name: {task: asdict(metrics) for task, metrics in tasks.items()}
            for name, tasks in baselines.items()
        },
        "comparisons": {
            f"{Variant.COLLECTIVE} - {other}": {
                task: {
                    measure: _difference(
                        variants[Variant.COLLECTIVE]["test"][task][measure],
                        variants[other]["test"][task][measure],
                    )
                    for measure in MEASURES
                }
                for task in TASKS
            }
            for other in (Variant.DENSE, Variant.NO_CONTEXT)
        },
        "data": {
            "users": len(data.users),
            "items": len(data.item_ids),
            "actions": sum(len(actions.item_ids) for actions in data.users),
            "test_cases": len(cases),
            "test_history_actions": sum(len(case.item_ids) for case in cases),
            "test_candidates": sum(len(case.candidate_ids) for case in cases),
            "test_watched": sum(int(case.watch.sum()) for case in cases),
            "test_liked": sum(int(case.like.sum()) for case in cases),
        },
        "stored": _stored(cases, served, len(data.item_ids)),
        "recipe": asdict(served.job.recipe),
        "model": served.job.variant.config(len(data.item_ids)).model_dump(mode="json"),
        "threads_a_run": THREADS,
        "wall_s": round(wall_s, 1),
        "provenance": measured_on,
    }


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write `report` as JSON."""
    path.write_text(json.dumps(report, indent=2) + "\n")


def study_table(report: dict[str, Any]) -> Table:
    """Mean and deviation of every variant, the baselines, and what lies between the variants."""
    table = Table(title="Test cases: mean ± standard deviation over seeds")
    columns = [(task, measure) for task in TASKS for measure in MEASURES]
    table.add_column("")
    for task, measure in columns:
        table.add_column(f"{task} {measure}", justify="right")
    for name, variant in report["variants"].items():
        table.add_row(name, *(_spread(variant["test"][task][of]) for task, of in columns))
    table.add_section()
    for name, tasks in report["baselines"].items():
        values = [tasks[task][measure] for task, measure in columns]
        table.add_row(name, *("" if value is None else f"{value:.4f}" for value in values))
    table.add_section()
    for name, tasks in report["comparisons"].items():
        table.add_row(name, *(_gap(tasks[task][measure]) for task, measure in columns))
    return table


def _summary(results: Sequence[JobResult]) -> dict[str, Any]:
    """One variant: mean, deviation and every seed's value."""
    test = {
        task: {
            measure: _statistics([asdict(each.metrics[task])[measure] for each in results])
            for measure in MEASURES
        }
        for task in TASKS
    }
    runs = [
        {
            "seed": each.job.seed,
            "validation_auc": each.validation_auc,
            "epoch": each.epoch,
            "wall_s": round(each.wall_s, 1),
        }
        for each in results
    ]
    return {"test": test, "runs": runs}


def _stored(cases: Sequence[RankingCase], served: JobResult, items: int) -> dict[str, float | int]:
    """Whole store values of the test users' histories against dense bf16 keys and values."""
    config = served.job.variant.config(items)
    layout = EntryLayout(config)
    codec = EntryCodec(layout, served.fingerprint, max_tokens=config.max_history)
    sizes, percents = [], []
    for case in cases:
        tokens, newest = len(case.item_ids), int(case.times_s[-1])
        header = EntryHeader(served.fingerprint, case.user, tokens, newest, newest, 0)
        payload = np.zeros((layout.page_count(tokens), layout.page_bytes), np.uint8)
        sizes.append(len(codec.encode(header, payload)))
        percents.append(100 * sizes[-1] / (tokens * config.dense_bytes_per_token))
    return {
        "users": len(sizes),
        "mean_bytes": float(np.mean(sizes)),
        "mean_of_users_percent_of_dense": float(np.mean(percents)),
        "worst_user_percent_of_dense": max(percents),
    }


def _statistics(values: list[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for one value) and the values, in seed order."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": deviation, "seeds": values}


def _difference(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Difference of the means, also in units of the larger of both deviations."""
    difference = ours["mean"] - theirs["mean"]
    return {"difference": difference, "in_std": difference / max(ours["std"], theirs["std"])}


def _spread(statistics: dict[str, Any]) -> str:
    mean, deviation = statistics["mean"], statistics["std"]
    return f"{mean:.4f}" if deviation is None else f"{mean:.4f} ± {deviation:.4f}"


def _gap(comparison: dict[str, float]) -> str:
    return f"{comparison['difference']:+.4f} ({comparison['in_std']:+.1f} sd)"
