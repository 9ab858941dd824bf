"""The offline study that came with a checkpoint, as the report compares it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.demo.charts import Estimate
from cli.failure import CommandError
from training.cases import TASKS
from training.report import METRICS_FILE
from training.variants import Variant

METRICS = ("auc", "gauc")
_SHOWN = (Variant.COLLECTIVE, Variant.DENSE, Variant.NO_CONTEXT)


@dataclass(frozen=True)
class Study:
    """Quality of the model, of those it is compared with and of the baselines."""

    seeds: int
    """Runs behind each mean."""
    estimates: Mapping[tuple[str, str], list[Estimate]]
    """By task and metric: the variants, then the baselines."""
    shuffled_auc: Mapping[str, float]
    """AUC by task of the variant whose items and ratings were dealt out anew before its cases were
    cut: 0.5 but for noise.
    """


def read_study(checkpoint: Path, fingerprint: str) -> Study | None:
    """The study beside the model `fingerprint` in `checkpoint`; None if there is none of it.

    Raises:
        CommandError: there is one, but it is not as `crosskv train` writes it.
    """
    path = checkpoint / METRICS_FILE
    if not path.exists():
        return None
    try:
        report = json.loads(path.read_bytes())
        if report["served"]["fingerprint"] != fingerprint:
            return None
        variants = {name: variant["test"] for name, variant in report["variants"].items()}
        return Study(
            len(report["variants"][Variant.COLLECTIVE]["runs"]),
            {
                (task, metric): _estimates(variants, report["baselines"], task, metric)
                for task in TASKS
                for metric in METRICS
            },
            {task: variants[Variant.SHUFFLED_LABELS][task]["auc"]["mean"] for task in TASKS},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(
            f"{path}: not as `crosskv train` writes it ({type(error).__name__}: {error}); restore "
            "it, or delete it for a report without comparison"
        ) from error


def _estimates(
    variants: Mapping[str, Any], baselines: Mapping[str, Any], task: str, metric: str
) -> list[Estimate]:
    estimates = []
    for variant in _SHOWN:
        figures = variants[variant][task][metric]
        kind = "brand" if variant is Variant.COLLECTIVE else "quiet"
        estimates.append(Estimate(_words(variant), figures["mean"], figures["std"], kind))
    for name, tasks in baselines.items():
        estimates.append(Estimate(_words(name), tasks[task][metric], 0.0, "quiet"))
    return estimates


def _words(name: str) -> str:
    return name.replace("_", " ")
