"""Ragged batches as the two passes take them, built from arrays of ids and times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.histories import Pages
from shared.model.config import GAP_BUCKETS


@dataclass(frozen=True)
class HistoryTokens:
    """Action tokens of B users, behind each other."""

    item_rows: Tensor
    """[T, tables] int64."""
    action_types: Tensor
    """[T] int64."""
    surfaces: Tensor
    """[T] int64."""
    gaps: Tensor
    """[T] int64: bucket of the time since the user's previous action."""
    cu_tokens: Tensor
    """[B + 1] int32."""


@dataclass(frozen=True)
class CandidateTokens:
    """Candidate tokens of B users, behind each other."""

    item_rows: Tensor
    """[N, tables] int64."""
    surfaces: Tensor
    """[N] int64."""
    gaps: Tensor
    """[N] int64: bucket of the time from the user's newest action to the request."""
    features: Tensor | None
    """[N, feature_dim] floating, or None where the model or the request has none."""
    cu_candidates: Tensor
    """[B + 1] int32."""


@dataclass(frozen=True)
class PagedKV:
    """KV entries of B users in an arena of pages, all layers."""

    arena: Tensor
    """[pages, page_bytes] uint8."""
    pages: Pages


def gap_buckets(seconds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bucket min(31, floor(log2(1 + seconds))) of each gap; negative gaps count as 0."""
    longest = 2**GAP_BUCKETS  # all longer ones share the last bucket; below it float64 is exact
    _, exponent = np.frexp(np.clip(seconds, 0, longest).astype(np.float64) + 1.0)
    return np.minimum(exponent - 1, GAP_BUCKETS - 1).astype(np.int64)


def action_gaps(times_s: NDArray[np.int64], previous_s: int | None) -> NDArray[np.int64]:
    """Gap buckets of one user's actions; `previous_s`: time of the action before them, if any."""
    first = times_s[:1] if previous_s is None else np.array([previous_s], np.int64)
    return gap_buckets(np.diff(times_s, prepend=first))


def bounds(lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Running bounds [B + 1] int32 of `lengths`, from 0."""
    cumulative = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=cumulative[1:])
    return torch.from_numpy(cumulative).to(device)
