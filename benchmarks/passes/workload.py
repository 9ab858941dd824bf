"""What the passes are timed on: models with random weights, users and candidates at random."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch

from benchmarks.paged_history import CODES, Form, shuffled_pages
from kernels.histories import Pages
from shared.model.batch import CandidateTokens, HistoryTokens, PagedKV, bounds
from shared.model.config import GAP_BUCKETS, ItemHashConfig, ModelConfig
from shared.model.items import embedding_rows
from shared.model.ranker import Ranker

DTYPE = torch.bfloat16

_ITEMS = ItemHashConfig(tables=2, rows=1 << 16)
_ACTIONS, _SURFACES = 8, 4
_FORM_FIELDS: dict[Form, dict[str, Any]] = {
    "collective": {"router": "separate"},
    "coded": {"router": "tied", "slices": "coded", "code_vectors": CODES},
    "dense": {"kv": "dense"},
}
_POOL_ROWS: dict[Form, int] = {"collective": 8192, "coded": 2048, "dense": 1}


@dataclass(frozen=True)
class Variant:
    """A form of entries, and how their pool rows are chosen."""

    form: Form
    product_keys: bool = False

    def __str__(self) -> str:
        return f"{self.form} product" if self.product_keys else self.form

    @property
    def pool_rows(self) -> int:
        """P; product keys need a square, and get the one next to the other router's P."""
        rows = _POOL_ROWS[self.form]
        return round(sqrt(rows)) ** 2 if self.product_keys else rows


_COLLECTIVE = (Variant("collective"), Variant("collective", product_keys=True))
_CODED = (Variant("coded"), Variant("coded", product_keys=True))


@dataclass(frozen=True)
class Workload:
    """One batch; the model is `base` but for what is said here."""

    name: str
    about: str
    users: int
    tokens: int
    """Of each user."""
    candidates: int
    """Of each user."""
    layers: int = 4
    head_dim: int = 64
    variants: tuple[Variant, ...] = _COLLECTIVE
    beats_dense: bool = False
    """Whether DCAT with dense K and V has to be beaten."""

    def config(self, variant: Variant) -> ModelConfig:
        """`base` (E 256, H = G = 4, SwiGLU 704, U 1, bf16) with entries of one kind."""
        fields = _FORM_FIELDS[variant.form] | {
            "router_keys": "product" if variant.product_keys else "full",
            "pool_rows": variant.pool_rows,
            "embed_dim": 256,
            "layers": self.layers,
            "heads": 4,
            "kv_heads": 4,
            "head_dim": self.head_dim,
            "ffn_dim": 704,
            "tasks": ("watch", "like"),
            "action_types": tuple(f"action {number}" for number in range(_ACTIONS)),
            "surfaces": tuple(f"surface {number}" for number in range(_SURFACES)),
            "items": _ITEMS,
            "max_history": self.tokens,
            "slice_dims": 1,
        }
        return ModelConfig.model_validate(fields)


WORKLOADS = (
    Workload("W1", "PinFM-like", 64, 256, 1000),
    Workload("W2", "session", 8, 2048, 512),
    Workload("W3", "lifelong", 8, 16384, 512, variants=_COLLECTIVE + _CODED, beats_dense=True),
    Workload(
        "W4",
        "HSTU-like",
        8,
        3968,
        256,
        layers=8,
        head_dim=256,
        variants=_COLLECTIVE + _CODED,
        beats_dense=True,
    ),
)


def random_ranker(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Ranker:
    """A model ready to serve."""
    with torch.random.fork_rng([] if device.type == "cpu" else [device]), device:
        torch.manual_seed(0)
        ranker = Ranker(config)
    return ranker.eval().requires_grad_(False).to(device=device, dtype=dtype)


def random_history_tokens(workload: Workload, random: torch.Generator) -> HistoryTokens:
    """Actions of all users."""
    count = workload.users * workload.tokens
    return HistoryTokens(
        _drawn(embedding_rows(_ITEMS), (count, _ITEMS.tables), random),
        _drawn(_ACTIONS, (count,), random),
        _drawn(_SURFACES, (count,), random),
        _drawn(GAP_BUCKETS, (count,), random),
        bounds([workload.tokens] * workload.users, random.device),
    )


def random_candidates(workload: Workload, random: torch.Generator) -> CandidateTokens:
    """Candidates of all users, without dense features."""
    count = workload.users * workload.candidates
    return CandidateTokens(
        _drawn(embedding_rows(_ITEMS), (count, _ITEMS.tables), random),
        _drawn(_SURFACES, (count,), random),
        _drawn(GAP_BUCKETS, (count,), random),
        None,
        bounds([workload.candidates] * workload.users, random.device),
    )


def empty_entries(workload: Workload, ranker: Ranker, random: torch.Generator) -> PagedKV:
    """Pages in random order for a context pass to write."""
    layout = ranker.layout
    pages, numbers = shuffled_pages(workload.users, workload.tokens, layout.page_tokens, random)
    arena = torch.zeros(len(numbers), layout.page_bytes, dtype=torch.uint8, device=random.device)
    return PagedKV(arena, pages)


def first_user(
    candidates: CandidateTokens, kv: PagedKV, count: int, device: torch.device
) -> tuple[CandidateTokens, PagedKV]:
    """The first `count` candidates of the first user and that user's entry alone, on `device`."""
    blocks = kv.pages.block_table.shape[1]
    own = kv.arena[kv.pages.block_table[0].long()].to(device)
    table = torch.arange(blocks, dtype=torch.int32, device=device).unsqueeze(0)
    tokens = int(kv.pages.cu_history[1])
    few = CandidateTokens(
        candidates.item_rows[:count].to(device),
        candidates.surfaces[:count].to(device),
        candidates.gaps[:count].to(device),
        None,
        bounds([count], device),
    )
    return few, PagedKV(own, Pages.of(table, [tokens], kv.pages.page_tokens))


def _drawn(limit: int, size: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    return torch.randint(limit, size, device=random.device, generator=random)
