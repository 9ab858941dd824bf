from __future__ import annotations

import numpy as np
import pytest

from shared.kv.codec import EntryCodec, EntryHeader
from shared.kv.layout import EntryLayout
from training.variants import Variant


@pytest.mark.parametrize("tokens", [16, 52, 85, 590])
def test_stored_entry_is_at_most_4_percent_of_dense(tokens: int) -> None:
    config = Variant.COLLECTIVE.config(1682)
    layout = EntryLayout(config)
    header = EntryHeader("0f" * 16, "943", tokens, 893_286_638, 893_286_638, 1_700_000_000_000)
    payload = np.zeros(layout.payload_bytes(tokens), np.uint8).reshape(-1, layout.page_bytes)
    value = EntryCodec(layout, "0f" * 16, max_tokens=config.max_history).encode(header, payload)
    assert config.kv_heads * config.head_dim == 64
    assert len(value) <= 0.04 * tokens * config.dense_bytes_per_token


def test_variants_differ_in_one_thing() -> None:
    collective, dense = Variant.COLLECTIVE.config(9), Variant.DENSE.config(9)
    assert dense == collective.model_copy(update={"kv": "dense"})
    assert Variant.NO_CONTEXT.config(9) == Variant.SHUFFLED_LABELS.config(9) == collective
