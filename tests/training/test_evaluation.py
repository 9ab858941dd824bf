from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from shared.model.checkpoint import load_checkpoint, save_checkpoint
from shared.model.items import ItemList
from shared.model.ranker import Ranker
from tests.training.synthetic import tastes, write_files
from training.cases import CaseSampler, RankingCase
from training.evaluation import (
    baseline_scores,
    evaluate,
    mean_auc,
    offline_scores,
    serving_scores,
    task_metrics,
)
from training.movielens import load_movielens
from training.variants import Variant


def case(user: str, watch: list[int], like: list[int]) -> RankingCase:
    none = np.empty(0, np.int64)
    ids = np.arange(len(watch), dtype=np.uint64)
    labels = np.array(watch, np.bool_), np.array(like, np.bool_)
    return RankingCase(user, none.astype(np.uint64), none, none, ids, 0, *labels)


CASES = [
    case("a", [1, 0, 1, 0], [1, 0, 0, 0]),
    case("b", [1, 1, 0], [1, 0, 0]),
    case("c", [1], [1]),  # one label: counts for AUC, not for GAUC
]
SCORES = [
    np.array([[0.9, 0.5, 0.4, 0.4], [0.8, 0.99, 0.3, 0.1]]),
    np.array([[0.2, 0.6, 0.3], [0.1, 0.7, 0.5]]),
    np.array([[0.35], [0.6]]),
]


def test_metrics_against_hand_counts() -> None:
    metrics = task_metrics(CASES, SCORES)
    # watch: positives .9 .4 .2 .6 .35 against negatives .5 .4 .3; a tie counts half
    assert metrics["watch"].auc == pytest.approx((3 + 1.5 + 0 + 3 + 1) / 15)
    # a: .9 > .5, .9 > .4, .4 < .5, .4 = .4 make 2.5 of 4; b: .2 < .3, .6 > .3 make 1 of 2
    assert metrics["watch"].gauc == pytest.approx((4 * 2.5 / 4 + 3 * 1 / 2) / 7)
    # like, among the watched: positives .8 .1 .6 against negatives .3 .7
    assert metrics["like"].auc == pytest.approx((2 + 0 + 1) / 6)
    assert metrics["like"].gauc == pytest.approx((2 * 1 + 2 * 0) / 4)
    likes = [(0.8, 1), (0.3, 0), (0.1, 1), (0.7, 0), (0.6, 1)]
    loss = -sum(math.log(score if label else 1 - score) for score, label in likes) / 5
    assert metrics["like"].log_loss == pytest.approx(loss)
    assert mean_auc(CASES, SCORES) == pytest.approx(
        (metrics["watch"].auc + metrics["like"].auc) / 2
    )


def test_one_label_alone_has_no_ranking() -> None:
    with pytest.raises(ValueError, match="like: none of 1 cases"):
        task_metrics([case("d", [1, 0], [1, 0])], [np.array([[0.6, 0.4], [0.6, 0.4]])])


def test_no_log_loss_of_what_is_no_probability() -> None:
    metrics = task_metrics(CASES, [100 * score for score in SCORES], probabilities=False)
    assert metrics["watch"].log_loss is None
    assert metrics["watch"].auc == task_metrics(CASES, SCORES)["watch"].auc


def test_baselines_count_the_training_parts(tmp_path: Path) -> None:
    """Ten actions a user: seven are counted. Item 20 is rated 5 by user 1, 2 by user 2."""
    rows = [(1, 20, 5, 0), (2, 20, 2, 0)]
    rows += [(user, item, 3, item) for user in (1, 2) for item in range(1, 10)]
    data = load_movielens(write_files(tmp_path, rows, [*range(1, 10), 20, 30]))
    one = case("1", [1, 1, 1], [0, 0, 0])
    asked = RankingCase(**{**vars(one), "candidate_ids": np.array([20, 9, 30], np.uint64)})
    scores = baseline_scores(data, [asked])
    assert scores["item_popularity"][0].tolist() == [[2, 0, 0]] * 2
    overall = (5 + 2 + 12 * 3) / 14
    np.testing.assert_allclose(scores["item_mean_rating"][0], [[3.5, overall, overall]] * 2)


@pytest.mark.parametrize("variant", [Variant.COLLECTIVE, Variant.DENSE])
def test_scores_are_those_of_the_served_form(tmp_path: Path, variant: Variant) -> None:
    data = tastes(tmp_path, users=12)
    cases = CaseSampler(data).test_cases()
    torch.manual_seed(0)
    ranker = Ranker(variant.config(len(data.item_ids)), dropout=0.5).eval()
    live = serving_scores(ranker, ItemList(data.item_ids), cases)
    save_checkpoint(tmp_path / "checkpoint", ranker, data.item_ids)
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    offline = offline_scores(checkpoint, cases)
    assert [score.shape for score in offline] == [(2, len(each.watch)) for each in cases]
    for ours, theirs in zip(live, offline, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert evaluate(checkpoint, cases) == task_metrics(cases, live)
    for number in (0, 5, 11):  # a case's scores do not hang on its neighbours
        alone = offline_scores(checkpoint, [cases[number]])[0]
        np.testing.assert_allclose(alone, offline[number], rtol=1e-5)
    assert len({float(score) for score in offline[0][0]}) > 1


def test_a_case_without_history_can_be_scored(tmp_path: Path) -> None:
    data = tastes(tmp_path, users=6)
    cases = [each.without_history() for each in CaseSampler(data).test_cases()]
    ranker = Ranker(Variant.NO_CONTEXT.config(len(data.item_ids))).eval()
    scores = serving_scores(ranker, ItemList(data.item_ids), cases)
    assert all(np.isfinite(score).all() for score in scores)
