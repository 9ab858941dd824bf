from __future__ import annotations

import numpy as np
import pytest
import torch

from shared.model.items import ItemList
from shared.model.ranker import Ranker
from tests.training.synthetic import tastes
from training.cases import CaseSampler
from training.evaluation import TaskMetrics, mean_auc, serving_scores, task_metrics
from training.losses import task_loss
from training.movielens import MovieLens
from training.tokens import candidate_tokens, history_tokens
from training.trainer import Recipe, train
from training.variants import Variant

SHORT = Recipe(epochs=2, validate_every=1, batch_users=16)
LONG = Recipe(
    epochs=16, validate_every=4, patience=16, batch_users=16, weight_decay=0.1, dropout=0.0
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MovieLens:
    return tastes(tmp_path_factory.mktemp("tastes"), users=160)


def measure(data: MovieLens, variant: Variant) -> dict[str, TaskMetrics]:
    trained = train(data, variant, 0, LONG, lambda epoch: None)
    cases = variant.cases(variant.sampler(data, 0).test_cases())
    return task_metrics(cases, serving_scores(trained.ranker, ItemList(data.item_ids), cases))


def test_histories_are_learned_from_and_dealt_data_are_not(data: MovieLens) -> None:
    """What training learns of items and ratings dealt at random predicts nothing held out."""
    metrics = {
        variant: measure(data, variant)
        for variant in (Variant.COLLECTIVE, Variant.NO_CONTEXT, Variant.SHUFFLED_LABELS)
    }
    collective, shuffled = metrics[Variant.COLLECTIVE], metrics[Variant.SHUFFLED_LABELS]
    assert collective["watch"].gauc > 0.7
    assert collective["like"].auc > 0.7
    assert metrics[Variant.NO_CONTEXT]["watch"].gauc < collective["watch"].gauc - 0.15
    # 320 positives and as many decoys: one deviation is 0.023; of the 320 half are liked: 0.032
    assert abs(shuffled["watch"].auc - 0.5) < 4 * 0.023
    assert abs(shuffled["like"].auc - 0.5) < 4 * 0.032


@pytest.mark.parametrize("variant", list(Variant))
def test_seed_decides_every_weight(data: MovieLens, variant: Variant) -> None:
    seen: list[int] = []
    one, same, other = (
        train(data, variant, seed, SHORT, seen.append).ranker.state_dict() for seed in (1, 1, 2)
    )
    assert seen == [1, 2] * 3
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["item.weight"], other["item.weight"])


def test_gradients_reach_every_part(data: MovieLens) -> None:
    """Task loss alone: the gate at the winning logit carries it to the routers."""
    torch.manual_seed(0)
    items = ItemList(data.item_ids)
    cases = CaseSampler(data).training_cases(np.random.default_rng(0), 0.3, 0.4)[:16]
    ranker = Ranker(Variant.COLLECTIVE.config(len(data.item_ids)))
    output = ranker(history_tokens(cases, items), candidate_tokens(cases, items))
    task_loss(output.logits, cases).backward()
    without = [
        name
        for name, parameter in ranker.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


def test_pool_rows_stay_in_use(data: MovieLens) -> None:
    """Decayed routers use 38 and 40 of the 256 rows here, spared ones 83 and 133."""
    decay = Recipe(epochs=8, validate_every=8, batch_users=4)
    trained = train(data, Variant.COLLECTIVE, 0, decay, lambda epoch: None)
    items, cases = ItemList(data.item_ids), CaseSampler(data).test_cases()
    with torch.no_grad():
        output = trained.ranker(history_tokens(cases, items), candidate_tokens(cases, items))
    assert all(len(losses.rows.unique()) > 60 for losses in output.router_losses)


def test_the_kept_weights_are_the_best_validated(data: MovieLens) -> None:
    trained = train(data, Variant.COLLECTIVE, 0, SHORT, lambda epoch: None)
    cases = CaseSampler(data).validation_cases()
    scores = serving_scores(trained.ranker, ItemList(data.item_ids), cases)
    assert trained.validation_auc == pytest.approx(mean_auc(cases, scores), abs=1e-12)
    assert trained.epoch in (1, 2)


def test_stops_when_nothing_gets_better(data: MovieLens) -> None:
    still = Recipe(epochs=9, validate_every=1, patience=2, batch_users=80, learning_rate=0.0)
    done: list[int] = []
    trained = train(data, Variant.NO_CONTEXT, 0, still, done.append)
    assert (trained.epoch, done[-1]) == (1, 3)
