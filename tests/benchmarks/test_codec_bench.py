"""The codec's benchmark runs, and its record says what was measured on what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import codec


def test_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "RUNS", 3)
    monkeypatch.setattr(codec, "_COPIES", 2)
    monkeypatch.setattr(codec, "TOKENS", 200)
    record = codec.bench_codec(tmp_path / "cpu" / "codec.json")
    assert json.loads((tmp_path / "cpu" / "codec.json").read_text()) == record
    whats = [row["what"] for row in record["times"]]
    assert whats == ["decode separate", "decode tied", "decode coded", "parse 200 actions"]
    assert all(0 < row["median_ms"] <= row["p90_ms"] for row in record["times"])
    # Two pages of 128 tokens, four layers, 8 bytes a token: both rows, both slices in bf16.
    assert record["times"][0]["bytes"] == 112 + 2 * 128 * 4 * 8
    percents = {row["percent_of_dense"] for row in record["sizes"] if row["form"] != "dense"}
    assert 0 < min(percents) < max(percents) < 4
    assert {"cpu", "cpus", "versions", "commit"} <= set(record["provenance"])
