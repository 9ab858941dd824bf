"""What an entry takes in the store, against dense K and V."""

from __future__ import annotations

from typing import Any

import pytest

from tests.shared.kv.entries import codec_of, header_of, model_config, random_pages

DEMO = {
    "embed_dim": 64,
    "heads": 2,
    "kv_heads": 2,
    "head_dim": 32,
    "pool_rows": 256,
    "router": "tied",
}
BASE = {
    "embed_dim": 256,
    "layers": 4,
    "heads": 4,
    "kv_heads": 4,
    "head_dim": 64,
    "pool_rows": 8192,
    "max_history": 1024,
    "page_tokens": 128,
}


@pytest.mark.parametrize(
    ("changes", "tokens", "percent"),
    [
        (DEMO, 80, 4),
        (DEMO | {"slices": "coded"}, 80, 4),
        (BASE | {"router": "separate"}, 1024, 1),
        (BASE | {"router": "tied"}, 1024, 1),
    ],
)
def test_stored_bytes_against_dense(changes: dict[str, Any], tokens: int, percent: float) -> None:
    """Header and padding included, of what K and V of the same tokens take in dense bf16."""
    config = model_config(**changes)
    user = "0f8fad5b-d9cb-469f-a165-70867728950e"
    header = header_of(user=user, tokens=tokens)
    stored = len(codec_of(config).encode(header, random_pages(config, tokens)))
    assert stored <= percent / 100 * config.dense_bytes_per_token * tokens
