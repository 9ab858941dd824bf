"""Start-up is refused when another distribution shadows one of the application's packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from crosskv_guard import shadowed_packages

ROOT = Path(__file__).resolve().parent.parent


def test_nothing_is_shadowed_here() -> None:
    assert shadowed_packages() == []


@pytest.mark.parametrize("module", ["context_service", "crossing_service"])
@pytest.mark.parametrize("name", ["kernels", "shared"])
def test_a_package_found_first_elsewhere_is_refused(tmp_path: Path, module: str, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package ran')")
    # -P and a path of our own: the foreign package comes first, as in a shared environment
    run = subprocess.run(
        [sys.executable, "-P", "-m", module],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}:{ROOT / 'protos'}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 78
    assert f"{name}: found in {tmp_path / name}, expected in {ROOT / name}" in run.stderr
    assert "Uninstall the other distribution" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_distribution_of_the_same_name_is_refused(tmp_path: Path) -> None:
    info = tmp_path / "kernels-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("kernels\n")
    run = subprocess.run(
        [sys.executable, "-c", "import crosskv_guard as g; g.refuse_shadowed_packages()"],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 78
    assert "kernels: the distribution 'kernels' installs the same name" in run.stderr
