"""What a demo ran on: machine, versions, model."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from shared.model.checkpoint import Checkpoint
from shared.provenance import provenance


def gather_facts(checkpoint: Checkpoint, directory: Path) -> dict[str, str]:
    """Name and value of each fact, in the order in which they are shown."""
    config = checkpoint.config
    form: str = config.kv
    if config.kv == "collective":
        form += (
            f", {config.router} router, {config.slices} slices, {config.pool_rows} pool rows, "
            f"{config.slice_dims} slice numbers"
        )
    record = provenance()
    measured_at = datetime.fromisoformat(record["measured_at"])
    return {
        "when": measured_at.strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{record['cpu']}, {record['cpus']} cores, {record['memory_gib']:g} GiB",
        "system": f"{record['system']}, Python {record['python']}",
        "versions": ", ".join(f"{name} {number}" for name, number in record["versions"].items()),
        "commit": record["commit"],
        "checkpoint": f"{directory}, fingerprint {checkpoint.fingerprint}",
        "keys and values": form,
        "model": f"{config.layers} layers, width {config.embed_dim}, {config.heads} heads of "
        f"{config.head_dim}, histories up to {config.max_history:,} actions",
    }
