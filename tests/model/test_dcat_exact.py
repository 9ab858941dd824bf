"""Crossing over stored entries = the whole transformer on [history ; candidate], per candidate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from shared.model.batch import CandidateTokens, bounds, gap_buckets
from shared.model.config import ModelConfig
from shared.model.items import embedding_rows
from shared.model.ranker import Ranker
from tests.model.naive_transformer import Event, NaiveTransformer
from tests.model.paged import Actions, random_actions, scattered_pages, tokens_of
from tests.tiny_model import FORMS, tiny_config, tiny_ranker

LENGTHS = [1, 15, 16, 17, 45, 130, 5, 0]
CANDIDATES = [2, 1, 0, 3, 1, 1, 0, 2]
TOLERANCE = 1e-10


def _candidates(config: ModelConfig, seed: int) -> tuple[CandidateTokens, list[Event]]:
    rng = np.random.default_rng(seed)
    total = sum(CANDIDATES)
    tables = 1 if config.items.kind == "list" else config.items.tables
    rows = rng.integers(0, embedding_rows(config.items), (total, tables))
    surfaces = rng.integers(0, len(config.surfaces), total)
    gaps = (2 ** rng.uniform(0, 35, total)).astype(np.int64)
    features = rng.normal(size=(total, config.feature_dim))
    tokens = CandidateTokens(
        torch.from_numpy(rows),
        torch.from_numpy(surfaces),
        torch.from_numpy(gap_buckets(gaps)),
        torch.from_numpy(features),
        bounds(CANDIDATES),
    )
    candidate_action = len(config.action_types)
    events = [
        Event(
            rows[c].tolist(), candidate_action, int(surfaces[c]), int(gaps[c]), features[c].tolist()
        )
        for c in range(total)
    ]
    return tokens, events


def _history(user: Actions) -> list[Event]:
    times = user.times_s.tolist()
    return [
        Event(
            user.item_rows[j].tolist(),
            int(user.action_types[j]),
            int(user.surfaces[j]),
            times[j] - times[j - 1] if j else 0,
        )
        for j in range(len(user))
    ]


def _served(ranker: Ranker, users: list[Actions], candidates: CandidateTokens) -> np.ndarray:
    kv = scattered_pages(ranker.layout, [len(user) for user in users])
    ranker.context_pass(tokens_of(users, [None] * len(users)), kv)
    return ranker.crossing_pass(candidates, kv).numpy()


def _naive(model: NaiveTransformer, users: list[Actions], events: list[Event]) -> np.ndarray:
    owners = np.repeat(np.arange(len(users)), CANDIDATES)
    histories = [_history(user) for user in users]
    return np.array([model.score(histories[o], e) for o, e in zip(owners, events, strict=True)])


def _error(out: np.ndarray, ref: np.ndarray) -> float:
    return float(np.linalg.norm(out - ref) / np.linalg.norm(ref))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_crossing_equals_the_whole_transformer(form: dict[str, Any]) -> None:
    config = tiny_config(**form)
    ranker = tiny_ranker(config, seed=3).double()
    users = [random_actions(config, length, seed) for seed, length in enumerate(LENGTHS)]
    candidates, events = _candidates(config, seed=9)
    served = _served(ranker, users, candidates)
    naive = _naive(NaiveTransformer(config, ranker.state_dict()), users, events)
    assert served.shape == (sum(CANDIDATES), len(config.tasks))
    assert _error(served, naive) < TOLERANCE
    wrong = NaiveTransformer(config, ranker.state_dict(), scale_factor=1.01)
    assert _error(served, _naive(wrong, users, events)) > 1e6 * TOLERANCE


@pytest.mark.parametrize("form", ["coded", "product_coded", "dense"])
def test_every_weight_counts(form: str) -> None:
    """The comparison is blind to a weight that moves no score: there is to be none."""
    config = tiny_config(**FORMS[form], layers=2)
    ranker = tiny_ranker(config, seed=3).double()
    users = [random_actions(config, length, seed) for seed, length in enumerate(LENGTHS)]
    candidates, _ = _candidates(config, seed=9)
    before = _served(ranker, users, candidates)
    for name, weight in ranker.state_dict().items():
        kept = weight.clone()
        weight.mul_(1.37).add_(torch.linspace(-0.5, 0.5, weight.numel()).reshape(weight.shape))
        assert _error(_served(ranker, users, candidates), before) > 1e3 * TOLERANCE, name
        weight.copy_(kept)
    assert np.array_equal(_served(ranker, users, candidates), before)


def test_float32_crossing_stays_near_float64() -> None:
    """The crossing service scores in float32: within float32's rounding of the exact scores."""
    config = tiny_config(router="tied", slices="coded")
    exact, served = tiny_ranker(config, seed=3).double(), tiny_ranker(config, seed=3)
    users = [random_actions(config, length, seed) for seed, length in enumerate(LENGTHS)]
    candidates, _ = _candidates(config, seed=9)
    kv = scattered_pages(exact.layout, LENGTHS)
    exact.context_pass(tokens_of(users, [None] * len(users)), kv)
    wanted = exact.crossing_pass(candidates, kv).numpy()
    assert _error(served.crossing_pass(candidates, kv).double().numpy(), wanted) < 1e-5


def test_bfloat16_rounds_layers_but_no_score() -> None:
    """Near 1/2 its steps are 1/512: rounded scores would leave most candidates with a tie."""
    config = tiny_config(router="tied", slices="coded")
    ranker = tiny_ranker(config, seed=3).bfloat16()
    users = [random_actions(config, length, seed) for seed, length in enumerate(LENGTHS)]
    candidates, _ = _candidates(config, seed=9)
    kv = scattered_pages(ranker.layout, LENGTHS)
    ranker.context_pass(tokens_of(users, [None] * len(users)), kv)
    scores = ranker.crossing_pass(candidates, kv)
    assert scores.dtype == torch.float32
    assert (scores != scores.bfloat16()).float().mean() > 0.9


def test_candidates_do_not_see_each_other() -> None:
    config = tiny_config()
    ranker = tiny_ranker(config).double()
    users = [random_actions(config, 20, 1)]
    kv = scattered_pages(ranker.layout, [20])
    ranker.context_pass(tokens_of(users, [None]), kv)
    rows = torch.tensor([[4], [9], [4]])
    zeros = torch.zeros(3, dtype=torch.int64)
    together = ranker.crossing_pass(CandidateTokens(rows, zeros, zeros, None, bounds([3])), kv)
    alone = ranker.crossing_pass(
        CandidateTokens(rows[1:2], zeros[:1], zeros[:1], None, bounds([1])), kv
    )
    torch.testing.assert_close(together[1:2], alone, rtol=1e-14, atol=0)
    torch.testing.assert_close(together[0], together[2], rtol=0, atol=0)
