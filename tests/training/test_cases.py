from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.training.synthetic import tastes, write_files
from training.cases import CaseSampler, RankingCase
from training.movielens import MovieLens, UserActions, load_movielens


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MovieLens:
    return tastes(tmp_path_factory.mktemp("tastes"), users=40, items=80, actions=30)


def assert_same(ours: list[RankingCase], theirs: list[RankingCase]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        for field in vars(one):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)


def by_user(data: MovieLens, case: RankingCase) -> UserActions:
    return next(actions for actions in data.users if actions.user == case.user)


def test_held_out_parts_are_what_is_ranked(data: MovieLens) -> None:
    sampler = CaseSampler(data)
    validation, test = sampler.validation_cases(), sampler.test_cases()
    assert len(validation) == len(test) == 40
    for cases, ends in ((validation, (21, 24)), (test, (24, 30))):
        for case in cases:
            actions = by_user(data, case)
            np.testing.assert_array_equal(case.item_ids, actions.item_ids[: ends[0]])
            np.testing.assert_array_equal(case.action_types + 1, actions.ratings[: ends[0]])
            np.testing.assert_array_equal(case.times_s, actions.times_s[: ends[0]])
            held_out = actions.item_ids[ends[0] : ends[1]]
            assert sorted(case.candidate_ids[case.watch]) == sorted(held_out)
            assert case.request_time_s == actions.times_s[ends[0]]
            rating = dict(zip(actions.item_ids.tolist(), actions.ratings.tolist(), strict=True))
            for item, watched, liked in zip(
                case.candidate_ids.tolist(), case.watch, case.like, strict=True
            ):
                assert liked == (watched and rating[item] >= 4)


def test_held_out_negatives_are_new_to_the_user(data: MovieLens) -> None:
    sampler = CaseSampler(data)
    for case in sampler.validation_cases() + sampler.test_cases():
        negatives = case.candidate_ids[~case.watch]
        assert len(negatives) == case.watch.sum()
        assert len(np.unique(negatives)) == len(negatives)
        assert not np.isin(negatives, by_user(data, case).item_ids).any()


def test_training_stays_in_the_training_part(data: MovieLens) -> None:
    for case in CaseSampler(data).training_cases(np.random.default_rng(0), 0.5, 0.3):
        actions = by_user(data, case)
        cut = len(case.item_ids)
        assert 10 <= cut <= 20  # of 21
        followers = actions.item_ids[cut : min(21, cut + 7)]
        assert sorted(case.candidate_ids[case.watch]) == sorted(followers)
        assert case.request_time_s == actions.times_s[cut]
        assert not np.isin(case.candidate_ids[~case.watch], actions.item_ids[:21]).any()


def test_training_knows_nothing_of_what_is_held_out(data: MovieLens) -> None:
    """Other held-out items, ratings and times: the very same training cases."""
    rng = np.random.default_rng(1)
    users = []
    for actions in data.users:
        end = actions.train_end
        others = rng.permutation(np.setdiff1d(data.item_ids, actions.item_ids[:end]))
        tail = len(actions.item_ids) - end
        users.append(
            replace(
                actions,
                item_ids=np.concatenate((actions.item_ids[:end], others[:tail])),
                ratings=np.concatenate((actions.ratings[:end], 6 - actions.ratings[end:])),
                times_s=np.concatenate((actions.times_s[:end], actions.times_s[end:] + 77)),
            )
        )
    ours, theirs = (
        CaseSampler(each).training_cases(np.random.default_rng(5), 0.3, 0.4)
        for each in (data, replace(data, users=users))
    )
    assert_same(ours, theirs)


def test_candidates_own_times_are_not_used(data: MovieLens) -> None:
    users = []
    for actions in data.users:
        times = actions.times_s.copy()
        times[actions.validation_end + 1 :] += 12_345
        users.append(replace(actions, times_s=times))
    assert_same(
        CaseSampler(data).test_cases(), CaseSampler(replace(data, users=users)).test_cases()
    )


def test_negatives_follow_popularity(tmp_path: Path) -> None:
    """Item 90 is in 40 training parts, item 91 in 10; 92 in none of them."""
    rows = []
    for user in range(1, 51):
        often = 90 if user <= 40 else 91
        rows += [(user, often, 3, 1), *((user, item, 3, 1 + item) for item in range(1, 10))]
    rows += [(51, item, 3, item) for item in range(1, 10)]
    data = load_movielens(write_files(tmp_path, rows, [*range(1, 10), 90, 91, 92]))
    assert CaseSampler(data).popularity[-3:].tolist() == [40, 10, 0]
    drawn: list[int] = []
    for seed in range(400):
        sampler = CaseSampler(data)
        case = next(case for case in sampler.validation_cases(seed) if case.user == "51")
        drawn += case.candidate_ids[~case.watch].tolist()
    assert 92 not in drawn
    assert abs(drawn.count(90) / len(drawn) - 0.8) < 0.08  # 4 deviations of 400 draws


def test_no_more_negatives_than_there_are(tmp_path: Path) -> None:
    rows = [(user, item, 3, item) for user in (1, 2) for item in range(1, 11)]
    cases = CaseSampler(load_movielens(write_files(tmp_path, rows, range(1, 13)))).test_cases()
    assert [case.watch.tolist() for case in cases] == [[True, True]] * 2


def test_seed_decides_everything(data: MovieLens) -> None:
    sampler = CaseSampler(data)
    assert_same(sampler.test_cases(3), CaseSampler(data).test_cases(3))
    one, other = sampler.test_cases(3)[0], sampler.test_cases(4)[0]
    assert one.candidate_ids.tolist() != other.candidate_ids.tolist()
    fewer = replace(data, users=data.users[:5])
    assert [case.watch.tolist() for case in CaseSampler(fewer).test_cases()] == [
        case.watch.tolist() for case in sampler.test_cases()[:5]
    ]


def test_places_tell_nothing(data: MovieLens) -> None:
    first = [case.watch[0] for case in CaseSampler(data).test_cases()]
    assert any(first)
    assert not all(first)


def test_views_of_a_case(data: MovieLens) -> None:
    case = CaseSampler(data).test_cases()[0]
    bare = case.without_history()
    assert len(bare.item_ids) == len(bare.action_types) == len(bare.times_s) == 0
    assert_same(
        [
            replace(
                bare, item_ids=case.item_ids, action_types=case.action_types, times_s=case.times_s
            )
        ],
        [case],
    )
