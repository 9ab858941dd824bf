from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from cli.failure import CommandError
from cli.ports import WantedPorts
from cli.stack import LocalStack

ROOT = Path(__file__).parents[2]
UP = "from cli.main import app; app()"
QUIET = Console(quiet=True)


def all_gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs; one that nobody has waited for yet has ended all the same."""
    _, alive = psutil.wait_procs(processes, timeout=10)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def wait_for(condition: Callable[[], object], what: str) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up, f"never happened: {what}"
        time.sleep(0.02)


def start_up(checkpoint: Path, directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", UP, "up", "--checkpoint", str(checkpoint)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_up_leaves_no_process_whatever_ends_it(
    number: signal.Signals, checkpoint: Path, tmp_path: Path
) -> None:
    state = tmp_path / "runs" / "up.json"
    with start_up(checkpoint, tmp_path) as up:
        try:
            wait_for(lambda: state.exists() or up.poll() is not None, "up.json")
            children = psutil.Process(up.pid).children(recursive=True)
            assert {name for child in children for name in child.cmdline()[-1:]} >= {
                "context_service",
                "crossing_service",
            }
            assert len(children) == 3
            assert json.loads(state.read_text())["pid"] == up.pid
        finally:
            up.send_signal(number)
        output, _ = up.communicate(timeout=30)
        assert all_gone(children)
        if number is signal.SIGKILL:
            return  # nothing of the command ran any more
        assert up.returncode == 0, output
        assert "stopped" in output
        assert output.count("/metrics") == 2
        assert not state.exists()


def test_a_dead_process_is_named_and_the_exception_stops_the_others(
    checkpoint: Path, tmp_path: Path
) -> None:
    processes = []

    def lose_the_store() -> None:
        with LocalStack(checkpoint, tmp_path, QUIET) as stack:
            processes.extend(psutil.Process(pid) for pid in stack.pids.values())
            stack.check()
            os.kill(stack.pids["Valkey server"], signal.SIGKILL)
            wait_for(stack.check, "the check of a dead process")

    with pytest.raises(CommandError, match=r"server ended with SIGKILL.*valkey\.log") as error:
        lose_the_store()
    assert len({process.pid for process in processes}) == 3
    assert "Ready to accept connections" in str(error.value)
    assert all_gone(processes)
    logs = ["context.log", "crossing.log", "valkey.log"]
    assert sorted(file.name for file in tmp_path.iterdir()) == logs


@pytest.mark.usefixtures("leaves_no_process")
def test_a_broken_checkpoint_shows_the_services_own_words(checkpoint: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((checkpoint / "config.json").read_text())
    (broken / "model.safetensors").write_bytes(b"\x07" * 64)
    with (
        pytest.raises(CommandError, match="service ended with status") as error,
        LocalStack(broken, tmp_path / "logs", QUIET),
    ):
        pass
    assert "not a CrossKV checkpoint" in str(error.value)


@pytest.mark.usefixtures("leaves_no_process")
def test_a_start_that_takes_too_long_is_given_up(checkpoint: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(CommandError, match=r"not ready after 0 s.*Its log"),
        LocalStack(checkpoint, tmp_path, QUIET, WantedPorts(), start_timeout_s=0.0),
    ):
        pass
