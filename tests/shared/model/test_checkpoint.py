"""A checkpoint is loaded whole or refused by name; its fingerprint is that of every bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from shared.errors import CheckpointError
from shared.model.checkpoint import CONFIG_FILE, WEIGHTS_FILE, load_checkpoint, save_checkpoint
from tests.tiny_model import (
    FORMS,
    tiny_checkpoint_dir,
    tiny_config,
    tiny_item_ids,
    tiny_ranker,
)

Tensors = dict[str, np.ndarray]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_saved_and_loaded(tmp_path: Path, form: dict[str, Any]) -> None:
    config = tiny_config(**form)
    fingerprint = tiny_checkpoint_dir(tmp_path, config, seed=7)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.fingerprint == fingerprint
    assert len(fingerprint) == 32
    assert checkpoint.config == config
    wanted = tiny_ranker(config, seed=7).state_dict()
    for name, tensor in checkpoint.ranker.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
    assert not any(p.requires_grad for p in checkpoint.ranker.parameters())
    assert not checkpoint.ranker.training
    rows, unknown = checkpoint.items.rows(tiny_item_ids())
    assert (len(rows), unknown) == (50, 0)
    if not form.get("items"):
        assert rows[:, 0].tolist() == list(range(1, 51))


def test_dtype_is_cast_without_changing_the_fingerprint(tmp_path: Path) -> None:
    fingerprint = tiny_checkpoint_dir(tmp_path, tiny_config())
    checkpoint = load_checkpoint(tmp_path, dtype=torch.float64)
    assert checkpoint.fingerprint == fingerprint
    assert {p.dtype for p in checkpoint.ranker.parameters()} == {torch.float64}


def _missing(tensors: Tensors) -> None:
    del tensors["layers.1.query.weight"]


def _extra(tensors: Tensors) -> None:
    tensors["layers.9.query.weight"] = np.zeros(3, np.float32)


def _misshapen(tensors: Tensors) -> None:
    tensors["head.bias"] = np.zeros(3, np.float32)


def _half(tensors: Tensors) -> None:
    tensors["head.bias"] = tensors["head.bias"].astype(np.float16)


def _twice(tensors: Tensors) -> None:
    tensors["item_ids"][1] = tensors["item_ids"][0]


def _nan(tensors: Tensors) -> None:
    tensors["item.weight"][50, 23] = np.nan


def _infinite(tensors: Tensors) -> None:
    tensors["layers.0.kv.key_pool"][0, 0, 0] = np.inf


def _no_ids(tensors: Tensors) -> None:
    del tensors["item_ids"]


def _few_ids(tensors: Tensors) -> None:
    tensors["item_ids"] = tensors["item_ids"][:-1].copy()


def _signed_ids(tensors: Tensors) -> None:
    tensors["item_ids"] = tensors["item_ids"].astype(np.int64)


BAD_TENSORS: dict[str, tuple[Callable[[Tensors], None], str]] = {
    "missing": (
        _missing,
        r"layers\.1\.query\.weight is nothing, config\.json wants float32\[32, 24\]",
    ),
    "extra": (_extra, r"layers\.9\.query\.weight is float32\[3\], config\.json wants nothing"),
    "misshapen": (_misshapen, r"head\.bias is float32\[3\], config\.json wants float32\[2\]"),
    "half": (_half, r"head\.bias is float16\[2\], config\.json wants float32\[2\]"),
    "item twice": (_twice, r"item_ids: an id is listed twice"),
    "NaN": (_nan, r"item\.weight holds NaN or infinity"),
    "infinity": (_infinite, r"key_pool holds NaN or infinity"),
    "no item ids": (_no_ids, r"item_ids: None, config\.json wants uint64\[50\]"),
    "too few item ids": (_few_ids, r"item_ids: uint64\[49\]"),
    "signed item ids": (_signed_ids, r"item_ids: int64\[50\]"),
}


@pytest.mark.parametrize(("spoil", "words"), BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_bad_tensors(tmp_path: Path, spoil: Callable[[Tensors], None], words: str) -> None:
    tiny_checkpoint_dir(tmp_path, tiny_config())
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    spoil(tensors)
    save_file(tensors, tmp_path / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    tiny_checkpoint_dir(tmp_path, tiny_config())
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: missing; train or copy"):
        load_checkpoint(tmp_path)


def test_a_directory_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    tiny_checkpoint_dir(tmp_path, tiny_config())
    (tmp_path / WEIGHTS_FILE).unlink()
    (tmp_path / WEIGHTS_FILE).mkdir()
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS_FILE}: .*; train or copy"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("garbage", [b"", b"\x80\x04garbage", b"{}", b"null"])
def test_garbage_is_no_checkpoint(tmp_path: Path, name: str, garbage: bytes) -> None:
    tiny_checkpoint_dir(tmp_path, tiny_config())
    (tmp_path / name).write_bytes(garbage)
    with pytest.raises(CheckpointError, match="not a CrossKV checkpoint"):
        load_checkpoint(tmp_path)


def test_truncated_weights_are_no_checkpoint(tmp_path: Path) -> None:
    tiny_checkpoint_dir(tmp_path, tiny_config())
    weights = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(weights[:-1])
    with pytest.raises(CheckpointError, match="not a CrossKV checkpoint"):
        load_checkpoint(tmp_path)


def test_item_ids_go_with_item_lists_only(tmp_path: Path) -> None:
    listed, hashed = tiny_config(), tiny_config(**FORMS["hashed_items"])
    with pytest.raises(CheckpointError, match="do not go together"):
        save_checkpoint(tmp_path, tiny_ranker(listed), None)
    with pytest.raises(CheckpointError, match="do not go together"):
        save_checkpoint(tmp_path, tiny_ranker(hashed), tiny_item_ids())
    with pytest.raises(CheckpointError, match=r"item_ids: uint64\[49\]"):
        save_checkpoint(tmp_path, tiny_ranker(listed), tiny_item_ids()[1:])


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    first = tiny_checkpoint_dir(tmp_path / "a", tiny_config())
    assert tiny_checkpoint_dir(tmp_path / "b", tiny_config()) == first
    reordered = json.loads((tmp_path / "b" / CONFIG_FILE).read_text())
    (tmp_path / "b" / CONFIG_FILE).write_text(json.dumps(dict(reversed(reordered.items()))))
    assert load_checkpoint(tmp_path / "b").fingerprint == first
    assert tiny_checkpoint_dir(tmp_path / "c", tiny_config(), seed=1) != first


@pytest.mark.parametrize("form", ["coded", "dense"])
def test_the_fingerprint_changes_with_every_tensor(tmp_path: Path, form: str) -> None:
    """The last bit of the last number of each."""
    fingerprint = tiny_checkpoint_dir(tmp_path, tiny_config(**FORMS[form]))
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    seen = {fingerprint}
    for name, tensor in tensors.items():
        bits = tensor.reshape(-1).view(np.uint8)
        bits[-tensor.itemsize] ^= 1
        save_file(tensors, tmp_path / WEIGHTS_FILE)
        changed = load_checkpoint(tmp_path).fingerprint
        assert changed not in seen, name
        seen.add(changed)
        bits[-tensor.itemsize] ^= 1


def test_the_shipped_fingerprint_is_that_of_its_entries() -> None:
    """Entries lie in stores under it: a field that configurations gain later must not change it."""
    shipped = Path(__file__).parents[3] / "checkpoints" / "ml-100k"
    assert load_checkpoint(shipped).fingerprint == "c25d4fc2d0ca692f3c2d9d55865d4053"


def test_full_router_keys_may_be_spelled_out(tmp_path: Path) -> None:
    fingerprint = tiny_checkpoint_dir(tmp_path, tiny_config())
    spelled = json.loads((tmp_path / CONFIG_FILE).read_text()) | {"router_keys": "full"}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(spelled))
    assert load_checkpoint(tmp_path).fingerprint == fingerprint


def test_full_weights_are_no_product_keys(tmp_path: Path) -> None:
    tiny_checkpoint_dir(tmp_path, tiny_config(pool_rows=36))
    changed = tiny_config(pool_rows=36, router_keys="product")
    (tmp_path / CONFIG_FILE).write_text(changed.model_dump_json())
    with pytest.raises(CheckpointError, match=r"router_bias is float32\[2, 36\], .*\[2, 2, 6\]"):
        load_checkpoint(tmp_path)


OTHER_CONFIGS: list[dict[str, Any]] = [
    {"tasks": ("watch", "love")},
    {"tasks": ("like", "watch")},
    {"action_types": ("view", "click", "sell")},
    {"surfaces": ("home", "feed")},
    {"max_history": 201},
    {"page_tokens": 32},
    {"entry_dtype": "float32"},
    {"code_vectors": 6},
]


def test_the_fingerprint_changes_with_the_configuration(tmp_path: Path) -> None:
    """Of the same weights: fields that move no shape count too."""
    fingerprint = tiny_checkpoint_dir(tmp_path, tiny_config())
    seen = {fingerprint}
    for overrides in OTHER_CONFIGS:
        changed = tiny_config(**overrides).model_dump_json()
        (tmp_path / CONFIG_FILE).write_text(changed)
        seen.add(load_checkpoint(tmp_path).fingerprint)
    assert len(seen) == 1 + len(OTHER_CONFIGS)
