"""Random histories in every form, and the dense keys and values they stand for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from kernels.histories import (
    CodedHistory,
    CollectiveHistory,
    DenseHistory,
    History,
    Pages,
    RaggedHistory,
)
from kernels.pools import aligned_pool
from tests.kernels.oracle import Array

PAGE = 16
POOL, GROUPS, DIM, CODES = 29, 2, 8, 5
FORMS = ("ragged", "dense", "dense_bf16", "separate", "tied", "bf16_slices", "no_slice", "coded")
KINDS = tuple(form for form in FORMS if "bf16" not in form)
"""The forms that still differ when all numbers are cast to one dtype."""


def bounds(lengths: list[int]) -> torch.Tensor:
    return torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32)


def pages_of(lengths: list[int], rng: np.random.Generator) -> tuple[Pages, int]:
    """Pages in random order among pages that nobody uses, and how many there are in all."""
    counts = [-(-length // PAGE) for length in lengths]
    numbers = rng.permutation(sum(counts) + 2)
    table = torch.full((len(lengths), max(counts, default=0) + 1), -7, dtype=torch.int32)
    at = 0
    for user, count in enumerate(counts):
        table[user, :count] = torch.from_numpy(numbers[at : at + count])
        at += count
    return Pages.of(table, lengths, PAGE), len(numbers)


def random_history(
    form: str, lengths: list[int], seed: int, dim: int = DIM, width: int = 2
) -> tuple[History, Array, Array]:
    """A history of users of `lengths` tokens, and its K and V [T, G, D], expanded token by token.

    Slots that belong to no token hold NaN or an index out of range.
    """
    rng = np.random.default_rng(seed)
    pages, count = pages_of(lengths, rng)
    where = [
        (int(pages.block_table[user, t // PAGE]), t % PAGE)
        for user, length in enumerate(lengths)
        for t in range(length)
    ]
    used = torch.zeros(count, PAGE, dtype=torch.bool)
    for page, slot in where:
        used[page, slot] = True

    def plane(*inner: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        values = torch.from_numpy(rng.normal(size=(count, PAGE, *inner))).to(dtype)
        values[~used] = torch.nan
        return values

    def index_plane(limit: int, dtype: torch.dtype) -> torch.Tensor:
        values = torch.from_numpy(rng.integers(0, limit, (count, PAGE)))
        values[~used] = torch.iinfo(dtype).max
        return values.to(dtype)

    if form in {"ragged", "dense", "dense_bf16"}:
        dtype = torch.bfloat16 if form == "dense_bf16" else torch.float64
        key, value = plane(GROUPS, dim, dtype=dtype), plane(GROUPS, dim, dtype=dtype)
        k = np.array([key[at].double().numpy() for at in where]).reshape(-1, GROUPS, dim)
        v = np.array([value[at].double().numpy() for at in where]).reshape(-1, GROUPS, dim)
        if form == "ragged":
            ragged = RaggedHistory(torch.from_numpy(k), torch.from_numpy(v), pages.cu_history)
            return ragged, k, v
        return DenseHistory(pages, key, value), k, v

    width = 0 if form == "no_slice" else width
    key_pool = torch.from_numpy(rng.normal(size=(POOL, GROUPS, dim - width)))
    value_pool = torch.from_numpy(rng.normal(size=(POOL, GROUPS, dim - width)))
    pools = aligned_pool(key_pool, dim), aligned_pool(value_pool, dim)
    key_row = index_plane(POOL, torch.uint16)
    history: History
    if form == "coded":
        steps = torch.from_numpy(rng.integers(-127, 128, (count, PAGE, width))).to(torch.int8)
        codebook = torch.from_numpy(rng.normal(size=(CODES, width)))
        step = torch.tensor(0.05, dtype=torch.float64)
        code = index_plane(CODES, torch.uint8)
        history = CodedHistory(pages, key_row, code, steps, codebook, step, *pools)
        key_slices = [codebook[int(code[at])].numpy() for at in where]
        value_slices = [0.05 * steps[at].double().numpy() for at in where]
        value_row = key_row
    else:
        dtype = torch.bfloat16 if form == "bf16_slices" else torch.float64
        key_slice, value_slice = plane(width, dtype=dtype), plane(width, dtype=dtype)
        value_row = key_row if form == "tied" else index_plane(POOL, torch.uint16)
        history = CollectiveHistory(pages, key_row, value_row, key_slice, value_slice, *pools)
        key_slices = [key_slice[at].double().numpy() for at in where]
        value_slices = [value_slice[at].double().numpy() for at in where]

    k, v = np.empty((len(where), GROUPS, dim)), np.empty((len(where), GROUPS, dim))
    for t, at in enumerate(where):
        for g in range(GROUPS):
            k[t, g] = [*key_slices[t], *key_pool[int(key_row[at]), g]]
            v[t, g] = [*value_slices[t], *value_pool[int(value_row[at]), g]]
    return history, k, v


def reordered(history: CollectiveHistory) -> CollectiveHistory:
    """The same history with key rows and value rows swapped: what a mixed-up kernel would read."""
    return replace(history, key_row=history.value_row, value_row=history.key_row)
