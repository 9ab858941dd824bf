"""Causal attention in plain torch: one user after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.workspace import rows_at_once


def attend(
    q: Tensor, k: Tensor, v: Tensor, cu_query: Tensor, cu_history: Tensor, scale: float
) -> Tensor:
    """See `kernels.context_attention.context_attention`."""
    groups = q.shape[1] // k.shape[1]
    query_bounds, history_bounds = cu_query.tolist(), cu_history.tolist()
    outputs = []
    for user in range(len(query_bounds) - 1):
        history = slice(history_bounds[user], history_bounds[user + 1])
        k_user = k[history].repeat_interleave(groups, dim=1)
        v_user = v[history].repeat_interleave(groups, dim=1)
        first, last = query_bounds[user : user + 2]
        position = len(k_user) - (last - first)  # of the user's first query
        for q_rows in q[first:last].split(rows_at_once(q.shape[1], len(k_user))):
            logits = torch.einsum("qhd,khd->hqk", q_rows, k_user) * scale
            causal = torch.ones(logits.shape[1:], dtype=torch.bool, device=q.device).tril(position)
            weights = logits.masked_fill(~causal, -torch.inf).softmax(dim=-1)
            outputs.append(torch.einsum("hqk,khd->qhd", weights, v_user))
            position += len(q_rows)
    return torch.cat(outputs) if outputs else torch.empty_like(q)
