"""Crossing attention in plain torch: expand the history, then one user after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.histories import History
from kernels.history_contract import history_bounds
from kernels.kv_expand import kv_expand
from kernels.workspace import rows_at_once


def attend(
    q: Tensor, k_self: Tensor, v_self: Tensor, history: History, cu_candidates: Tensor, scale: float
) -> Tensor:
    """See `kernels.crossing_attention.crossing_attention`."""
    k, v = kv_expand(history, q.dtype)
    groups = q.shape[1] // k.shape[1]
    self_logit = (q * k_self.repeat_interleave(groups, dim=1)).sum(-1) * scale
    bounds, candidate_bounds = history_bounds(history).tolist(), cu_candidates.tolist()
    outputs = []
    for user in range(len(candidate_bounds) - 1):
        mine = slice(candidate_bounds[user], candidate_bounds[user + 1])
        theirs = slice(bounds[user], bounds[user + 1])
        k_user = k[theirs].repeat_interleave(groups, dim=1)
        v_user = v[theirs].repeat_interleave(groups, dim=1)
        rows = rows_at_once(q.shape[1], len(k_user))
        for q_rows, self_rows, v_rows in zip(
            q[mine].split(rows), self_logit[mine].split(rows), v_self[mine].split(rows), strict=True
        ):
            logits = torch.einsum("nhd,khd->nhk", q_rows, k_user) * scale
            weights = torch.cat((logits, self_rows.unsqueeze(-1)), dim=-1).softmax(dim=-1)
            attended = torch.einsum("nhk,khd->nhd", weights[..., :-1], v_user)
            own = weights[..., -1:] * v_rows.repeat_interleave(groups, dim=1)
            outputs.append(attended + own)
    return torch.cat(outputs) if outputs else torch.empty_like(q)
