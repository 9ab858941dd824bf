"""The model configuration: what `config.json` in a checkpoint holds."""

from __future__ import annotations

from math import isqrt
from typing import Any, Literal, Self

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

GAP_BUCKETS = 32
"""Time gaps are bucketed by floor(log2(1 + seconds)); the last bucket takes everything longer."""

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


class ItemListConfig(BaseModel):
    """Every known item has a row of its own; all unknown ids share row 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["list"] = Field(
        default="list", description="tells the two apart; never left out of `config.json`"
    )
    count: int = Field(ge=1, description="known items; their ids lie in the checkpoint")


class ItemHashConfig(BaseModel):
    """An id is hashed into several tables and its rows are summed; no id is unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["hash"] = Field(
        default="hash", description="tells the two apart; never left out of `config.json`"
    )
    tables: int = Field(
        default=2, ge=1, le=8, description="tables an id is hashed into; its rows are summed"
    )
    rows: int = Field(ge=1, description="rows in each table")


class ModelConfig(BaseModel):
    """Sizes and KV form of one ranking transformer.

    Letters follow the documentation: E `embed_dim`, L `layers`, H `heads`, G `kv_heads`,
    D `head_dim`, P `pool_rows`, U `slice_dims`, N_b `code_vectors`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    embed_dim: int = Field(ge=1, description="E: width of the residual stream, in numbers")
    layers: int = Field(ge=1, le=255, description="L: transformer layers, shared by both passes")
    heads: int = Field(ge=1, description="H: query heads; a multiple of `kv_heads`")
    kv_heads: int = Field(ge=1, description="G: key and value heads, shared by H / G query heads")
    head_dim: int = Field(ge=1, description="D: numbers in a head's query, key and value")
    ffn_dim: int = Field(ge=1, description="inner width of the feed-forward block, in numbers")
    tasks: tuple[str, ...] = Field(
        min_length=1, description="names of what is predicted, each once; a score in (0, 1) each"
    )
    action_types: tuple[str, ...] = Field(
        min_length=1, description="names of what users do, each once; an action is sent as an index"
    )
    surfaces: tuple[str, ...] = Field(
        default=("default",),
        min_length=1,
        description="names of the places where items are shown; sent as an index",
    )
    feature_dim: int = Field(
        default=0, ge=0, description="dense features of each candidate, in numbers; 0: none"
    )
    items: ItemListConfig | ItemHashConfig = Field(
        discriminator="kind", description="how item ids become rows of the item embedding"
    )
    max_history: int = Field(
        default=1024,
        ge=1,
        le=1 << 20,
        description="most actions of a user in an entry; an encode keeps the newest",
    )

    kv: Literal["collective", "dense"] = Field(
        default="collective",
        description="history K and V: pool rows with a slice of the user's own, or plain; "
        "dense ignores the router, slice, pool and code fields",
    )
    router: Literal["separate", "tied"] = Field(
        default="separate", description="a pool index for each of K and V, or one for both"
    )
    router_keys: Literal["full", "product"] = Field(
        default="full",
        description="every pool row has a router key, or is one of P = p * p pairs from two lists "
        "of p keys; product needs `pool_rows` to be a square; `config.json` leaves full out",
    )
    slices: Literal["plain", "coded"] = Field(
        default="plain",
        description="user slices in `entry_dtype`, or a code vector (K) and int8 (V); "
        "coded needs router tied",
    )
    pool_rows: int = Field(
        default=256, ge=1, le=1 << 16, description="P: rows of each layer's K pool and V pool"
    )
    slice_dims: int = Field(
        default=1,
        ge=0,
        le=16,
        description="U: numbers of K and of V a token keeps for itself in each layer, below D; "
        "the pool gives the other D - U of every head",
    )
    code_vectors: int = Field(
        default=16, ge=1, le=256, description="N_b: code vectors for K slices; only if coded"
    )
    entry_dtype: Literal["bfloat16", "float32", "float64"] = Field(
        default="bfloat16", description="stored dtype of plain slices and of dense K and V"
    )
    page_tokens: int = Field(
        default=128,
        ge=16,
        multiple_of=16,
        description="tokens in a page; an entry is padded to whole pages",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads: {self.heads} is no multiple of kv_heads {self.kv_heads}; "
                "query heads share KV heads in equal groups"
            )
        if self.kv == "collective" and self.slice_dims >= self.head_dim:
            raise ValueError(
                f"slice_dims: {self.slice_dims} leaves nothing of head_dim {self.head_dim} "
                "to the pool; choose fewer"
            )
        if self.kv == "collective" and self.router_keys == "product":
            p = isqrt(self.pool_rows)
            if p * p != self.pool_rows:
                raise ValueError(
                    f"pool_rows: {self.pool_rows} is no square, as router_keys='product' needs: a "
                    f"row is a pair of keys; choose {p * p} or {(p + 1) ** 2}, or "
                    "router_keys='full'"
                )
        if self.kv == "collective" and self.slices == "coded":
            if self.router != "tied":
                raise ValueError(
                    "slices: 'coded' needs one router for both sides; set router='tied'"
                )
            if self.slice_dims == 0:
                raise ValueError("slices: 'coded' needs slice_dims of at least 1")
        for name, values in (
            ("tasks", self.tasks),
            ("action_types", self.action_types),
            ("surfaces", self.surfaces),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: {values} holds a name twice")
        return self

    @model_serializer(mode="wrap")
    def _as_before_product_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Every field, but `router_keys` only where it says something.

        Checkpoints are older than this field, and the dump is what the fingerprint digests: with a
        new line in it every entry in every store would become foreign. A service of that age also
        refuses fields that it does not know, so in a rollout it could not load a new checkpoint.
        """
        fields: dict[str, Any] = dump(self)
        if self.router_keys == "full":
            fields.pop("router_keys", None)  # a caller may have excluded it already
        return fields

    @property
    def router_shape(self) -> tuple[int, ...]:
        """Router biases a layer, [S, P] or [S, 2, p]: S sides, P rows or two lists of p keys."""
        sides = 1 if self.router == "tied" else 2
        if self.router_keys == "product":
            return sides, 2, isqrt(self.pool_rows)
        return sides, self.pool_rows

    @property
    def storage_dtype(self) -> torch.dtype:
        """Dtype of uncoded slices and of dense K and V in an entry."""
        return DTYPES[self.entry_dtype]

    @property
    def dense_bytes_per_token(self) -> int:
        """Bytes that K and V of one token take in dense bf16, over all layers."""
        return self.layers * 2 * self.kv_heads * self.head_dim * 2
