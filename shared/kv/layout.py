"""Where each number of a KV entry lies: the same bytes in the store and on the device.

An entry's payload is a row of pages of `page_tokens` tokens. A page holds, layer behind layer,
the layer's planes; every plane starts on a 16-byte boundary and the page is padded to one.
Little-endian throughout. `docs/formats.md` shows the tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor

from shared.model.config import ModelConfig

ALIGNMENT = 16

Planes: TypeAlias = dict[str, Tensor]
"""One layer's planes by name, each [pages, page_tokens, ...], viewing the pages' bytes."""


@dataclass(frozen=True)
class Plane:
    """One array of a page: `page_tokens` elements of shape `inner` from byte `offset` on."""

    name: str
    dtype: torch.dtype
    inner: tuple[int, ...]
    offset: int


class EntryLayout:
    """The planes of every layer of one model's entries."""

    def __init__(self, config: ModelConfig) -> None:
        self.page_tokens = config.page_tokens
        self.pool_rows = config.pool_rows if config.kv == "collective" else 0
        self.code_vectors = config.code_vectors if config.slices == "coded" else 0
        self.layers: list[list[Plane]] = []
        offset = 0
        for _ in range(config.layers):
            layer = []
            for name, dtype, inner in _plane_types(config):
                layer.append(Plane(name, dtype, inner, offset))
                size = self.page_tokens * prod(inner) * dtype.itemsize
                offset += -(-size // ALIGNMENT) * ALIGNMENT
            self.layers.append(layer)
        self.page_bytes = offset

    def page_count(self, tokens: int) -> int:
        """Pages that hold `tokens` tokens."""
        return -(-tokens // self.page_tokens)

    def payload_bytes(self, tokens: int) -> int:
        """Size of an entry's payload in bytes, padding included."""
        return self.page_count(tokens) * self.page_bytes

    def planes(self, pages: Tensor, layer: int) -> Planes:
        """View `pages` [n, page_bytes] uint8 as the planes of `layer`; writing writes the pages."""
        views = {}
        for plane in self.layers[layer]:
            size = self.page_tokens * prod(plane.inner) * plane.dtype.itemsize
            window = pages[:, plane.offset : plane.offset + size].view(plane.dtype)
            views[plane.name] = window.view(len(pages), self.page_tokens, *plane.inner)
        return views


def _plane_types(config: ModelConfig) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    if config.kv == "dense":
        head_shape = (config.kv_heads, config.head_dim)
        return [
            ("key", config.storage_dtype, head_shape),
            ("value", config.storage_dtype, head_shape),
        ]
    slice_shape = (config.slice_dims,)
    if config.slices == "coded":
        return [
            ("row", torch.uint16, ()),
            ("key_code", torch.uint8, ()),
            ("value_slice", torch.int8, slice_shape),
        ]
    rows = ("row",) if config.router == "tied" else ("key_row", "value_row")
    planes: list[tuple[str, torch.dtype, tuple[int, ...]]] = [
        (row, torch.uint16, ()) for row in rows
    ]
    if config.slice_dims:
        planes.append(("key_slice", config.storage_dtype, slice_shape))
        planes.append(("value_slice", config.storage_dtype, slice_shape))
    return planes
