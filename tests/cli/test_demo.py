from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from cli.demo import replay
from cli.demo.command import _while_running
from cli.demo.replay import task_scores
from cli.demo.summary import TOLERANCE, TaskFigures, require_equal_quality, require_measurable
from cli.failure import CommandError
from cli.main import app
from cli.stack import LocalStack
from training.cases import CaseSampler
from training.movielens import load_movielens

ROOT = Path(__file__).parents[2]
USERS = 9
TASK_KEYS = {"auc", "gauc", "offline_auc", "offline_gauc"}
KEYS = {
    *("users", "requests", "candidates", "tasks", "stored_bytes_per_user"),
    *("dense_bytes_per_user", "encode_ms_p50", "encode_ms_p99", "score_ms_p50", "score_ms_p99"),
    *("requests_per_s", "wall_s"),
}


@pytest.fixture(scope="module")
def shown(
    runner: CliRunner, checkpoint: Path, movielens: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """Output and directory of one demo."""
    out = tmp_path_factory.mktemp("demo") / "out"
    before = set(psutil.Process().children(recursive=True))
    result = runner.invoke(
        app,
        [
            *("demo", "--checkpoint", str(checkpoint), "--data", str(movielens)),
            *("--users", str(USERS), "--out", str(out)),
        ],
    )
    assert result.exit_code == 0, result.output
    assert set(psutil.Process().children(recursive=True)) <= before
    return result.output, out


def test_summary_has_the_agreed_keys_and_consistent_figures(shown: tuple[str, Path]) -> None:
    summary = json.loads((shown[1] / "summary.json").read_text())
    assert set(summary) == KEYS
    assert set(summary["tasks"]) == {"watch", "like"}
    assert summary["users"] == USERS
    assert summary["requests"] == 2 * USERS
    assert summary["candidates"] == USERS * 12  # 6 held out of 30 actions, and as many unseen
    assert summary["dense_bytes_per_user"] == 24 * 3 * 2 * 2 * 8 * 2
    measured_s = summary["requests"] / summary["requests_per_s"]
    assert summary["wall_s"] > measured_s
    assert 0 < summary["stored_bytes_per_user"] < summary["dense_bytes_per_user"]
    for figures in summary["tasks"].values():
        assert set(figures) == TASK_KEYS
        assert figures["auc"] == pytest.approx(figures["offline_auc"], abs=TOLERANCE)
        assert figures["gauc"] == pytest.approx(figures["offline_gauc"], abs=TOLERANCE)
    for kind in ("encode_ms", "score_ms"):
        assert 0 < summary[f"{kind}_p50"] <= summary[f"{kind}_p99"]


def test_the_terminal_tells_story_and_figures(shown: tuple[str, Path]) -> None:
    output, _ = shown
    assert "the last 10 of 24 encoded actions, newest first" in output
    assert "\n12 films not rated by then, 6 of them those the user went on to watch" in output
    assert len(re.findall(r"│ +\d+ │ Film <\d+> & Co", output)) == 10
    assert re.search(
        r"Of the 10 on top, the user then watched \d and liked \d; a blind pick would hit 5\.0",
        output,
    )
    for words in (
        "GAUC",
        "encode a history",
        "p99",
        "requests/s",
        "encodes and scores together",
        "a user on average, dense bf16",
        "% of all bytes",
    ):
        assert words in output


class Page(HTMLParser):
    """Collects what a page refers to, and whether its elements close in order."""

    VOID = ("meta", "br", "hr", "img", "input", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_is_one_page_that_fetches_nothing(shown: tuple[str, Path]) -> None:
    text = (shown[1] / "report.html").read_text("utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|data:", text)
    page = Page()
    page.feed(text)
    page.close()
    assert not page.open
    names = {tag for tag, _ in page.seen}
    assert not names & {"script", "link", "img", "iframe", "object"}
    for _, attributes in page.seen:
        assert not {"src", "href", "style"} & set(attributes)
    pictures = [attributes for tag, attributes in page.seen if tag == "svg"]
    assert len(pictures) >= 5
    for picture in pictures:
        told = picture.get("role") == "img" and picture.get("aria-label")
        assert told or picture.get("aria-hidden") == "true"
    assert "Film &lt;" in text
    assert re.search(r"worst user \d+\.\d\d %, median user \d+\.\d\d %", text)
    assert "<Film" not in text
    assert re.search(r">Before that: the last 10 of 24 encoded actions, newest first<", text)
    for table in (text, shown[0]):
        days = re.findall(r"\b1997-\d\d-\d\d\b|\b1998-\d\d-\d\d\b", table)
        assert len(days) == 10
        assert days == sorted(days, reverse=True)
    assert "nan" not in text.lower().split()


@pytest.mark.parametrize("key", sorted(TASK_KEYS))
def test_a_differing_metric_fails_the_demo(key: str) -> None:
    equal = dict.fromkeys(TASK_KEYS, 0.75)
    require_equal_quality({"watch": TaskFigures(**equal)})
    for wrong in (0.75 + 2 * TOLERANCE, 0.75 - 2 * TOLERANCE, float("nan")):
        with pytest.raises(CommandError, match=rf"watch {key.removeprefix('offline_').upper()} "):
            require_equal_quality({"watch": TaskFigures(**{**equal, key: wrong})})


@pytest.mark.parametrize("task", ["watch", "like"])
def test_a_task_that_cannot_be_measured_is_said_before_anything_starts(
    task: str, movielens: Path
) -> None:
    cases = CaseSampler(load_movielens(movielens)).test_cases()
    require_measurable(cases)
    alike = [replace(case, **{task: np.ones(len(case.watch), np.bool_)}) for case in cases]
    for few in (alike, []):
        with pytest.raises(CommandError, match=f"{task if few else 'watch'} cannot be measured"):
            require_measurable(few)


@pytest.mark.usefixtures("leaves_no_process")
def test_scores_that_differ_from_offline_end_the_command(
    runner: CliRunner,
    checkpoint: Path,
    movielens: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay, "task_scores", lambda reply: 1 - task_scores(reply))
    arguments = ["demo", "--checkpoint", str(checkpoint), "--data", str(movielens)]
    result = runner.invoke(app, [*arguments, "--users", "3", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "do not rank as the offline evaluation does" in result.output


async def test_a_process_that_dies_ends_the_replay_without_waiting_for_its_calls() -> None:
    class Dead:
        def check(self) -> None:
            raise CommandError("the store ended")

    cancelled = asyncio.Event()

    async def never() -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(CommandError, match="the store ended"):
        await _while_running(cast(LocalStack, Dead()), never())
    await cancelled.wait()


def test_ctrl_c_in_the_demo_leaves_no_process(
    checkpoint: Path, movielens: Path, tmp_path: Path
) -> None:
    program = "from cli.main import app; app()"
    arguments: list[Any] = ["demo", "--checkpoint", checkpoint, "--data", movielens]
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments), "--out", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as demo:
        try:
            give_up = time.monotonic() + 60
            while not (tmp_path / "logs" / "crossing.log").exists():
                assert time.monotonic() < give_up
                time.sleep(0.02)
            children = psutil.Process(demo.pid).children(recursive=True)
        finally:
            demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=30)
    assert demo.returncode == 130, output
    assert "Interrupted" in output
    assert children
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
