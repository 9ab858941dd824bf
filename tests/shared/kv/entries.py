"""Model forms, and entries of them, for the store's and the codec's tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from shared.kv.codec import EntryCodec, EntryHeader
from shared.kv.layout import EntryLayout
from shared.model.config import ItemListConfig, ModelConfig

FINGERPRINT = "00112233445566778899aabbccddeeff"
OTHER_FINGERPRINT = "ffeeddccbbaa99887766554433221100"

FORMS: dict[str, dict[str, Any]] = {
    "separate": {},
    "tied": {"router": "tied"},
    "separate-u0": {"slice_dims": 0},
    "tied-u0": {"router": "tied", "slice_dims": 0},
    "tied-u3-fp32": {"router": "tied", "slice_dims": 3, "entry_dtype": "float32"},
    "coded": {"router": "tied", "slices": "coded"},
    "coded-u2": {"router": "tied", "slices": "coded", "slice_dims": 2, "code_vectors": 5},
    "dense": {"kv": "dense"},
    "dense-fp32": {"kv": "dense", "entry_dtype": "float32"},
}


def model_config(**changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "embed_dim": 16,
        "layers": 2,
        "heads": 2,
        "kv_heads": 1,
        "head_dim": 8,
        "ffn_dim": 16,
        "tasks": ("watch",),
        "action_types": ("view",),
        "items": ItemListConfig(count=3),
        "max_history": 100,
        "pool_rows": 37,
        "page_tokens": 16,
    }
    return ModelConfig(**(values | changes))


def codec_of(config: ModelConfig, fingerprint: str = FINGERPRINT) -> EntryCodec:
    return EntryCodec(EntryLayout(config), fingerprint, max_tokens=config.max_history)


def random_pages(config: ModelConfig, tokens: int, seed: int = 0) -> NDArray[np.uint8]:
    """A whole payload: any bytes, but every index in bounds and zeros past the last token."""
    layout = EntryLayout(config)
    random = np.random.Generator(np.random.PCG64(seed))
    raw = random.bytes(layout.payload_bytes(tokens))
    pages = torch.from_numpy(np.frombuffer(raw, np.uint8).copy())
    pages = pages.view(layout.page_count(tokens), layout.page_bytes)
    limits = dict.fromkeys(("row", "key_row", "value_row"), config.pool_rows)
    limits["key_code"] = config.code_vectors
    for layer in range(config.layers):
        for name, plane in layout.planes(pages, layer).items():
            limit = limits.get(name)
            if limit is not None:
                plane.copy_((plane.int() % limit).to(plane.dtype))
            plane[-1, tokens - (len(pages) - 1) * layout.page_tokens :] = 0
    return pages.numpy()


def header_of(
    user: str = "42",
    tokens: int = 20,
    version: int = 1_700_000_000,
    fingerprint: str = FINGERPRINT,
) -> EntryHeader:
    return EntryHeader(
        fingerprint=fingerprint,
        user=user,
        tokens=tokens,
        last_event_time_s=1_699_999_999,
        history_version=version,
        created_ms=1_700_000_000_123,
    )


TIED = model_config(router="tied")


def value_of(header: EntryHeader, seed: int = 0) -> bytes:
    """A stored value of the small tied model."""
    pages = random_pages(TIED, header.tokens, seed)
    return codec_of(TIED, header.fingerprint).encode(header, pages)


def sealed(value: bytes) -> bytes:
    """`value` with the digest that its bytes should have: what a wrong but honest writer stores."""
    header_length = value[6] * 16
    digest = xxhash.xxh3_64(value[:23] + value[31:header_length])
    digest.update(value[header_length:])
    return value[:23] + digest.digest() + value[31:]
