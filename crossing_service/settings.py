"""The crossing service's own settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class CrossingSettings(BaseSettings):
    """The crossing service."""

    model_config = SettingsConfigDict(env_prefix="CROSSKV_CROSSING_", frozen=True)

    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Numbers that candidates are scored in. bfloat16 is for GPUs: less time and "
        "memory, and scores that differ in the third decimal.",
    )
    max_candidates: int = Field(
        4096, ge=1, description="Most candidates one ScoreCandidates request may carry."
    )
    max_batch_tokens: int = Field(
        65536,
        ge=1,
        description="Most candidates and history actions scored together, which bounds the memory "
        "of a batch; a single larger request is scored alone.",
    )
    max_queue: int = Field(
        512,
        ge=1,
        description="Most requests that wait; beyond it calls are RESOURCE_EXHAUSTED.",
    )
    cache_bytes: int = Field(
        1 << 30,
        ge=1,
        description="Device memory for KV entries, in bytes; the least recently used give way.",
    )
    revalidate_s: float = Field(
        30.0,
        ge=0,
        description="Seconds an entry on the device is scored without asking the store whether it "
        "still stands: the longest that a delete or an append goes unseen.",
    )
