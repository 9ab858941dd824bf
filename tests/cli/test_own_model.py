from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cli.addresses import Addresses
from cli.history_file import read_actions
from cli.main import app
from cli.stack import LocalStack
from ranking_client import ModelDescription


@pytest.fixture(scope="module")
def at(foreign_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """A stack that serves a model of other tasks and actions than MovieLens'."""
    logs = tmp_path_factory.mktemp("logs")
    with LocalStack(foreign_checkpoint, logs, Console(quiet=True)) as stack:
        yield stack.addresses


def test_movielens_users_are_refused_and_own_ones_ranked(
    runner: CliRunner, at: Addresses, movielens: Path, tmp_path: Path
) -> None:
    def ask(*arguments: str, status: int) -> str:
        result = runner.invoke(app, list(arguments))
        assert result.exit_code == status, result.output
        return result.output

    context, crossing = ("--context", at.context), ("--crossing", at.crossing)
    data = ("--data", str(movielens))
    encode = ask("encode", "--user", "4", *data, *context, status=1)
    assert "tasks click, buy instead of watch, like" in encode
    assert "`crosskv encode --user 4 --actions FILE`" in encode
    rank = ask("rank", "--user", "4", *data, *context, *crossing, status=1)
    assert "action types view, click, buy instead of 1, 2, 3, 4, 5" in rank
    assert "`crosskv rank --user 4 --items ID,ID,...`" in rank

    file = tmp_path / "anna.csv"
    file.write_text("item_id,action,time_s\n3,buy,1700000000\n")
    ask("encode", "--user", "anna", "--actions", str(file), *context, status=0)
    shown = ask("rank", "--user", "anna", "--items", "5,9", *crossing, status=0)
    assert "2 of 2 candidates by click\n" in shown  # on one line, though the table is narrower
    assert "on 1 action\n" in shown


@pytest.mark.parametrize(
    ("text", "surfaces"),
    [
        ("item_id,action,time_s\n3,buy,5\n4,view,6\n", [0, 0]),
        ("\ufeffitem_id,action,time_s,surface\n3,buy,5,search\n4,view,6,\n", [1, 0]),
    ],
)
def test_a_surface_left_out_is_the_first(text: str, surfaces: list[int], tmp_path: Path) -> None:
    file = tmp_path / "anna.csv"
    file.write_text(text)
    model = ModelDescription(
        fingerprint="",
        tasks=("click",),
        feature_dim=0,
        max_history=9,
        max_candidates=9,
        action_types=("view", "click", "buy"),
        surfaces=("home", "search"),
        config_json="{}",
    )
    read = read_actions(file, model)
    np.testing.assert_array_equal(read.item_ids, [3, 4])
    assert read.surfaces is not None
    np.testing.assert_array_equal(read.surfaces, surfaces)
