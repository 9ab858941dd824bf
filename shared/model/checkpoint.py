"""A checkpoint directory: `config.json` and `model.safetensors`, nothing executable.

The fingerprint is a digest of both, so that an entry can name the exact weights that made it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from shared.errors import CheckpointError
from shared.model.config import ItemHashConfig, ItemListConfig, ModelConfig
from shared.model.items import Ids, ItemHash, ItemIndex, ItemList
from shared.model.ranker import Ranker

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_ITEM_IDS = "item_ids"


@dataclass(frozen=True)
class Checkpoint:
    """A model ready to serve."""

    ranker: Ranker
    items: ItemIndex
    fingerprint: str
    """32 hex digits."""

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.ranker.config


def save_checkpoint(directory: Path, ranker: Ranker, item_ids: Ids | None) -> str:
    """Write `ranker` and, for an item list, its ids in row order; returns the fingerprint.

    Raises:
        CheckpointError: `item_ids` does not fit the configuration.
    """
    items = ranker.config.items
    if isinstance(items, ItemListConfig) != (item_ids is not None):
        raise CheckpointError(f"items: kind {items.kind!r} and item_ids do not go together")
    tensors = {name: tensor.cpu().numpy() for name, tensor in ranker.state_dict().items()}
    if item_ids is not None:
        tensors[_ITEM_IDS] = np.ascontiguousarray(item_ids, np.uint64)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG_FILE).write_text(ranker.config.model_dump_json(indent=2) + "\n")
    save_file(tensors, directory / WEIGHTS_FILE)
    (directory / WEIGHTS_FILE).chmod(0o644)  # safetensors writes 0600: a service is another user
    return load_checkpoint(directory).fingerprint


def load_checkpoint(
    directory: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Checkpoint:
    """Load and prove a checkpoint: every tensor present, of the right shape and finite.

    Raises:
        CheckpointError: a file is missing, malformed or does not fit; the message names it.
    """
    config_path, weights_path = directory / CONFIG_FILE, directory / WEIGHTS_FILE
    try:
        config = ModelConfig.model_validate_json(config_path.read_bytes())
        tensors = load_file(weights_path)
    except OSError as error:
        # safetensors raises without a file name; by then the configuration has been read
        name = error.filename or weights_path
        problem = "missing" if isinstance(error, FileNotFoundError) else error
        raise CheckpointError(f"{name}: {problem}; train or copy a checkpoint there") from error
    except (ValidationError, SafetensorError, TypeError) as error:
        raise CheckpointError(f"{directory}: not a CrossKV checkpoint: {error}") from error
    fingerprint = _fingerprint(config, tensors)
    items = _item_index(config, tensors.pop(_ITEM_IDS, None))
    ranker = Ranker(config)
    expected = ranker.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        have = f"{tensors[name].dtype}{list(tensors[name].shape)}" if name in tensors else "nothing"
        want = f"float32{list(expected[name].shape)}" if name in expected else "nothing"
        if have != want:
            raise CheckpointError(f"{weights_path}: {name} is {have}, config.json wants {want}")
        if not np.isfinite(tensors[name]).all():
            raise CheckpointError(f"{weights_path}: {name} holds NaN or infinity; restore the file")
    ranker.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    ranker.eval().requires_grad_(False)
    return Checkpoint(ranker.to(device=device, dtype=dtype), items, fingerprint)


def _item_index(config: ModelConfig, item_ids: Ids | None) -> ItemIndex:
    match config.items:
        case ItemHashConfig():
            return ItemHash(config.items)
        case ItemListConfig(count=count):
            if item_ids is None or item_ids.dtype != np.uint64 or item_ids.shape != (count,):
                found = None if item_ids is None else f"{item_ids.dtype}{list(item_ids.shape)}"
                raise CheckpointError(f"item_ids: {found}, config.json wants uint64[{count}]")
            if len(np.unique(item_ids)) != count:
                raise CheckpointError("item_ids: an id is listed twice; list each item once")
            return ItemList(item_ids)


def _fingerprint(config: ModelConfig, tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    # the dump leaves out `router_keys` at its default, which checkpoints without that field mean
    digest.update(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
