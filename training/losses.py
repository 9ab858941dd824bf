"""What training minimises: cross-entropy a task and the router losses (CollectiveKV eq. 10, 11)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shared.model.kv_source import RouterLosses
from training.cases import RankingCase


def task_loss(logits: Tensor, cases: Sequence[RankingCase]) -> Tensor:
    """Sum over the tasks of the mean binary cross-entropy; `like` counts the watched alone.

    Args:
        logits: [N, 2] of the cases' candidates behind each other, `watch` then `like`.
        cases: where the labels are.
    """
    watch = torch.from_numpy(np.concatenate([case.watch for case in cases]))
    like = torch.from_numpy(np.concatenate([case.like for case in cases]))[watch]
    watch_loss = F.binary_cross_entropy_with_logits(logits[:, 0], watch.to(logits.dtype))
    like_loss = F.binary_cross_entropy_with_logits(logits[watch, 1], like.to(logits.dtype))
    return watch_loss + like_loss


def router_loss(
    layers: Sequence[RouterLosses], peak_weight: float, balance_weight: float
) -> Tensor | float:
    """Weighted peak and balance losses, mean over the layers; 0 where no token was routed."""
    routed = [losses for losses in layers if losses.rows.numel()]
    if not routed:
        return 0.0
    peak = torch.stack([losses.peak for losses in routed]).mean()
    balance = torch.stack([losses.balance for losses in routed]).mean()
    return peak_weight * peak + balance_weight * balance
