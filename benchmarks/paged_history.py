"""Random histories of equally long users, paged as the crossing service's arena holds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from kernels.histories import CodedHistory, CollectiveHistory, DenseHistory, History, Pages
from kernels.pools import aligned_pool
from shared.kv.layout import EntryLayout, Planes
from shared.model.config import ItemListConfig, ModelConfig

Form = Literal["collective", "coded", "dense"]

CODES = 16
"""N_b: code vectors of the coded form."""

_LAYERS, _LAYER = 4, 1  # of model `base`: a page holds all layers, attention reads one of them
_SLICE_DIMS = 1
_FIELDS: dict[Form, dict[str, Any]] = {
    "collective": {"router": "separate"},
    "coded": {"router": "tied", "slices": "coded", "code_vectors": CODES},
    "dense": {"kv": "dense"},
}


@dataclass(frozen=True)
class Shape:
    """Sizes of one attention call."""

    users: int
    candidates: int
    """Of each user."""
    tokens: int
    """Of each user."""
    heads: int
    """Of queries, keys and values alike."""
    dim: int
    pool_rows: int = 8192

    def __str__(self) -> str:
        return f"B {self.users}, C {self.candidates}, T {self.tokens}, H {self.heads}, D {self.dim}"


@dataclass(frozen=True)
class RandomHistory:
    """One layer's history, and what it stands for."""

    history: History
    dense: Callable[[int], tuple[Tensor, Tensor]]
    """Of a user: keys and values [T, G, D], gathered token by token, in float64."""
    entry_bytes: int
    """Bytes of all tokens' indices, codes, slices or numbers: what an op must read of entries."""


def shuffled_pages(
    users: int, tokens: int, page_tokens: int, random: torch.Generator
) -> tuple[Pages, Tensor]:
    """Pages in random order, none to spare; also their numbers [B * pages a user], user by user."""
    blocks = -(-tokens // page_tokens)
    numbers = torch.randperm(users * blocks, device=random.device, generator=random)
    table = numbers.view(users, blocks).to(torch.int32)
    return Pages.of(table, [tokens] * users, page_tokens), numbers


def random_history(
    form: Form, shape: Shape, dtype: torch.dtype, random: torch.Generator
) -> RandomHistory:
    """A history of `shape` on the device of `random`, in an arena of 4 layers' planes.

    Pool rows and codes are drawn evenly, numbers from a normal distribution.
    """
    fields = _FIELDS[form] | {
        "embed_dim": 1,
        "layers": _LAYERS,
        "heads": shape.heads,
        "kv_heads": shape.heads,
        "head_dim": shape.dim,
        "ffn_dim": 1,
        "tasks": ("watch",),
        "action_types": ("view",),
        "items": ItemListConfig(count=1),
        "pool_rows": shape.pool_rows,
        "slice_dims": _SLICE_DIMS,
        "entry_dtype": str(dtype).removeprefix("torch."),
        "max_history": shape.tokens,
    }
    layout = EntryLayout(ModelConfig.model_validate(fields))
    pages, numbers = shuffled_pages(shape.users, shape.tokens, layout.page_tokens, random)
    arena = torch.zeros(len(numbers), layout.page_bytes, dtype=torch.uint8, device=random.device)
    planes = layout.planes(arena, _LAYER)
    written = {name: _fill(plane, numbers, shape, random) for name, plane in planes.items()}
    entry_bytes = sum(
        values.numel() // values.shape[1] * shape.tokens * values.element_size()
        for values in written.values()
    )
    if form == "dense":
        return _dense(pages, planes, written, shape, entry_bytes)
    pools = [
        torch.randn(
            shape.pool_rows,
            shape.heads,
            shape.dim - _SLICE_DIMS,
            device=random.device,
            generator=random,
        ).to(dtype)
        for _ in range(2)
    ]
    if form == "coded":
        return _coded(pages, planes, written, pools, shape, entry_bytes, random)
    return _collective(pages, planes, written, pools, shape, entry_bytes)


def _fill(plane: Tensor, numbers: Tensor, shape: Shape, random: torch.Generator) -> Tensor:
    """Write random values to `plane`; returns them by token, [B, T rounded up to pages, ...]."""
    size = (len(numbers), *plane.shape[1:])
    device = random.device
    if plane.dtype.is_floating_point:
        values = torch.randn(size, device=device, generator=random).to(plane.dtype)
        plane[numbers] = values
    else:
        low, high = {
            torch.uint16: (0, shape.pool_rows),
            torch.uint8: (0, CODES),
            torch.int8: (-127, 128),
        }[plane.dtype]
        drawn = torch.randint(low, high, size, device=device, generator=random)
        bits = torch.int16 if plane.dtype == torch.uint16 else plane.dtype
        values = drawn.to(bits)  # torch has no scatter for uint16; int16 has the same bits
        plane.view(bits)[numbers] = values
    return values.view(shape.users, -1, *plane.shape[2:])


def _dense(
    pages: Pages, planes: Planes, written: Planes, shape: Shape, entry_bytes: int
) -> RandomHistory:
    def dense(user: int) -> tuple[Tensor, Tensor]:
        key, value = (written[side][user, : shape.tokens].double() for side in ("key", "value"))
        return key, value

    history = DenseHistory(pages, planes["key"], planes["value"])
    return RandomHistory(history, dense, entry_bytes)


def _collective(
    pages: Pages,
    planes: Planes,
    written: Planes,
    pools: list[Tensor],
    shape: Shape,
    entry_bytes: int,
) -> RandomHistory:
    def dense(user: int) -> tuple[Tensor, Tensor]:
        key, value = (
            _joined(
                written[f"{side}_slice"][user, : shape.tokens],
                pool[_rows(written[f"{side}_row"][user, : shape.tokens])],
            )
            for side, pool in zip(("key", "value"), pools, strict=True)
        )
        return key, value

    history = CollectiveHistory(
        pages,
        planes["key_row"],
        planes["value_row"],
        planes["key_slice"],
        planes["value_slice"],
        *(aligned_pool(pool, shape.dim) for pool in pools),
    )
    return RandomHistory(history, dense, entry_bytes)


def _coded(
    pages: Pages,
    planes: Planes,
    written: Planes,
    pools: list[Tensor],
    shape: Shape,
    entry_bytes: int,
    random: torch.Generator,
) -> RandomHistory:
    dtype = pools[0].dtype
    codebook = torch.randn(CODES, _SLICE_DIMS, device=random.device, generator=random).to(dtype)
    step = torch.tensor(1 / 32, dtype=dtype, device=random.device)

    def dense(user: int) -> tuple[Tensor, Tensor]:
        row = _rows(written["row"][user, : shape.tokens])
        code = written["key_code"][user, : shape.tokens].long()
        steps = written["value_slice"][user, : shape.tokens].double() * step.double()
        return _joined(codebook[code], pools[0][row]), _joined(steps, pools[1][row])

    history = CodedHistory(
        pages,
        planes["row"],
        planes["key_code"],
        planes["value_slice"],
        codebook,
        step,
        *(aligned_pool(pool, shape.dim) for pool in pools),
    )
    return RandomHistory(history, dense, entry_bytes)


def _rows(plane: Tensor) -> Tensor:
    return plane.long() & 0xFFFF


def _joined(user_slice: Tensor, pooled: Tensor) -> Tensor:
    per_head = user_slice.double().unsqueeze(1).expand(-1, pooled.shape[1], -1)
    return torch.cat((per_head, pooled.double()), dim=-1)
