"""Refuses to start when another distribution stands in the place of one of our packages.

CrossKV ships as an application with plain top-level names; PyPI has unrelated distributions that
install `kernels` or `shared` too. Importing one of those half-way would fail far from its cause.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

_DISTRIBUTION = "crosskv"
_ROOT = Path(__file__).resolve().parent
_PACKAGES = (
    "kernels",
    "shared",
    "context_service",
    "crossing_service",
    "ranking_client",
    "training",
    "benchmarks",
    "cli",
)


def shadowed_packages() -> list[str]:
    """One line for each of this application's package names that something else provides."""
    owners = importlib.metadata.packages_distributions()
    complaints = []
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if where != _ROOT / name:
            complaints.append(f"{name}: found in {where or 'no place'}, expected in {_ROOT / name}")
        for owner in set(owners.get(name, ())) - {_DISTRIBUTION}:
            complaints.append(f"{name}: the distribution {owner!r} installs the same name")
    return complaints


def refuse_shadowed_packages() -> None:
    """Exit with status 78 (EX_CONFIG) and a message if a package name is shadowed."""
    complaints = shadowed_packages()
    if complaints:
        lines = "\n  ".join(complaints)
        sys.stderr.write(
            "CrossKV cannot start: its packages are shadowed.\n  "
            f"{lines}\nUninstall the other distribution, or run CrossKV in an environment of its "
            "own (`make setup`).\n"
        )
        raise SystemExit(78)


def crosskv() -> None:
    """Entry point of the `crosskv` command."""
    refuse_shadowed_packages()
    from cli.main import app  # noqa: PLC0415  only after the check above

    app()
