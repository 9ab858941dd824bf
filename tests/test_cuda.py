"""On a GPU: both services and both passes compute what they do on a CPU, and never wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from context_service.encoder import ContextEncoder, Encoded, EncodeWork
from context_service.history import History
from crossing_service.arena import Arena
from crossing_service.candidates import Candidates
from crossing_service.scorer import CrossingScorer, Scored, ScoreWork
from kernels.kv_expand import reference
from shared.kv.codec import EntryCodec, EntryHeader
from shared.model.batch import CandidateTokens, HistoryTokens, PagedKV, bounds
from shared.model.checkpoint import load_checkpoint
from shared.model.config import GAP_BUCKETS
from shared.model.items import embedding_rows
from shared.model.layers import Layer
from shared.model.ranker import Ranker
from tests.model.paged import random_actions, scattered_pages, tokens_of, up_to
from tests.tiny_model import FORMS, tiny_checkpoint_dir, tiny_config, tiny_item_ids, tiny_ranker

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

Users = tuple[tuple[int, int, int], ...]
"""Stored actions, new actions and candidates of each."""

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "ml-100k"
LENGTHS = (1, 16, 33, 150)
WIDE_HEADS = {"head_dim": 32}
"""The tiny model's own heads are too narrow for the kernels: it runs the reference."""
ENCODE = ((0, 1, 7), (0, 16, 0), (0, 0, 3), (0, 33, 64), (0, 150, 30))
APPEND = ((130, 20, 7), (16, 1, 0), (0, 0, 3), (0, 33, 64), (31, 2, 30))
MANY = ((0, 1500, 2500), (0, 700, 2500))
"""Enough for attention over pool rows to pay."""
CASES: dict[str, tuple[dict[str, Any], Users]] = {
    f"{form}-encode": (FORMS[form], ENCODE) for form in FORMS
}
CASES |= {f"{form}-append": (FORMS[form], APPEND) for form in FORMS}
CASES |= {"coded-many": (FORMS["coded"], MANY)}

each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
each_dtype = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
each_case = pytest.mark.parametrize(("form", "users"), CASES.values(), ids=CASES)


def history(rng: np.random.Generator, tokens: int) -> History:
    return History(
        rng.choice(tiny_item_ids(), tokens),
        rng.integers(0, 3, tokens),
        rng.integers(0, 2, tokens),
        np.sort(rng.integers(0, 10**9, tokens)),
    )


def encoded_on(device: str, directory: Path, works: list[EncodeWork]) -> list[bytes]:
    checkpoint = load_checkpoint(directory, device=device, dtype=torch.float64)
    payloads = []
    for result in ContextEncoder(checkpoint, device).encode(works):
        assert isinstance(result, Encoded)
        assert result.unknown_items == 0
        payloads.append(result.payload.tobytes())
    return payloads


def scored_on(
    device: str,
    directory: Path,
    works: list[EncodeWork],
    payloads: list[bytes],
    requests: list[Candidates],
    dtype: torch.dtype = torch.float32,
) -> list[np.ndarray[Any, Any]]:
    checkpoint = load_checkpoint(directory, device=device, dtype=dtype)
    layout, config = checkpoint.ranker.layout, checkpoint.config
    codec = EntryCodec(layout, checkpoint.fingerprint, max_tokens=config.max_history)
    room = sum(map(len, payloads)) + layout.payload_bytes(config.max_history)
    arena = Arena(layout, cache_bytes=room, max_tokens=config.max_history, device=device)
    asked = []
    for number, (work, payload, request) in enumerate(zip(works, payloads, requests, strict=True)):
        user, newest_s = f"user-{number}", work.history.last_event_time_s
        header = EntryHeader(checkpoint.fingerprint, user, work.tokens, newest_s, 1, 1)
        entry = arena.insert(codec.decode(user, codec.encode(header, payload)), 0.0)
        asked.append(ScoreWork(entry, request))
    scores = []
    for outcome in CrossingScorer(checkpoint.ranker, checkpoint.items, arena).score(asked):
        assert isinstance(outcome, Scored)
        assert outcome.unknown_items == 0
        scores.append(outcome.scores)
    return scores


@pytest.mark.parametrize("heads", [{}, WIDE_HEADS], ids=["reference", "triton"])
@each_form
def test_a_gpu_encodes_and_scores_as_the_cpu(
    tmp_path: Path, form: dict[str, Any], heads: dict[str, int]
) -> None:
    tiny_checkpoint_dir(tmp_path, tiny_config(**form, **heads))
    rng = np.random.default_rng(5)
    works = [EncodeWork(history(rng, tokens)) for tokens in LENGTHS]
    requests = [
        Candidates(
            rng.choice(tiny_item_ids(), count),
            rng.integers(0, 2, count).astype(np.uint32),
            rng.standard_normal((count, 3)).astype(np.float32),
            (1, 0),
            10**9 + 60,
        )
        for count in (1, 7, 64, 300)
    ]
    payloads = encoded_on("cpu", tmp_path, works)
    assert encoded_on("cuda", tmp_path, works) == payloads
    expected = scored_on("cpu", tmp_path, works, payloads, requests)
    found = scored_on("cuda", tmp_path, works, payloads, requests)
    again = scored_on("cuda", tmp_path, works, payloads, requests)
    for cpu, gpu, repeated in zip(expected, found, again, strict=True):
        assert gpu.shape == cpu.shape
        np.testing.assert_allclose(gpu, cpu, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(gpu, repeated)


def test_the_shipped_model_scores_on_a_gpu_as_on_the_cpu() -> None:
    """Users with as many actions as its data have (median 52, 16 to 590), everything random.

    A bfloat16 query or output has three digits, and attention that wavers between two tokens makes
    more of a last digit: a few scores in a thousand move by more than 0.002.
    """
    rng = np.random.default_rng(7)
    catalogue = np.arange(1, 1683, dtype=np.uint64)
    works, requests = [], []
    for tokens in np.exp(rng.normal(4.0, 0.9, 40)).clip(16, 590).astype(int):
        times_s = 10**9 + np.cumsum(2 ** rng.uniform(0, 9, tokens)).astype(np.int64)
        watched = rng.choice(catalogue, tokens, replace=False)
        ratings, surfaces = rng.integers(0, 5, tokens), np.zeros(tokens, np.int64)
        works.append(EncodeWork(History(watched, ratings, surfaces, times_s)))
        films = rng.choice(catalogue, 300, replace=False)
        asked_s = int(times_s[-1] + 2 ** rng.uniform(0, 20))
        requests.append(Candidates(films, None, None, (0, 1), asked_s))
    payloads = encoded_on("cpu", SHIPPED, works)
    expected = np.stack(scored_on("cpu", SHIPPED, works, payloads, requests))
    exact = np.stack(scored_on("cuda", SHIPPED, works, payloads, requests))
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-5)
    narrow = scored_on("cuda", SHIPPED, works, payloads, requests, torch.bfloat16)
    off = np.abs(np.stack(narrow) - expected)
    within = (off <= 2e-3).mean()
    assert within >= 0.99, f"{within:.2%} within 0.002, the worst {off.max():.4f} away"
    assert off.max() <= 0.01


@dataclass(frozen=True)
class Batch:
    """What both passes take, on the GPU; `kv` already holds the actions before `tokens`."""

    tokens: HistoryTokens
    candidates: CandidateTokens
    kv: PagedKV


def batch(ranker: Ranker, users: Users, seed: int) -> Batch:
    """Random actions and candidates of `users`, their pages in random order in an arena of 0xFF."""
    config, rng = ranker.config, np.random.default_rng(seed)
    stored, new, counts = (list(numbers) for numbers in zip(*users, strict=True))
    lengths = [before + more for before, more in zip(stored, new, strict=True)]
    actions = [random_actions(config, count, 97 * seed + u) for u, count in enumerate(lengths)]
    older = [user.part(0, count) for user, count in zip(actions, stored, strict=True)]
    newer = [user.part(count, len(user)) for user, count in zip(actions, stored, strict=True)]
    before_s = [int(user.times_s[-1]) if len(user) else None for user in older]
    kv = on("cuda", scattered_pages(ranker.layout, lengths, seed))
    ranker.context_pass(on("cuda", tokens_of(older, [None] * len(users))), up_to(kv, stored))
    total, tables = sum(counts), actions[0].item_rows.shape[1]
    candidates = CandidateTokens(
        torch.from_numpy(rng.integers(0, embedding_rows(config.items), (total, tables))),
        torch.from_numpy(rng.integers(0, len(config.surfaces), total)),
        torch.from_numpy(rng.integers(0, GAP_BUCKETS, total)),
        torch.from_numpy(rng.standard_normal((total, config.feature_dim)).astype(np.float32)),
        bounds(counts),
    )
    return Batch(on("cuda", tokens_of(newer, before_s)), on("cuda", candidates), kv)


def on(device: str, value: Any) -> Any:
    """`value` with all its tensors on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, int):
        return value
    return replace(
        value, **{part.name: on(device, getattr(value, part.name)) for part in fields(value)}
    )


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif not isinstance(value, int):
        for part in fields(value):
            yield from tensors(getattr(value, part.name))


def both_passes(ranker: Ranker, given: Batch) -> tuple[Tensor, Tensor]:
    finite = ranker.context_pass(given.tokens, given.kv)
    return finite, ranker.crossing_pass(given.candidates, given.kv)


def dense_kv(ranker: Ranker, kv: PagedKV) -> Tensor:
    """Keys and values of all layers, [L, 2, T, G, D]."""
    dense = []
    for number, layer in enumerate(ranker.layers):
        assert isinstance(layer, Layer)
        history = layer.kv.history(ranker.layout.planes(kv.arena, number), kv.pages)
        dense.append(torch.stack(reference.expand(history, torch.float64)))
    return torch.stack(dense)


def relative_error(out: Tensor, exact: Tensor) -> float:
    return float((out.double().cpu() - exact).norm() / exact.norm())


@each_case
@each_dtype
def test_captured_passes_replay_on_other_inputs(
    form: dict[str, Any], dtype: torch.dtype, users: Users
) -> None:
    """In the same buffers, with other users' lengths: as many in all, the longest the same."""
    ranker = tiny_ranker(tiny_config(**form, **WIDE_HEADS)).to("cuda", dtype)
    buffers, other = batch(ranker, users, seed=1), batch(ranker, users[::-1], seed=2)
    both_passes(ranker, buffers)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        finite, scores = both_passes(ranker, buffers)
    graph.replay()
    first = scores.clone()
    for buffer, tensor in zip(tensors(buffers), tensors(other), strict=True):
        buffer.copy_(tensor)
    graph.replay()
    other_finite, other_scores = both_passes(ranker, other)
    assert torch.equal(scores, other_scores)
    assert torch.equal(finite, other_finite)
    assert torch.equal(buffers.kv.arena, other.kv.arena)
    assert bool(finite.all())
    assert not torch.equal(scores, first)


@each_dtype
@each_form
def test_scores_are_as_near_to_exact_ones_as_on_the_cpu(
    form: dict[str, Any], dtype: torch.dtype
) -> None:
    config = tiny_config(**form, **WIDE_HEADS)
    ranker = tiny_ranker(config).to("cuda", dtype)
    given = batch(ranker, APPEND, seed=3)
    _, scores = both_passes(ranker, given)
    candidates, kv = on("cpu", given.candidates), on("cpu", given.kv)
    exact = tiny_ranker(config).double().crossing_pass(candidates, kv)
    plain = tiny_ranker(config).to(dtype).crossing_pass(candidates, kv)
    assert relative_error(scores, exact) <= 2 * relative_error(plain, exact) + 1e-6


@each_case
def test_a_float32_context_pass_writes_what_the_cpu_does(
    form: dict[str, Any], users: Users
) -> None:
    """In bfloat16 close logits change places and with them whole pool rows."""
    config = tiny_config(**form, **WIDE_HEADS)
    ranker, exact = tiny_ranker(config).to("cuda"), tiny_ranker(config).double()
    given = batch(ranker, users, seed=5)
    tokens, kv = on("cpu", given.tokens), on("cpu", given.kv)
    ranker.context_pass(given.tokens, given.kv)
    exact.context_pass(tokens, kv)
    written = dense_kv(exact, on("cpu", given.kv))
    assert relative_error(written, dense_kv(exact, kv)) < 2e-3


@each_form
@each_dtype
def test_no_pass_waits_for_the_device(form: dict[str, Any], dtype: torch.dtype) -> None:
    ranker = tiny_ranker(tiny_config(**form, **WIDE_HEADS)).to("cuda", dtype)
    given = batch(ranker, APPEND, seed=4)
    both_passes(ranker, given)  # compiles, aligns the pools
    torch.cuda.set_sync_debug_mode("error")
    try:
        _, scores = both_passes(ranker, given)
        with pytest.raises(RuntimeError, match="synchroniz"):
            scores.sum().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
