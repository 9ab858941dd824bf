from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from shared.model.kv_source import CollectiveKV, RouterLosses
from tests.tiny_model import tiny_config
from training.cases import RankingCase
from training.losses import router_loss, task_loss


def labelled(watch: list[bool], like: list[bool]) -> RankingCase:
    none = np.empty(0, np.int64)
    ids = np.arange(len(watch), dtype=np.uint64)
    return RankingCase(
        "u", none.astype(np.uint64), none, none, ids, 0, np.array(watch), np.array(like)
    )


def entropy(logit: float, label: bool) -> float:
    return math.log1p(math.exp(-logit if label else logit))


def test_task_loss_is_a_mean_a_task_and_likes_need_a_watch() -> None:
    cases = [labelled([True, False], [True, False]), labelled([True], [False])]
    logits = torch.tensor([[0.3, -0.2], [1.1, 50.0], [-0.7, 0.9]])  # 50: not watched, not counted
    watch = (entropy(0.3, True) + entropy(1.1, False) + entropy(-0.7, True)) / 3
    like = (entropy(-0.2, True) + entropy(0.9, False)) / 2
    assert task_loss(logits, cases).item() == pytest.approx(watch + like, rel=1e-6)


def test_router_losses_are_the_papers() -> None:
    torch.manual_seed(0)
    kv = CollectiveKV(tiny_config(router="separate")).double()
    h = torch.randn(9, 24, dtype=torch.float64)
    _, _, losses = kv.training_form(h)
    peaks, balances = [], []
    for weight, bias in zip(kv.router_weight, kv.router_bias, strict=True):
        logits = (h @ weight.T + bias).tolist()
        peaks += [-math.log(1 / (1 + math.exp(-max(row)))) for row in logits]
        shares = [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in logits]
        use = [sum(column) / len(shares) for column in zip(*shares, strict=True)]
        balances.append(sum(p * math.log(len(use) * p) for p in use))
    assert losses.peak.item() == pytest.approx(sum(peaks) / len(peaks))
    assert losses.balance.item() == pytest.approx(sum(balances) / 2)


def test_router_loss_weighs_and_averages_over_layers() -> None:
    rows = torch.zeros(1, 4, dtype=torch.int64)
    layers = [
        RouterLosses(torch.tensor(0.5), torch.tensor(2.0), rows),
        RouterLosses(torch.tensor(1.5), torch.tensor(4.0), rows),
    ]
    assert float(router_loss(layers, 0.1, 0.01)) == pytest.approx(0.1 * 1.0 + 0.01 * 3.0)


def test_nothing_routed_costs_nothing() -> None:
    _, _, losses = CollectiveKV(tiny_config()).training_form(torch.empty(0, 24))
    assert router_loss([losses], 1.0, 1.0) == 0
    assert router_loss([], 1.0, 1.0) == 0
