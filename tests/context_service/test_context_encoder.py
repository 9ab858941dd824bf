"""Batches through the context pass: what one user gets does not depend on the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from context_service.encoder import ContextEncoder, Encoded, EncodeWork
from context_service.history import History
from shared.errors import NonFiniteResultError
from shared.kv.codec import Entry, EntryHeader
from shared.model.checkpoint import Checkpoint, load_checkpoint
from tests.tiny_model import FORMS, tiny_checkpoint_dir, tiny_config, tiny_item_ids

forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def _checkpoint(path: Path, form: dict[str, Any]) -> Checkpoint:
    tiny_checkpoint_dir(path, tiny_config(**form), seed=2)
    return load_checkpoint(path, dtype=torch.float64)


def _history(count: int, seed: int) -> History:
    rng = np.random.default_rng(seed)
    return History(
        rng.choice(tiny_item_ids(), count),
        rng.integers(0, 3, count),
        rng.integers(0, 2, count),
        np.cumsum(rng.integers(0, 9000, count)),
    )


def _slice(history: History, first: int, last: int) -> History:
    cut = slice(first, last)
    return History(
        history.item_ids[cut],
        history.action_types[cut],
        history.surfaces[cut],
        history.times_s[cut],
    )


def _entry(encoded: Encoded | Exception, history: History) -> Entry:
    assert isinstance(encoded, Encoded)
    payload = encoded.payload.copy()
    payload.flags.writeable = False  # as a decoded entry's is
    last = history.last_event_time_s
    return Entry(EntryHeader("0" * 32, "ada", len(history), last, last, 0), payload, b"")


def _payload(result: Encoded | Exception) -> bytes:
    assert isinstance(result, Encoded)
    return result.payload.tobytes()


@forms
def test_a_batch_gives_each_user_what_it_gets_alone(tmp_path: Path, form: dict[str, Any]) -> None:
    """Bit for bit, encodes and appends mixed, pages of different counts."""
    encoder = ContextEncoder(_checkpoint(tmp_path, form), "cpu")
    wholes = [_history(count, seed) for seed, count in enumerate((1, 16, 17, 45, 130, 33, 15))]
    stored = [0, 0, 16, 44, 64, 0, 1]
    works = []
    for whole, count in zip(wholes, stored, strict=True):
        if count == 0:
            works.append(EncodeWork(whole))
            continue
        start = _slice(whole, 0, count)
        base = _entry(encoder.encode([EncodeWork(start)])[0], start)
        works.append(EncodeWork(_slice(whole, count, len(whole)), base))
    alone = [encoder.encode([EncodeWork(whole)])[0] for whole in wholes]
    for order in (list(range(7)), [6, 2, 4, 0, 5, 1, 3]):
        together = encoder.encode([works[user] for user in order])
        assert [_payload(r) for r in together] == [_payload(alone[user]) for user in order]
    assert [work.tokens for work in works] == [len(whole) for whole in wholes]


@forms
def test_slots_past_the_last_token_are_zero(tmp_path: Path, form: dict[str, Any]) -> None:
    checkpoint = _checkpoint(tmp_path, form)
    layout = checkpoint.ranker.layout
    encoder = ContextEncoder(checkpoint, "cpu")
    for count in (1, 17, 45):
        (encoded,) = encoder.encode([EncodeWork(_history(count, 3))])
        assert isinstance(encoded, Encoded)
        assert encoded.payload.shape == (layout.page_count(count), layout.page_bytes)
        pages = torch.from_numpy(encoded.payload)
        for layer in range(3):
            for name, plane in layout.planes(pages, layer).items():
                flat = plane.contiguous().flatten(0, 1).flatten(1) if plane.dim() > 2 else plane
                stored = flat.contiguous().view(torch.uint8).reshape(len(pages) * 16, -1)
                assert not stored[count:].any(), name
        assert encoded.payload.any()


def test_unknown_items_are_counted_for_each_user(tmp_path: Path) -> None:
    encoder = ContextEncoder(_checkpoint(tmp_path, {}), "cpu")
    works = [EncodeWork(_history(9, seed)) for seed in (1, 2, 3)]
    works[1].history.item_ids[[0, 4]] = 5, 6
    results = encoder.encode(works)
    assert [r.unknown_items for r in results if isinstance(r, Encoded)] == [0, 2, 0]
    same = _history(9, 2)
    same.item_ids[[0, 4]] = 7, 8  # other unknown ids: the same row
    assert _payload(encoder.encode([EncodeWork(same)])[0]) == _payload(results[1])


@forms
def test_a_result_that_is_not_finite_is_refused_alone(tmp_path: Path, form: dict[str, Any]) -> None:
    """One item's embedding is spoilt: users without it are served."""
    checkpoint = _checkpoint(tmp_path, form)
    healthy, spoilt = _history(20, 1), _history(20, 2)
    spoilt.item_ids[11] = 42
    healthy_rows = set(checkpoint.items.rows(healthy.item_ids)[0].flatten().tolist())
    bad_row = next(
        row
        for row in checkpoint.items.rows(spoilt.item_ids[11:12])[0][0]
        if row not in healthy_rows
    )
    encoder = ContextEncoder(checkpoint, "cpu")
    wanted = encoder.encode([EncodeWork(healthy)])[0]
    checkpoint.ranker.item.weight[bad_row, 5] = torch.nan
    first, second, third = encoder.encode(
        [EncodeWork(healthy), EncodeWork(spoilt), EncodeWork(healthy)]
    )
    assert isinstance(second, NonFiniteResultError)
    assert "NaN or infinity" in str(second)
    assert _payload(first) == _payload(third) == _payload(wanted)


@pytest.mark.parametrize("form", [{}, {"kv": "dense"}], ids=["separate", "dense"])
def test_overflow_of_the_entry_dtype_is_refused(tmp_path: Path, form: dict[str, Any]) -> None:
    """Finite in float64, infinite as bf16; in the last layer, whose result nothing else reads."""
    checkpoint = _checkpoint(tmp_path, form)
    source = checkpoint.ranker.layers[-1].kv
    (source.key if form else source.slices).weight.fill_(1e39)
    (result,) = ContextEncoder(checkpoint, "cpu").encode([EncodeWork(_history(5, 1))])
    assert isinstance(result, NonFiniteResultError)
