"""The example trains, and what it writes is served: from its history file to scores."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from kernels.histories import Pages
from shared.model.batch import CandidateTokens, HistoryTokens, PagedKV, action_gaps, bounds
from shared.model.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_writes_a_model_and_a_history_that_score(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "examples/own_model.py", str(tmp_path), "--steps", "3"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    checkpoint = load_checkpoint(tmp_path)
    ranker, config = checkpoint.ranker, checkpoint.config
    assert checkpoint.fingerprint in said
    assert f"crosskv up --checkpoint {tmp_path}" in said
    assert f"--actions {tmp_path / 'history.csv'}" in said

    with (tmp_path / "history.csv").open(newline="") as file:
        actions = list(csv.DictReader(file))
    count = len(actions)
    assert 0 < count <= config.max_history
    times_s = np.array([int(action["time_s"]) for action in actions])
    assert (np.diff(times_s) >= 0).all()
    named = torch.tensor([config.action_types.index(action["action"]) for action in actions])
    item_ids = np.array([action["item_id"] for action in actions]).astype(np.uint64)
    rows = torch.from_numpy(checkpoint.items.rows(item_ids)[0])
    history = HistoryTokens(
        rows,
        named,
        torch.zeros(count, dtype=torch.int64),
        torch.from_numpy(action_gaps(times_s, None)),
        bounds([count]),
    )
    page_count = ranker.layout.page_count(count)
    arena = torch.zeros(page_count, ranker.layout.page_bytes, dtype=torch.uint8)
    table = torch.arange(page_count, dtype=torch.int32)[None]
    kv = PagedKV(arena, Pages.of(table, [count], config.page_tokens))
    assert ranker.context_pass(history, kv).all()

    asked = [int(item) for item in said.rsplit("--items ", 1)[1].split(",")]
    assert len(asked) > 1
    candidates = CandidateTokens(
        torch.from_numpy(checkpoint.items.rows(np.array(asked, np.uint64))[0]),
        torch.zeros(len(asked), dtype=torch.int64),
        torch.zeros(len(asked), dtype=torch.int64),
        torch.zeros(len(asked), config.feature_dim),
        bounds([len(asked)]),
    )
    scores = ranker.crossing_pass(candidates, kv)
    assert scores.shape == (len(asked), len(config.tasks))
    assert ((scores > 0) & (scores < 1)).all()
    assert (scores.std(dim=0) > 0).all()
