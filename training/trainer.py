"""Trains one ranker: an epoch is a cut in each user's history, the next items as candidates."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from shared.model.items import ItemIndex, ItemList
from shared.model.ranker import Ranker
from training.cases import RankingCase
from training.evaluation import mean_auc, serving_scores
from training.losses import router_loss, task_loss
from training.movielens import MovieLens
from training.tokens import candidate_tokens, history_tokens
from training.variants import Variant


@dataclass(frozen=True)
class Recipe:
    """How a ranker is trained; every variant with the same."""

    epochs: int = 30
    validate_every: int = 3
    """Epochs between validations; the best validated weights are kept."""
    patience: int = 9
    """Stop after so many epochs without a better validation."""
    batch_users: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 1.0
    """Decoupled (AdamW); not on gains, biases and routers."""
    dropout: float = 0.3
    max_gradient_norm: float = 1.0
    averaging: float = 0.99
    """Decay a step of the moving average of the weights, which is what is kept."""
    first_cut: float = 0.3
    """The earliest cut, as a share of a user's training part."""
    horizon: float = 0.4
    """Items after the cut that become candidates, as a share of the training part."""
    peak_weight: float = 0.01
    balance_weight: float = 0.01


@dataclass(frozen=True)
class Trained:
    """The best ranker of a run."""

    ranker: Ranker
    validation_auc: float
    """Mean of both tasks' AUC on the validation cases."""
    epoch: int
    """After how many epochs it was reached."""


def train(
    data: MovieLens,
    variant: Variant,
    seed: int,
    recipe: Recipe,
    report: Callable[[int], None],
) -> Trained:
    """Train `variant`; the result depends on the arguments alone.

    Args:
        data: what `load_movielens` gave; the control deals it out anew.
        variant: what is trained.
        seed: of weights, cuts, negatives and dropout.
        recipe: how.
        report: called after every epoch with how many are done.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    sampler = variant.sampler(data, seed)
    items = ItemList(data.item_ids)
    ranker = Ranker(variant.config(len(data.item_ids)), recipe.dropout)
    averaged = AveragedModel(ranker, multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging))
    kept = cast(Ranker, averaged.module).eval()
    optimizer = _optimizer(ranker, recipe)
    validation = variant.cases(sampler.validation_cases())
    best: Trained | None = None
    for epoch in range(1, recipe.epochs + 1):
        cases = sampler.training_cases(rng, recipe.first_cut, recipe.horizon)
        for batch in _batches(variant.cases(cases), recipe.batch_users, rng):
            _step(ranker, optimizer, batch, items, recipe)
            averaged.update_parameters(ranker)
        if epoch % recipe.validate_every == 0 or epoch == recipe.epochs:
            scores = serving_scores(kept, items, validation)
            reached = mean_auc(validation, scores)
            if best is None or reached > best.validation_auc:
                best = Trained(copy.deepcopy(kept), reached, epoch)
        report(epoch)
        if best is not None and epoch - best.epoch >= recipe.patience:
            break
    if best is None:
        raise ValueError(f"recipe.epochs: {recipe.epochs}, expected at least 1")
    return best


def _optimizer(ranker: Ranker, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; decay spares gains, biases and routers: decayed, these choose 25 rows of 256."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in ranker.named_parameters():
        (spared if parameter.dim() <= 1 or "router" in name else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def _batches(
    cases: list[RankingCase], size: int, rng: np.random.Generator
) -> list[list[RankingCase]]:
    """The cases in random order, in batches of `size` or one fewer."""
    parts = np.array_split(rng.permutation(len(cases)), math.ceil(len(cases) / size))
    return [[cases[number] for number in part] for part in parts]


def _step(
    ranker: Ranker,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[RankingCase],
    items: ItemIndex,
    recipe: Recipe,
) -> None:
    output = ranker(history_tokens(batch, items), candidate_tokens(batch, items))
    loss = task_loss(output.logits, batch) + router_loss(
        output.router_losses, recipe.peak_weight, recipe.balance_weight
    )
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(ranker.parameters(), recipe.max_gradient_norm)
    optimizer.step()
