from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from typer.testing import CliRunner

from cli.addresses import Addresses, announced
from cli.main import app


@pytest.fixture
def ask(runner: CliRunner, running: Addresses) -> Any:
    """Runs a command against the running stack; returns its output with runs of blanks as one."""

    def run(*arguments: str, status: int = 0) -> str:
        at = ["--context", running.context]
        if arguments[0] == "rank":
            at = ["--crossing", running.crossing, *([] if "--items" in arguments else at)]
        result = runner.invoke(app, [*arguments, *at])
        assert result.exit_code == status, result.output
        return re.sub(r"[\s│]+", " ", result.output)

    return run


def test_encode_rank_inspect_delete(ask: Any, movielens: Path) -> None:
    encoded = ask("encode", "--user", "3", "--data", str(movielens))
    assert "published yes" in encoded
    assert "actions 30 " in encoded
    assert "unknown to the model 0 " in encoded

    ranked = ask("rank", "--user", "3", "--top", "7", "--data", str(movielens))
    assert "7 of 20 candidates by watch" in ranked
    assert "over the whole catalogue rare films may come first" in ranked
    assert "encoded just now" not in ranked
    rows = re.findall(r" (\d+) (\d+) Film <\2> & Co \(\d+\) (0\.\d{3}) (0\.\d{3})", ranked)
    assert [int(row[0]) for row in rows] == list(range(1, 8))
    watch = [float(row[2]) for row in rows]
    assert watch == sorted(watch, reverse=True)

    by_like = ask("rank", "--user", "3", "--by", "like", "--data", str(movielens))
    like = [float(score) for score in re.findall(r"\) 0\.\d{3} (0\.\d{3})", by_like)]
    assert len(like) == 10
    assert like == sorted(like, reverse=True)

    entry = ask("inspect", "--user", "3")
    assert "tokens 30 " in entry
    assert "short history" not in entry
    for layer in (1, 2, 3):
        assert re.search(rf"layer {layer} \d+ by keys, \d+ by values, of 37 ", entry)
    assert re.search(
        r"[\d,]+ bytes, [\d.]+% of 5,760 as dense bf16", entry
    )  # 30 * 3 * 2 * 2 * 8 * 2

    assert "user 3: 1 entry deleted" in ask("delete", "--user", "3")
    missing = ask("inspect", "--user", "3", status=1)
    assert "nothing usable is stored for user '3' (absent); encode a history first" in missing


def test_rank_encodes_a_user_of_whom_nothing_is_stored(ask: Any, movielens: Path) -> None:
    ask("delete", "--user", "4")
    assert "on 30 actions, encoded just now" in ask("rank", "--user", "4", "--data", str(movielens))


@pytest.mark.parametrize("form", ["json", "csv"])
def test_own_actions(form: str, ask: Any, tmp_path: Path) -> None:
    file = tmp_path / f"anna.{form}"
    rows = [
        {"item_id": 7, "action": "5", "time_s": 100},
        {"item_id": 2**63, "action": "1", "time_s": 90},
    ]
    rows.sort(key=lambda row: row["time_s"])  # type: ignore[arg-type,return-value]
    if form == "json":
        file.write_text(json.dumps(rows))
    else:
        lines = [",".join(str(value) for value in row.values()) for row in rows]
        file.write_text("\n".join(["item_id,action,time_s", *lines]) + "\n")
    user = f"anna-{form}"
    encoded = ask("encode", "--user", user, "--actions", str(file))
    assert "actions 2 " in encoded
    assert "unknown to the model 1 " in encoded
    assert "history version 100 " in encoded
    ranked = ask("rank", "--user", user, "--items", "5,9,12345")
    assert "3 of 3 candidates by watch" in ranked
    assert "rare films" not in ranked
    assert "short history: header and page padding" in ask("inspect", "--user", user)
    assert "1 item unknown to the model" in ranked


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "cannot read"),
        ("[]", "holds no actions"),
        ("{}", "not a list of objects"),
        ('[{"item_id": 1, "time_s": 3}]', "action 1: action is missing"),
        (
            '[{"item_id": 1, "action": "6", "time_s": 3}]',
            "action is '6'; the model knows 1, 2",
        ),
        ('[{"item_id": "x", "action": "5", "time_s": 3}]', "item_id is 'x', not a whole number"),
        (
            '[{"item_id": -1, "action": "5", "time_s": 3}]',
            "item_id is -1, not a whole number from 0",
        ),
    ],
)
def test_a_bad_actions_file_is_named(content: str, message: str, ask: Any, tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_text(content)
    output = ask("encode", "--user", "a", "--actions", str(file), status=1)
    assert message in output
    assert "Traceback" not in output


def test_bad_options(ask: Any, movielens: Path) -> None:
    data = ("--data", str(movielens))
    unknown = ask("rank", "--user", "99", *data, status=1)
    assert "user 99 is not in MovieLens (its users are 1 to 12), so say what to rank: " in unknown
    assert "`crosskv rank --user 99 --items ID,ID,...`" in unknown
    encode = ask("encode", "--user", "99", *data, status=1)
    assert "so say what to encode: `crosskv encode --user 99 --actions FILE`" in encode
    missing = ask("encode", "--user", "99", "--actions", "nope.csv", status=1)
    assert "nope.csv: no such file" in missing
    assert "--by buy" in ask("rank", "--user", "3", "--by", "buy", *data, status=1)
    assert "--items 1,x" in ask("rank", "--user", "3", "--items", "1,x", status=1)


@pytest.mark.parametrize("command", ["encode", "inspect", "delete"])
def test_no_address_is_taken_that_a_command_does_not_use(command: str, runner: CliRunner) -> None:
    arguments = [command, "--user", "3", "--context", "127.0.0.1:1", "--crossing", "127.0.0.1:1"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert "No such option: --crossing" in result.output


def test_both_services_show_their_metrics(running: Addresses) -> None:
    for url in (running.context_metrics, running.crossing_metrics):
        with urlopen(url, timeout=10) as reply:
            assert b"crosskv_requests_total" in reply.read()


def test_addresses_come_from_the_state_file(
    runner: CliRunner,
    running: Addresses,
    movielens: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with announced(running):
        result = runner.invoke(app, ["encode", "--user", "5", "--data", str(movielens)])
        assert result.exit_code == 0, result.output
    assert runner.invoke(app, ["inspect", "--user", "5"]).exit_code == 1
