from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cli.addresses import Addresses
from cli.stack import LocalStack
from shared.model.checkpoint import save_checkpoint
from tests.tiny_model import ITEM_COUNT, tiny_config, tiny_ranker

USERS, ACTIONS = 12, 30


@pytest.fixture
def leaves_no_process() -> Iterator[None]:
    """The test ends with the child processes with which it began."""
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.fixture(scope="session")
def runner() -> CliRunner:
    # Wide enough that a message is never wrapped in the middle of what a test looks for.
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of the shape that the MovieLens commands expect."""
    directory = tmp_path_factory.mktemp("checkpoint")
    config = tiny_config(action_types=tuple("12345"), surfaces=("default",), feature_dim=0)
    save_checkpoint(directory, tiny_ranker(config), np.arange(1, ITEM_COUNT + 1, dtype=np.uint64))
    return directory


@pytest.fixture(scope="session")
def foreign_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with tasks, actions and surfaces of its own, which MovieLens does not fit."""
    directory = tmp_path_factory.mktemp("foreign")
    config = tiny_config(tasks=("click", "buy"), feature_dim=0)
    save_checkpoint(directory, tiny_ranker(config), np.arange(1, ITEM_COUNT + 1, dtype=np.uint64))
    return directory


@pytest.fixture(scope="session")
def movielens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of MovieLens' form: 12 users, each with 30 of 50 films in an order of their own."""
    directory = tmp_path_factory.mktemp("movielens")
    rng = np.random.default_rng(5)
    films = [
        f"{item}\tFilm <{item}> & Co\t19{50 + item % 50}\tDrama"
        for item in range(1, ITEM_COUNT + 1)
    ]
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    (directory / "ml-100k.item").write_text("\n".join([header, *films]) + "\n")
    rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(1, USERS + 1):
        items = rng.permutation(ITEM_COUNT)[:ACTIONS] + 1
        times = 880_000_000 + np.cumsum(rng.integers(1, 50_000, ACTIONS))
        ratings = rng.integers(1, 6, ACTIONS)
        rows += [
            f"{user}\t{item}\t{rating}\t{time}"
            for item, rating, time in zip(items, ratings, times, strict=True)
        ]
    (directory / "ml-100k.inter").write_text("\n".join(rows) + "\n")
    return directory


@pytest.fixture(scope="module")
def running(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """One stack for a module whose tests only talk to it; others count their own processes."""
    console = Console(quiet=True)
    with LocalStack(checkpoint, tmp_path_factory.mktemp("logs"), console) as stack:
        yield stack.addresses
