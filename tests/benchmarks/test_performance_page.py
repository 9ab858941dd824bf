"""docs/performance.md and its picture say what the records say."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.benchmarks.gpu_records import KERNELS, PASSES

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("performance_page")


def pages(script: ModuleType, root: Path, **records: dict[str, Any]) -> dict[str, str]:
    folder = root / script.RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in records.items():
        (folder / f"{name}.json").write_text(json.dumps(record))
    return {name: page() for name, page in script.performance_pages(root).items()}


def test_nothing_measured_says_how(script: ModuleType, tmp_path: Path) -> None:
    for records in ({}, {"passes": PASSES}):
        assert set(found := pages(script, tmp_path, **records)) == {"performance.md"}
        for text in ("Nothing has been measured", "`crosskv bench kernels`", "bench passes`"):
            assert text in found["performance.md"]
        assert not re.search(r"\d [muT]", found["performance.md"])


def test_the_page(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "performance-notes.md").write_text("## Notebook\n\nTried and lost.\n")
    text = pages(script, tmp_path, kernels=KERNELS, passes=PASSES)["performance.md"]
    assert "on one NVIDIA H200 (132 multiprocessors), driver 580.1, CUDA 13.0, torch 2.11.0" in text
    assert "| bf16 matrix product | 780.00 TFLOP/s |" in text
    assert "in TB/s: `neg, 2048 MiB` 4.20; `neg, 256 MiB` 4.10; `copy_, 2048 MiB` 2.70." in text
    assert (
        "| coded, B 8, T 16384 | 40.5 | sdpa_flash 296.0<br>sdpa_cudnn 151.0 | "
        "12.0 (matrix products) | "
        "histogram, block_m 128 | 2.4e-03, torch 2.1e-03 | "
        "3.73 times faster than the best dense anchor (at least: must 3.5) aim met<br>"
        "1.07 time over SDPA (at most: must 1.15) met<br>"
        "flash_attention_3: RuntimeError: no such kernel |"
    ) in text
    assert "0.55 share of the matrix-product rate (at least: must 0.6, aim 0.8) **missed**" in text
    assert "| G 4 | - |  | - |  |  | ours: relative error 1.0 |" in text
    assert (
        "| 900,000.0 (8 timed, flash_attention_3) | "
        "9,000.0, 750.0 (flash_attention_3, sdpa_cudnn) | collective, P 8,192 | 5,000.0 | 500.0 | "
        "1,600 | 8,192,000 | 1.0e-03, torch 1.0e-03 | "
        "163.60 times faster than each candidate (at least: must 7) met<br>"
    ) in text
    assert (
        "| coded compiled, P 2,048 | 4,000.0 | 700.0 (not captured) | 2,000 | 5,851,429 | "
        "1.0e-03, torch 1.0e-03<br>differs by 5.0e-04, 1.2e-03 | 191.49 times faster"
    ) in text
    assert "| W3 | collective | context | pool_router 70, matrix products 30 |" in text
    assert text.endswith("## Notebook\n\nTried and lost.\n")


def test_passes_may_be_missing_or_wrong(script: ModuleType, tmp_path: Path) -> None:
    assert "Whole passes" not in pages(script, tmp_path, kernels=KERNELS)["performance.md"]
    (workload,) = PASSES["workloads"]
    broken = workload | {"ours": {}, "problems": {"collective, crossing": "relative error 1.0"}}
    record = PASSES | {"workloads": [broken]}
    text = pages(script, tmp_path, kernels=KERNELS, passes=record)["performance.md"]
    assert "| collective |  |  |  |  |  | relative error 1.0 |" in text


def test_the_picture(script: ModuleType, tmp_path: Path) -> None:
    picture = ElementTree.fromstring(pages(script, tmp_path, kernels=KERNELS)["performance.svg"])
    name = "{http://www.w3.org/2000/svg}"
    rects = list(picture.iter(f"{name}rect"))
    assert [rect.get("class") for rect in rects] == ["brand", "quiet", "quiet", "brand", "quiet"]
    widths = [float(rect.get("width", 0)) for rect in rects[:3]]
    assert widths[0] / widths[1] == pytest.approx(40.5 / 296, abs=1e-3)
    assert len(list(picture.iter(f"{name}line"))) == 2
    said = "".join(text.text or "" for text in picture.iter(f"{name}text"))
    assert "crossing_attention: coded, B 8, T 16384" in said
    assert "kv_expand" not in said
