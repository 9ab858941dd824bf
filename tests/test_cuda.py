"""Both services' device paths on a GPU: the same entries and the same scores as on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from context_service.encoder import ContextEncoder, Encoded, EncodeWork
from context_service.history import History
from crossing_service.arena import Arena
from crossing_service.candidates import Candidates
from crossing_service.scorer import CrossingScorer, Scored, ScoreWork
from shared.kv.codec import EntryCodec, EntryHeader
from shared.model.checkpoint import load_checkpoint
from tests.tiny_model import FORMS, tiny_checkpoint_dir, tiny_config, tiny_item_ids

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

LENGTHS = {"ada": 1, "bob": 16, "cleo": 33, "dora": 150}


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
        payloads.append(result.payload.tobytes())
    return payloads


def scored_on(
    device: str, directory: Path, payloads: list[bytes], requests: list[Candidates]
) -> list[np.ndarray[Any, Any]]:
    checkpoint = load_checkpoint(directory, device=device)
    layout, config = checkpoint.ranker.layout, checkpoint.config
    codec = EntryCodec(layout, checkpoint.fingerprint, max_tokens=config.max_history)
    arena = Arena(
        layout, cache_bytes=64 * layout.page_bytes, max_tokens=config.max_history, device=device
    )
    works = []
    for (user, tokens), payload, request in zip(LENGTHS.items(), payloads, requests, strict=True):
        header = EntryHeader(checkpoint.fingerprint, user, tokens, 10**9, 1, 1)
        entry = arena.insert(codec.decode(user, codec.encode(header, payload)), 0.0)
        works.append(ScoreWork(entry, request))
    scores = []
    for outcome in CrossingScorer(checkpoint.ranker, checkpoint.items, arena).score(works):
        assert isinstance(outcome, Scored)
        scores.append(outcome.scores)
    return scores


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_gpu_encodes_and_scores_as_the_cpu(tmp_path: Path, form: dict[str, Any]) -> None:
    tiny_checkpoint_dir(tmp_path, tiny_config(**form))
    rng = np.random.default_rng(5)
    works = [EncodeWork(history(rng, tokens)) for tokens in LENGTHS.values()]
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
    expected = scored_on("cpu", tmp_path, payloads, requests)
    found = scored_on("cuda", tmp_path, payloads, requests)
    again = scored_on("cuda", tmp_path, payloads, requests)
    for cpu, gpu, repeated in zip(expected, found, again, strict=True):
        assert gpu.shape == cpu.shape
        np.testing.assert_allclose(gpu, cpu, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(gpu, repeated)
