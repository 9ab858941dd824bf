"""The context service's own settings."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ContextSettings(BaseSettings):
    """The context service."""

    model_config = SettingsConfigDict(env_prefix="CROSSKV_CONTEXT_", frozen=True)

    max_actions: int = Field(
        65536, ge=1, description="Most actions a request may carry; more are INVALID_ARGUMENT."
    )
    max_batch_tokens: int = Field(
        16384,
        ge=1,
        description="Most tokens, stored ones included, that are encoded together; "
        "a single longer history is encoded alone.",
    )
    max_queue: int = Field(
        256, ge=1, description="Most histories that wait; beyond it calls are RESOURCE_EXHAUSTED."
    )
    append_retries: int = Field(
        3,
        ge=0,
        description="Times an append starts again after another writer replaced the entry.",
    )
