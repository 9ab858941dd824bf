"""Batches through the arena against single runs, against the model itself, and gone wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from crossing_service.arena import ResidentEntry
from crossing_service.candidates import Candidates
from crossing_service.scorer import Scored, ScoreWork
from shared.errors import KVMissError, NonFiniteResultError
from tests.crossing_service.house import FIRST_EVENT_S, House
from tests.tiny_model import FORMS


def score(house: House, *works: tuple[ResidentEntry, Candidates]) -> list[NDArray[np.float32]]:
    scores = []
    for outcome in house.scorer.score([ScoreWork(*work) for work in works]):
        assert isinstance(outcome, Scored)
        scores.append(outcome.scores)
    return scores


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_batch_scores_as_each_request_alone(form: dict[str, Any]) -> None:
    house = House(**form)
    # 1 token, exactly one page, many pages, and a user whose newest action lies after the request
    users = {"a": 1, "b": 16, "c": 200, "d": 37}
    entries = {user: house.reside(user, tokens) for user, tokens in users.items()}
    works = [
        (entries["a"], house.candidates(5, seed=1)),
        (entries["c"], house.candidates(1, seed=2, features=[])),
        (entries["b"], house.candidates(33, seed=3, surfaces=[])),
        (entries["c"], house.candidates(7, seed=4, tasks=["like"])),
        (entries["d"], house.candidates(3, seed=5, request_time_s=FIRST_EVENT_S)),
    ]
    batched = score(house, *works)
    for work, scores in zip(works, batched, strict=True):
        np.testing.assert_allclose(scores, score(house, work)[0], atol=1e-6, rtol=0)
    backwards = score(house, *reversed(works))
    for scores, again in zip(batched, reversed(backwards), strict=True):
        np.testing.assert_allclose(scores, again, atol=1e-6, rtol=0)


def test_a_piece_of_work_weighs_its_history_too() -> None:
    house = House()
    assert ScoreWork(house.reside("u", 200), house.candidates(3)).tokens == 203


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_scores_are_the_models_own_bit_for_bit(form: dict[str, Any]) -> None:
    house = House(**form)
    for user in "abcd":
        house.reside(user, 5)
    for user in "dbac":
        house.arena.drop(user)
    entry = house.reside("u", 37)
    assert entry.pages.tolist() != sorted(entry.pages)
    candidates = house.candidates(9, seed=1)
    [scores] = score(house, (entry, candidates))
    assert scores.dtype == np.float32
    assert scores.flags.c_contiguous
    np.testing.assert_array_equal(scores, house.direct(house.value("u", 37), "u", candidates))
    assert len(np.unique(scores)) > 9  # candidates and tasks differ, so the equality says something


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_nobody_sees_what_a_page_held_before(form: dict[str, Any]) -> None:
    house = House(cache_pages=4, **form)
    candidates = house.candidates(4, seed=1)
    for user in "abcdefg":  # each evicts others and takes over their pages
        entry = house.reside(user, 37)
        last = entry.pages[-1]
        used = 37 % house.config.page_tokens
        for layer in range(house.config.layers):
            for plane in house.layout.planes(house.arena.tensor, layer).values():
                plane[last, used:] = float("nan") if plane.dtype.is_floating_point else 77
        expected = house.direct(house.value(user, 37), user, candidates)
        np.testing.assert_array_equal(score(house, (entry, candidates))[0], expected)


def test_tasks_come_in_the_asked_order() -> None:
    house = House()
    entry = house.reside("u")
    [both] = score(house, (entry, house.candidates(6)))
    [swapped] = score(house, (entry, house.candidates(6, tasks=["like", "watch"])))
    [one] = score(house, (entry, house.candidates(6, tasks=["like"])))
    np.testing.assert_array_equal(swapped, both[::-1])
    np.testing.assert_array_equal(one, both[1:])


def test_left_out_features_and_surfaces_are_zeros() -> None:
    house = House()
    entry = house.reside("u")
    zeros = house.candidates(6, surfaces=[0] * 6, features=[0.0] * 18)
    none = house.candidates(6, surfaces=[], features=[])
    np.testing.assert_array_equal(score(house, (entry, zeros))[0], score(house, (entry, none))[0])
    with_features = house.candidates(6, surfaces=[], features=[1.0] * 18)
    assert (score(house, (entry, with_features))[0] != score(house, (entry, none))[0]).all()


def test_the_time_of_the_request_counts_from_the_newest_action() -> None:
    house = House()
    entry = house.reside("u")
    newest = entry.header.last_event_time_s
    at = {
        seconds: score(house, (entry, house.candidates(6, request_time_s=newest + seconds)))[0]
        for seconds in (-1000, 0, 2**20, 2**36)
    }
    np.testing.assert_array_equal(at[-1000], at[0])
    assert (at[0] != at[2**20]).all()
    assert (at[2**36] != at[2**20]).all()


def test_unknown_items_are_counted_for_each_request() -> None:
    house = House()
    entry = house.reside("u")
    works = [ScoreWork(entry, house.candidates(count)) for count in (1, 2, 9)]
    outcomes = house.scorer.score(works)
    assert [outcome.unknown_items for outcome in outcomes if isinstance(outcome, Scored)] == [
        0,
        1,
        2,
    ]


def test_scores_that_are_not_finite_concern_their_request_alone() -> None:
    house = House()
    entry = house.reside("u")
    good = house.candidates(3, seed=1)
    bad = house.candidates(3, seed=2, features=[0.0] * 3 + [3e38] * 3 + [0.0] * 3)
    first, second, third = house.scorer.score(
        [ScoreWork(entry, good), ScoreWork(entry, bad), ScoreWork(entry, good)]
    )
    assert isinstance(second, NonFiniteResultError)
    assert "candidate 1 of user 'u'" in str(second)
    assert "3e+38" in str(second)
    for outcome in (first, third):
        assert isinstance(outcome, Scored)
        np.testing.assert_allclose(outcome.scores, score(house, (entry, good))[0], atol=1e-6)


def test_pages_that_a_dropped_request_gave_up_are_not_read() -> None:
    house = House()
    kept, lost = house.reside("kept"), house.reside("lost")
    house.arena.drop("lost")
    candidates = house.candidates(3)
    outcomes = house.scorer.score([ScoreWork(lost, candidates), ScoreWork(kept, candidates)])
    assert isinstance(outcomes[0], KVMissError)
    assert isinstance(outcomes[1], Scored)
    assert (kept.pins, lost.pins) == (0, 0)


def test_pins_are_given_back_when_the_model_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House()
    entry = house.reside("u")
    during = []

    def fail(*_: object) -> None:
        during.append(entry.pins)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(house.checkpoint.ranker, "crossing_pass", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        house.scorer.score([ScoreWork(entry, house.candidates(3))])
    assert during == [1]
    assert entry.pins == 0


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("feature_dim", [0, 3])
def test_warm_up_runs_in_every_form(form: dict[str, Any], feature_dim: int) -> None:
    house = House(**{**form, "feature_dim": feature_dim})
    before = house.arena.tensor.clone()
    house.scorer.warm_up()
    assert torch.equal(house.arena.tensor, before)
