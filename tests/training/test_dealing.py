"""The control: at 0.5 by chance alone, off it as soon as a case gives something away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training.synthetic import tastes, write_files
from training.cases import CaseSampler, RankingCase
from training.dealing import Deal, deal_anew
from training.evaluation import TaskMetrics, task_metrics
from training.movielens import DataError, MovieLens, UserActions, load_movielens


class LeakySampler(CaseSampler):
    """Its histories end one action late."""

    def _case(
        self,
        actions: UserActions,
        cut: int,
        end: int,
        negatives: NDArray[np.uint64],
        rng: np.random.Generator,
    ) -> RankingCase:
        case = super()._case(actions, cut, end, negatives, rng)
        return replace(case, item_ids=actions.item_ids[: cut + 1])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MovieLens:
    return tastes(tmp_path_factory.mktemp("tastes"), users=300, items=120, actions=40)


@pytest.fixture(scope="module")
def deal(data: MovieLens) -> Deal:
    return deal_anew(data, 0)


def joined(arrays: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    return np.concatenate(arrays)


def measured(
    cases: list[RankingCase], score: Callable[[RankingCase], NDArray[np.float64]]
) -> dict[str, TaskMetrics]:
    return task_metrics(cases, [np.tile(score(case), (2, 1)) for case in cases])


def in_history(case: RankingCase) -> NDArray[np.float64]:
    return np.isin(case.candidate_ids, case.item_ids).astype(np.float64)


def test_every_card_is_dealt_once(data: MovieLens, deal: Deal) -> None:
    """40 cards: 31 actions, of which 22 are for training, and 9 decoys."""
    before = joined([actions.item_ids for actions in data.users])
    after = joined([actions.item_ids for actions in deal.data.users] + deal.decoys)
    np.testing.assert_array_equal(np.sort(before), np.sort(after))
    for actions, decoys in zip(deal.data.users, deal.decoys, strict=True):
        hand = np.concatenate((actions.item_ids, decoys))
        assert len(np.unique(hand)) == len(hand) == 40
        assert (len(actions.item_ids), len(actions.ratings), len(actions.times_s)) == (31, 31, 31)
        assert len(decoys) == 31 - actions.train_end == 9


def test_a_deal_tells_nothing_of_the_users(data: MovieLens, deal: Deal) -> None:
    """12 of 13 actions are of the user's own taste before the deal, half of them after it."""

    def own(dealt: MovieLens) -> float:
        return float(
            np.mean(joined([(u.item_ids + np.uint64(int(u.user))) % 2 == 0 for u in dealt.users]))
        )

    def high_is_liked(dealt: MovieLens) -> float:
        high = joined([user.item_ids > 60 for user in dealt.users])
        liked = joined([user.ratings >= 4 for user in dealt.users])
        return float(np.mean(high == liked))

    assert own(data) > 0.75
    assert high_is_liked(data) > 0.75
    assert abs(own(deal.data) - 0.5) < 0.02  # 9300 actions: 4 deviations
    assert abs(high_is_liked(deal.data) - 0.5) < 0.02


def test_decoys_are_the_negatives(deal: Deal) -> None:
    sampler = CaseSampler(deal.data, deal.decoys)
    for cases, part in (
        (sampler.validation_cases(), slice(0, 3)),
        (sampler.test_cases(), slice(3, 9)),
    ):
        for case, decoys in zip(cases, deal.decoys, strict=True):
            assert sorted(case.candidate_ids[~case.watch]) == sorted(decoys[part])
            assert case.watch.sum() == len(decoys[part])


def test_popularity_tells_nothing(tmp_path: Path) -> None:
    """Item 1 is in most histories, item 60 in few; drawn negatives alone would be the rarer."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 61)
    rows = [
        (user, int(item) + 1, int(rng.integers(1, 6)), time_s)
        for user in range(1, 301)
        for time_s, item in enumerate(rng.choice(60, 20, replace=False, p=weights / weights.sum()))
    ]
    dealt = deal_anew(load_movielens(write_files(tmp_path, rows, range(1, 61))), 0)
    popularity = dict(
        zip(dealt.data.item_ids.tolist(), CaseSampler(dealt.data).popularity, strict=True)
    )

    def popular(case: RankingCase) -> NDArray[np.float64]:
        return np.array([popularity[item] for item in case.candidate_ids.tolist()], np.float64)

    def watch_auc(sampler: CaseSampler) -> float:
        cases = sampler.test_cases()
        scores = [np.tile(popular(case), (2, 1)) for case in cases]
        return task_metrics(cases, scores, probabilities=False)["watch"].auc

    assert abs(watch_auc(CaseSampler(dealt.data, dealt.decoys)) - 0.5) < 0.045  # 3 deviations
    assert watch_auc(CaseSampler(dealt.data)) > 0.6


def test_a_leak_shows(deal: Deal) -> None:
    """One of the six watched is in a history that ends late: 0.5 + 1 / 12."""
    fair = measured(CaseSampler(deal.data, deal.decoys).test_cases(), in_history)
    leaky = measured(LeakySampler(deal.data, deal.decoys).test_cases(), in_history)
    assert fair["watch"].auc == 0.5
    assert leaky["watch"].auc == pytest.approx(0.5 + 1 / 12)


def test_a_reader_of_what_is_held_out_is_found(deal: Deal) -> None:
    """The labels are those of the dealt actions: whoever sees them is far from 0.5."""
    ratings = {
        (actions.user, item): rating / 5
        for actions in deal.data.users
        for item, rating in zip(actions.item_ids.tolist(), actions.ratings.tolist(), strict=True)
    }

    def read(case: RankingCase) -> NDArray[np.float64]:
        return np.array(
            [ratings.get((case.user, item), 0.0) for item in case.candidate_ids.tolist()]
        )

    metrics = measured(CaseSampler(deal.data, deal.decoys).test_cases(), read)
    assert metrics["watch"].auc == metrics["like"].auc == 1.0


def test_seed_decides_the_deal(data: MovieLens, deal: Deal) -> None:
    same, other = deal_anew(data, 0), deal_anew(data, 1)
    np.testing.assert_array_equal(joined(same.decoys), joined(deal.decoys))
    assert joined(other.decoys).tolist() != joined(deal.decoys).tolist()


def test_no_room_to_deal_is_said(tmp_path: Path) -> None:
    rows = [(user, item, 3, item) for user in range(1, 41) for item in range(1, 11)]
    with pytest.raises(DataError, match="too dense to deal out anew"):
        deal_anew(load_movielens(write_files(tmp_path, rows, range(1, 11))), 0)
