"""Configurations that make no sense are refused, by field."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from shared.model.config import ModelConfig
from tests.tiny_model import FORMS, tiny_config

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "heads in unequal groups": ({"heads": 3}, "no multiple of kv_heads 2"),
    "slice fills the head": ({"slice_dims": 8}, "leaves nothing of head_dim 8"),
    "coded with two routers": ({"slices": "coded"}, "set router='tied'"),
    "coded without slice": (
        {"slices": "coded", "router": "tied", "slice_dims": 0},
        "needs slice_dims of at least 1",
    ),
    "product keys of no square": (
        {"router_keys": "product", "pool_rows": 37},
        "pool_rows: 37 is no square, as router_keys='product' needs: "
        "a row is a pair of keys; choose 36 or 49, or router_keys='full'",
    ),
    "product keys of no square, the most rows": (
        {"router_keys": "product", "pool_rows": 65535},
        "choose 65025 or 65536",
    ),
    "unknown router keys": ({"router_keys": "sum"}, "router_keys"),
    "a task twice": ({"tasks": ("a", "a")}, "holds a name twice"),
    "an action type twice": ({"action_types": ("v", "w", "v")}, "holds a name twice"),
    "a surface twice": ({"surfaces": ("home", "home")}, "holds a name twice"),
    "no tasks": ({"tasks": ()}, "tasks"),
    "page of no whole tile": ({"page_tokens": 24}, "page_tokens"),
    "more rows than u16": ({"pool_rows": 65537}, "pool_rows"),
    "more codes than u8": ({"code_vectors": 257}, "code_vectors"),
    "unknown field": ({"dropout": 0.1}, "dropout"),
    "unknown kv": ({"kv": "sparse"}, "kv"),
    "unknown item kind": ({"items": {"kind": "trie", "count": 3}}, "items"),
    "empty item list": ({"items": {"kind": "list", "count": 0}}, "items"),
}


@pytest.mark.parametrize(("overrides", "words"), BAD.values(), ids=BAD)
def test_refused(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        tiny_config(**overrides)
    assert words in str(caught.value)


def test_dense_kv_does_not_care_for_slices() -> None:
    assert tiny_config(kv="dense", slice_dims=8).kv == "dense"


def test_dense_kv_does_not_care_for_squares() -> None:
    assert tiny_config(kv="dense", router_keys="product").pool_rows == 37


@pytest.mark.parametrize("router", ["separate", "tied"])
@pytest.mark.parametrize("pool_rows", [1, 4, 36, 65025, 65536])
def test_product_keys_of_any_square(router: str, pool_rows: int) -> None:
    config = tiny_config(router=router, router_keys="product", pool_rows=pool_rows)
    sides, lists, keys = config.router_shape
    assert (sides, lists, keys * keys) == ({"tied": 1, "separate": 2}[router], 2, pool_rows)


def test_full_router_keys_are_not_written() -> None:
    """An older service refuses fields it does not know, and the fingerprint digests them all."""
    assert "router_keys" not in tiny_config().model_dump()
    assert tiny_config(router_keys="full") == tiny_config()
    product = tiny_config(router_keys="product", pool_rows=36)
    assert product.model_dump()["router_keys"] == "product"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_json_and_back(form: dict[str, Any]) -> None:
    config = tiny_config(**form)
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_derived_sizes() -> None:
    config = tiny_config(entry_dtype="float64")
    assert config.storage_dtype is torch.float64
    assert config.dense_bytes_per_token == 3 * 2 * 2 * 8 * 2
