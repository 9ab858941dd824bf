"""Offline quality of a checkpoint, scored the way the two services score."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score

from kernels.histories import Pages
from shared.model.batch import PagedKV
from shared.model.checkpoint import Checkpoint
from shared.model.items import ItemIndex
from shared.model.ranker import Ranker
from training.cases import TASKS, CaseSampler, RankingCase
from training.movielens import MovieLens
from training.tokens import candidate_tokens, history_tokens

CaseScores: TypeAlias = NDArray[np.floating]
"""One case's scores, [tasks, n], tasks as in `TASKS`."""

_BATCH = 64  # cases a pass: a few thousand tokens, 10 MB in float64


@dataclass(frozen=True)
class TaskMetrics:
    """Quality of one task's scores over all cases."""

    auc: float
    gauc: float
    """Mean of the users' AUC, weighted by their candidates, over users with both labels."""
    log_loss: float | None
    """None for scores that are no probabilities."""


def evaluate(checkpoint: Checkpoint, cases: Sequence[RankingCase]) -> dict[str, TaskMetrics]:
    """Metrics of each task, by name."""
    return task_metrics(cases, offline_scores(checkpoint, cases))


def offline_scores(checkpoint: Checkpoint, cases: Sequence[RankingCase]) -> list[CaseScores]:
    """Scores of every case, as the services would answer on the CPU.

    `checkpoint` is loaded in float32; the context pass runs in float64, as the context service
    does there, and its entries are read back from the storage format.
    """
    return serving_scores(checkpoint.ranker, checkpoint.items, cases)


def serving_scores(
    ranker: Ranker, items: ItemIndex, cases: Sequence[RankingCase]
) -> list[CaseScores]:
    """The same for a ranker that is not a checkpoint yet."""
    encoder, layout = copy.deepcopy(ranker).double(), ranker.layout
    scores: list[CaseScores] = []
    for start in range(0, len(cases), _BATCH):
        batch = cases[start : start + _BATCH]
        tokens = history_tokens(batch, items)
        lengths = [len(case.item_ids) for case in batch]
        pages = sum(layout.page_count(length) for length in lengths)
        arena = torch.zeros(pages, layout.page_bytes, dtype=torch.uint8)
        kv = PagedKV(arena, Pages.contiguous(lengths, layout.page_tokens, arena.device))
        encoder.context_pass(tokens, kv)
        candidates = candidate_tokens(batch, items)
        scored = ranker.crossing_pass(candidates, kv).T.numpy()
        scores += np.split(scored, candidates.cu_candidates[1:-1].tolist(), axis=1)
    return scores


def task_metrics(
    cases: Sequence[RankingCase], scores: Sequence[CaseScores], *, probabilities: bool = True
) -> dict[str, TaskMetrics]:
    """Metrics of each task, by name; `like` looks at the watched candidates alone.

    Args:
        cases: where the labels are.
        scores: [tasks, n] of each case, in the same order.
        probabilities: the scores are probabilities, so that LogLoss means something.

    Raises:
        ValueError: no case holds both labels of a task.
    """
    return {
        task: _metrics(task, labels, predicted, probabilities)
        for task, (labels, predicted) in _by_task(cases, scores).items()
    }


def mean_auc(cases: Sequence[RankingCase], scores: Sequence[CaseScores]) -> float:
    """Mean of the tasks' AUC: one number to choose by, without the users' own rankings."""
    return float(
        np.mean(
            [
                roc_auc_score(np.concatenate(labels), np.concatenate(predicted))
                for labels, predicted in _by_task(cases, scores).values()
            ]
        )
    )


def baseline_scores(data: MovieLens, cases: Sequence[RankingCase]) -> dict[str, list[CaseScores]]:
    """What needs no model: scores by the item alone, counted in the training parts.

    `item_popularity` is the number of ratings, `item_mean_rating` their mean, of unrated items the
    mean of all; both are taken for both tasks.
    """
    popularity = CaseSampler(data).popularity
    totals = np.zeros(len(data.item_ids))
    for actions in data.users:
        rated = np.searchsorted(data.item_ids, actions.item_ids[: actions.train_end])
        np.add.at(totals, rated, actions.ratings[: actions.train_end])
    overall = totals.sum() / max(1, popularity.sum())
    mean = np.where(popularity > 0, totals / np.maximum(1, popularity), overall)
    tables = {"item_popularity": popularity.astype(np.float64), "item_mean_rating": mean}
    return {
        name: [
            np.tile(table[np.searchsorted(data.item_ids, case.candidate_ids)], (len(TASKS), 1))
            for case in cases
        ]
        for name, table in tables.items()
    }


def _by_task(
    cases: Sequence[RankingCase], scores: Sequence[CaseScores]
) -> dict[str, tuple[list[NDArray[np.bool_]], list[CaseScores]]]:
    """Labels and scores of each task, an array a case."""
    pairs = list(zip(cases, scores, strict=True))
    watch = [case.watch for case, _ in pairs], [score[0] for _, score in pairs]
    like = (
        [case.like[case.watch] for case, _ in pairs],
        [score[1, case.watch] for case, score in pairs],
    )
    return dict(zip(TASKS, (watch, like), strict=True))


def _metrics(
    task: str, labels: list[NDArray[np.bool_]], scores: list[CaseScores], probabilities: bool
) -> TaskMetrics:
    all_labels = np.concatenate(labels)
    all_scores = np.concatenate(scores).astype(np.float64)
    mixed = [
        (label, score)
        for label, score in zip(labels, scores, strict=True)
        if label.any() and not label.all()
    ]
    if not mixed:
        raise ValueError(f"{task}: none of {len(labels)} cases holds both labels; use longer ones")
    return TaskMetrics(
        float(roc_auc_score(all_labels, all_scores)),
        float(
            np.average(
                [roc_auc_score(label, score) for label, score in mixed],
                weights=[len(label) for label, _ in mixed],
            )
        ),
        float(log_loss(all_labels, all_scores)) if probabilities else None,
    )
