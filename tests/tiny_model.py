"""Tiny models with random weights, in every KV form that is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared.model.checkpoint import save_checkpoint
from shared.model.config import ItemHashConfig, ModelConfig
from shared.model.items import Ids
from shared.model.ranker import Ranker

FORMS: dict[str, dict[str, Any]] = {
    "separate": {"router": "separate"},
    "tied": {"router": "tied"},
    "coded": {"router": "tied", "slices": "coded"},
    "no_slice": {"router": "separate", "slice_dims": 0},
    "product_keys": {"router": "separate", "router_keys": "product", "pool_rows": 36},
    "product_coded": {
        "router": "tied",
        "router_keys": "product",
        "pool_rows": 36,
        "slices": "coded",
    },
    "dense": {"kv": "dense"},
    "dense_float32": {"kv": "dense", "entry_dtype": "float32"},
    "hashed_items": {"router": "tied", "items": ItemHashConfig(tables=3, rows=41)},
}
"""What `tiny_config` is to override for each KV form: parametrise over the values, `ids=FORMS`."""

ITEM_COUNT = 50


def tiny_config(**overrides: Any) -> ModelConfig:
    """A configuration with no two sizes alike, so that a swapped axis shows."""
    fields: dict[str, Any] = {
        "embed_dim": 24,
        "layers": 3,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "ffn_dim": 40,
        "tasks": ("watch", "like"),
        "action_types": ("view", "click", "buy"),
        "surfaces": ("home", "search"),
        "feature_dim": 3,
        "items": {"kind": "list", "count": ITEM_COUNT},
        "max_history": 200,
        "pool_rows": 37,
        "slice_dims": 2,
        "code_vectors": 5,
        "page_tokens": 16,
    }
    return ModelConfig(**{**fields, **overrides})


def tiny_item_ids() -> Ids:
    """The listed items' ids in row order: unsorted, spread over all of u64, its ends included."""
    ids = np.random.default_rng(11).integers(0, 2**64, ITEM_COUNT, np.uint64)
    ids[[3, 17, 29]] = 0, 2**64 - 1, 2**63
    return ids


def tiny_ranker(config: ModelConfig, seed: int = 0) -> Ranker:
    """A ranker whose biases and norms are random too, so that leaving one out shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ranker = Ranker(config)
        for name, parameter in ranker.named_parameters():
            if "norm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
            elif "bias" in name:
                torch.nn.init.normal_(parameter, std=0.3)
            elif name in {"item.weight", "action.weight", "surface.weight", "gap.weight"}:
                torch.nn.init.normal_(parameter, std=0.5)
    return ranker.eval().requires_grad_(False)


def tiny_checkpoint_dir(path: Path, config: ModelConfig, seed: int = 0) -> str:
    """Write a checkpoint of `tiny_ranker` to `path`; returns its fingerprint."""
    item_ids = tiny_item_ids() if config.items.kind == "list" else None
    return save_checkpoint(path, tiny_ranker(config, seed), item_ids)
