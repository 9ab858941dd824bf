from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.addresses import STATE_FILE, Addresses, announced
from cli.failure import CommandError
from cli.main import app
from context_service.settings import ContextSettings
from crossing_service.settings import CrossingSettings
from shared.rpc.ports import free_port
from shared.settings import SHARED_SECTIONS, variables

pytestmark = pytest.mark.usefixtures("leaves_no_process")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def failing(runner: CliRunner, *arguments: str) -> str:
    result = runner.invoke(app, list(arguments))
    assert result.exit_code == 1, result.output
    assert result.output.startswith("error ")
    assert "Traceback" not in result.output
    return result.output


@pytest.mark.parametrize("command", ["up", "demo", "evaluate"])
def test_no_checkpoint(command: str, runner: CliRunner) -> None:
    output = failing(runner, command)
    assert "no checkpoint in checkpoints/ml-100k" in output
    assert "crosskv train" in output


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("encode --actions x.csv", "--context"),
        ("inspect", "--context"),
        ("delete", "--context"),
        ("rank --items 1", "--crossing"),
    ],
)
def test_no_stack(command: str, option: str, runner: CliRunner) -> None:
    output = failing(runner, *command.split(), "--user", "1")
    assert f"start one with `crosskv up` in another terminal, or pass {option} HOST" in output


def test_a_state_file_of_a_dead_process_is_no_stack(runner: CliRunner) -> None:
    STATE_FILE.parent.mkdir()
    state = {"pid": os.getpid(), "started": 1.0, "context": "a:1", "crossing": "b:2"}
    STATE_FILE.write_text(json.dumps(state))  # the process id lives, but as another process
    assert "left over" in failing(runner, "inspect", "--user", "1")


def test_a_second_stack_in_one_directory_is_refused(runner: CliRunner) -> None:
    addresses = Addresses("a:1", "b:2", "redis://c:3", "http://a:4", "http://b:5")
    with announced(addresses):
        assert f"already running here (process {os.getpid()}" in failing(runner, "up")
        with pytest.raises(CommandError, match="already running"), announced(addresses):
            pass
        assert STATE_FILE.exists()
    assert not STATE_FILE.exists()


def test_services_that_do_not_answer(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.session._TIMEOUT_S", 0.5)
    output = failing(runner, "inspect", "--user", "1", "--context", "127.0.0.1:1")
    assert "is it at 127.0.0.1:1?" in output


def test_a_taken_port(runner: CliRunner, checkpoint: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        output = failing(runner, "up", "--checkpoint", str(checkpoint), "--crossing-port", port)
    assert f"port {port} is taken" in output
    assert "--crossing-port" in output


def test_a_port_wanted_twice(runner: CliRunner, checkpoint: Path) -> None:
    port = str(free_port())
    twice = ["--context-port", port, "--store-port", port]
    output = failing(runner, "up", "--checkpoint", str(checkpoint), *twice)
    assert f"port {port} is taken" in output
    assert "--store-port" in output


@pytest.mark.parametrize("command", ["demo", "evaluate"])
def test_a_model_that_movielens_does_not_fit(
    command: str, runner: CliRunner, foreign_checkpoint: Path, movielens: Path
) -> None:
    arguments = ["--checkpoint", str(foreign_checkpoint), "--data", str(movielens)]
    output = failing(runner, command, *arguments)
    assert "tasks click, buy instead of watch, like" in output
    assert "action types view, click, buy instead of 1, 2, 3, 4, 5" in output
    assert "--actions FILE" in output
    assert "--items ID,ID" in output


def test_messages_call_the_program_as_the_reader_did(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = tmp_path / "bin" / "crosskv"
    called.parent.mkdir()
    called.write_text("#!/bin/sh\n")
    called.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(called)])
    assert f"`{called} up`" in failing(runner, "inspect", "--user", "1")
    monkeypatch.setenv("PATH", str(called.parent))
    assert "`crosskv up`" in failing(runner, "inspect", "--user", "1")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest"])
    assert "`crosskv up`" in failing(runner, "inspect", "--user", "1")


def test_data_that_are_not_there(runner: CliRunner, checkpoint: Path) -> None:
    output = failing(runner, "demo", "--checkpoint", str(checkpoint), "--data", "nowhere")
    assert "nowhere/ml-100k.inter" in output
    assert "--data" in output


COMMANDS = ["up", "demo", "settings", "encode", "rank", "inspect", "delete", "train", "evaluate"]


@pytest.mark.parametrize(
    "command", [*COMMANDS, *(f"bench {name}" for name in ("rpc", "codec", "kernels", "passes"))]
)
def test_help_has_an_example(command: str, runner: CliRunner) -> None:
    result = runner.invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"crosskv {command}" in result.output


def test_the_list_of_commands_is_whole() -> None:
    named = {
        info.name or info.callback.__name__ for info in app.registered_commands if info.callback
    }
    assert named == set(COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('heavy', sorted({'torch', 'sklearn', 'grpc', 'redis'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "heavy []" in result.stdout


def test_settings_lists_every_variable(runner: CliRunner) -> None:
    output = runner.invoke(app, ["settings"]).output
    for section in (*SHARED_SECTIONS, ContextSettings, CrossingSettings):
        for name in variables(section):
            assert f"| `{name}` |" in output
