"""What stands in every record of a GPU benchmark, and where it goes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import torch

from shared.provenance import provenance

_RESULTS = Path("benchmarks/results")


def gpu_record(benchmark: str, commit: str | None) -> dict[str, Any]:
    """The record's head: GPU, driver, versions, commit.

    `commit` stands in where the code is measured on a copy that is no git checkout.
    """
    found = provenance()
    if commit is not None:
        found["commit"] = commit
    properties = torch.cuda.get_device_properties()
    return {
        "benchmark": benchmark,
        "gpu": torch.cuda.get_device_name(),
        "multiprocessors": properties.multi_processor_count,
        "driver": _driver_version(),
        "cuda": torch.version.cuda,
        "provenance": found,
    }


def results_file(benchmark: str) -> Path:
    """Where the record is kept: a folder for the GPU, `h200` for an NVIDIA H200."""
    name = torch.cuda.get_device_name().lower().removeprefix("nvidia ").replace(" ", "-")
    return _RESULTS / name / f"{benchmark}.json"


def write_record(record: dict[str, Any], out: Path) -> None:
    """Write `record` to the file `out` as JSON."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=2) + "\n")


def _driver_version() -> str:
    command = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        found = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.split()[0]
