"""Settings by environment: every variable is `CROSSKV_<SECTION>_<FIELD>`, unknown ones are refused.

A section is one class with one prefix; each service has its own section beside these.
`docs/settings.md` is generated from the field descriptions.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "CROSSKV_"
Section = TypeVar("Section", bound=BaseSettings)


class SettingsError(Exception):
    """The environment does not describe a service that can start; the message lists why."""


class ServerSettings(BaseSettings):
    """Where and how a service listens."""

    model_config = SettingsConfigDict(env_prefix="CROSSKV_SERVER_", frozen=True)

    host: str = Field("127.0.0.1", description="Address that gRPC and metrics listen on.")
    port: int = Field(ge=1, le=65535, description="gRPC port. Required.")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Prometheus HTTP port; 0: no metrics are served."
    )
    max_message_bytes: int = Field(
        4 << 20, ge=1024, description="Largest request accepted, in bytes."
    )
    drain_delay_s: float = Field(
        0.0,
        ge=0,
        description="Seconds between NOT_SERVING and refusing new calls, for balancers to notice.",
    )
    drain_grace_s: float = Field(
        10.0, ge=0, description="Seconds that calls in flight get to finish when draining."
    )
    max_connection_age_s: int = Field(
        300,
        ge=1,
        description="Seconds after which a connection is renewed, so that clients see new pods.",
    )
    reflection: bool = Field(True, description="Whether the gRPC reflection service is on.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line that is written."
    )


class StoreSettings(BaseSettings):
    """The Redis or Valkey store."""

    model_config = SettingsConfigDict(env_prefix="CROSSKV_STORE_", frozen=True)

    url: str = Field(
        "redis://127.0.0.1:6379/0",
        pattern=r"^(redis|rediss|unix|redis\+cluster|rediss\+cluster)://",
        description="Address of the store: redis, rediss (TLS), unix, redis+cluster or "
        "rediss+cluster, then `://`, host, port and database.",
    )
    timeout_s: float = Field(0.25, gt=0, description="Seconds to wait for one answer of the store.")
    connect_timeout_s: float = Field(
        0.25, gt=0, description="Seconds to wait for a connection to the store."
    )
    ttl_s: int = Field(
        7 * 86400, ge=1, description="Seconds after which an entry that is not renewed expires."
    )
    max_connections: int = Field(64, ge=1, description="Most connections to the store.")

    @field_validator("url")
    @classmethod
    def _parsable(cls, url: str) -> str:
        urlsplit(url).port  # noqa: B018  raises ValueError where it is no number below 65536
        return url


class ModelSettings(BaseSettings):
    """The served checkpoint."""

    model_config = SettingsConfigDict(env_prefix="CROSSKV_MODEL_", frozen=True)

    checkpoint: Path = Field(description="Directory of the checkpoint. Required.")
    device: str = Field("cpu", description="torch device the model runs on.")

    @field_validator("device")
    @classmethod
    def _usable(cls, device: str) -> str:
        import torch  # noqa: PLC0415  a second that `crosskv settings` need not wait

        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"torch cannot use it ({reason}); try cpu or cuda") from error
        return device


SHARED_SECTIONS: tuple[type[BaseSettings], ...] = (ServerSettings, StoreSettings, ModelSettings)
_OTHER_SERVICES = ("CROSSKV_CONTEXT_", "CROSSKV_CROSSING_")


def read_settings(
    own: type[Section],
) -> tuple[ServerSettings, StoreSettings, ModelSettings, Section]:
    """Read the shared sections and a service's own one from the environment.

    Raises:
        SettingsError: a value is missing or wrong, or a CROSSKV_* variable is unknown; variables of
            the other service's section are left to it.
    """
    sections: tuple[type[BaseSettings], ...] = (*SHARED_SECTIONS, own)
    known = {name for section in sections for name in variables(section)}
    own_prefix = own.model_config["env_prefix"]
    others = tuple(prefix for prefix in _OTHER_SERVICES if prefix != own_prefix)
    problems = [
        f"{name}: unknown setting; see docs/settings.md"
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and name not in known and not name.startswith(others)
    ]
    read: list[BaseSettings] = []
    for section in sections:
        try:
            read.append(section())
        except ValidationError as error:
            prefix = str(section.model_config["env_prefix"])
            problems += [f"{prefix}{_problem(details)}" for details in error.errors()]
    if problems:
        raise SettingsError("the environment is not usable:\n  " + "\n  ".join(problems))
    server, store, model, mine = read
    return server, store, model, mine  # type: ignore[return-value]  # in the order of `sections`


def _problem(details: ErrorDetails) -> str:
    name = "_".join(map(str, details["loc"])).upper()
    if details["type"] == "missing":
        return f"{name}: not set; it is required"
    given = "" if name == "URL" else f", got {details['input']!r}"  # a URL may hold a password
    return f"{name}: {details['msg']}{given}"


def variables(section: type[BaseSettings]) -> dict[str, str]:
    """Names of a section's environment variables, and the field each sets."""
    prefix = str(section.model_config["env_prefix"])
    return {f"{prefix}{field}".upper(): field for field in section.model_fields}


def reference(sections: tuple[type[BaseSettings], ...]) -> str:
    """The settings of `sections` as Markdown tables."""
    lines = ["# Settings", "", "Generated by `make docs`; `crosskv settings` prints the same.", ""]
    for section in sections:
        title = (section.__doc__ or section.__name__).strip().splitlines()[0]
        lines += [f"## {title}", "", "| variable | default | meaning |", "|---|---|---|"]
        for name, field in variables(section).items():
            info = section.model_fields[field]
            default = "required" if info.is_required() else f"`{info.default}`"
            lines.append(f"| `{name}` | {default} | {info.description} |")
        lines.append("")
    return "\n".join(lines)
