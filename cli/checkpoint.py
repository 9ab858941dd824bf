"""The checkpoint that a command is to serve or evaluate."""

from __future__ import annotations

from pathlib import Path

from cli.failure import CommandError
from cli.program import program

DEFAULT_CHECKPOINT = Path("checkpoints/ml-100k")
_FILES = ("config.json", "model.safetensors")  # what reads them would import torch


def require_checkpoint(directory: Path) -> None:
    """Return if `directory` looks like a checkpoint.

    Raises:
        CommandError: it does not.
    """
    for file in _FILES:
        if not (directory / file).is_file():
            raise CommandError(
                f"no checkpoint in {directory} ({file} is missing); make one with "
                f"`{program()} train`, or name another directory with --checkpoint"
            )
