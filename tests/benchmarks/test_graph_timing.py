"""Timing: what fails is told and stops nobody else; on a GPU, graphs where they can be captured."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch

from benchmarks import ceilings, graph_timing
from benchmarks.ceilings import measured_ceilings
from benchmarks.graph_timing import Timing, time_in_turn


def test_turns_alternate_and_failures_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []

    def prepared(run: Callable[[], object]) -> graph_timing._Ready:
        if run() == "wrong":
            return graph_timing._Ready(run, 0, Timing(None, "nothing", "RuntimeError: wrong"))
        return graph_timing._Ready(run, 4, Timing(None, "graph replay"))

    times = iter([8.0, 80.0, 12.0, 120.0, 400.0, 40.0])

    def elapsed_us(launch: Callable[[], str]) -> float:
        launched.append(launch())
        return next(times)

    monkeypatch.setattr(graph_timing, "_prepared", prepared)
    monkeypatch.setattr(graph_timing, "_elapsed_us", elapsed_us)
    monkeypatch.setattr(graph_timing, "REPLAYS_A_ROUND", 1)
    runs = {name: lambda name=name: name for name in ("ours", "wrong", "theirs")}
    found = time_in_turn(runs, rounds=3)
    assert launched == ["ours", "theirs"] * 3
    assert found["ours"] == Timing(12.0 / 4, "graph replay")
    assert found["theirs"] == Timing(80.0 / 4, "graph replay")
    assert found["wrong"] == Timing(None, "nothing", "RuntimeError: wrong")


def test_an_error_is_told_in_a_line() -> None:
    assert graph_timing.told(ValueError("q: wrong\nfar too much")) == "ValueError: q: wrong"


def test_every_way_to_copy_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = torch.randn(2, 3 << 18).unbind()
    moved: dict[str, float] = {}

    def time_in_turn(runs: Mapping[str, Callable[[], object]]) -> dict[str, Timing]:
        for name, run in runs.items():
            target.fill_(7)
            run()
            moved[f"{name} {len(moved)}"] = (target != 7).double().mean().item()
        failed = Timing(None, "nothing", "RuntimeError: no kernel")
        return {name: failed if name == "mul" else Timing(4.0, "graph replay") for name in runs}

    monkeypatch.setattr(ceilings, "time_in_turn", time_in_turn)
    monkeypatch.setattr(ceilings, "_COPIED_MIB", (1, 3))
    found = ceilings.measured_copies(source, target)
    assert found == {
        f"{way}, {mib} MiB": 2 * (mib << 20) / 4e-6 for mib in (1, 3) for way in ("copy_", "neg")
    }
    assert list(moved.values()) == pytest.approx([1 / 3] * 3 + [1.0] * 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    a = torch.randn(512, 512, device="cuda")

    def asks_the_host() -> float:
        return float((a @ a).sum())

    def fails() -> None:
        raise RuntimeError("no such kernel")

    found = time_in_turn({"product": lambda: a @ a, "asks": asks_the_host, "fails": fails})
    assert found["product"].by == "graph replay"
    assert found["asks"].by == "events"
    assert 0 < (found["product"].us or 0) < (found["asks"].us or 0)
    assert found["fails"] == Timing(None, "nothing", "RuntimeError: no such kernel")
    assert time_in_turn({"again": lambda: a @ a})["again"].by == "graph replay"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_ceilings_are_of_this_world() -> None:
    found = measured_ceilings()
    assert 1e13 < found.flops < 5e15
    assert 1e11 < found.bytes < 2e13
    assert len(found.copies) == 6
    assert 1e11 < found.exps < 1e14
    assert 1e9 < found.host_bytes < 1e12
