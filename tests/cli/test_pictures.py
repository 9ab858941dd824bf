from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from cli.demo.charts import (
    Estimate,
    TimelinePoint,
    comparison,
    histogram,
    kilobytes,
    size_bars,
    timeline,
)
from cli.demo.svg import WIDTH, ticks


def shapes(picture: str, name: str, kind: str) -> list[dict[str, str]]:
    """Attributes of a picture's elements of that name and class, in their order."""
    root = ElementTree.fromstring(picture)
    return [element.attrib for element in root.iter(name) if element.get("class") == kind]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 10.0, [0, 2, 4, 6, 8, 10]),
        (0.681, 0.853, [0.70, 0.75, 0.80, 0.85]),
        (-0.3, 0.9, [0.0, 0.5]),
        (3.0, 1003.0, [200, 400, 600, 800, 1000]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_comparison_places_means_deviations_and_the_served_value() -> None:
    rows = [Estimate("a <b>", 0.80, 0.01, "brand"), Estimate("c", 0.70, 0.0, "quiet")]
    picture = comparison("Compared", "AUC", rows, 0.75, "this run, 9 users")
    (first,), (second,) = shapes(picture, "circle", "brand"), shapes(picture, "circle", "quiet")
    (whisker,) = shapes(picture, "line", "whisker")  # none without a deviation
    (served,) = shapes(picture, "line", "served")
    x = [float(one["cx"]) for one in (second, first)]
    scale = (x[1] - x[0]) / 0.1
    assert float(served["x1"]) == pytest.approx(x[0] + 0.05 * scale, abs=0.02)
    assert float(whisker["x2"]) - float(whisker["x1"]) == pytest.approx(0.02 * scale, abs=0.02)
    assert "a &lt;b&gt;" in picture
    assert ">this run, 9 users: 0.750<" in picture


def test_histogram_counts_every_value() -> None:
    values = np.concatenate((np.full(95, 1.0), np.full(5, 48.0)))
    picture = histogram("Latency", values, "ms", "warm")
    bars = shapes(picture, "rect", "warm")
    assert [float(bar["height"]) for bar in bars] == [120.0, pytest.approx(120 * 5 / 95, abs=0.01)]
    assert "p50 1.0 ms" in picture
    assert "p99 48.0 ms" in picture


def test_size_bars_share_one_scale() -> None:
    picture = size_bars("Bytes", (("dense", 4096.0, "quiet"), ("stored", 1024.0, "brand")))
    (dense,), (stored,) = shapes(picture, "rect", "quiet"), shapes(picture, "rect", "brand")
    assert float(stored["width"]) == pytest.approx(float(dense["width"]) / 4, abs=0.02)
    assert kilobytes(1536) == "1.5 KiB"
    assert kilobytes(1023) == "1,023 B"


@pytest.mark.parametrize("count", [2, 60, 700])
def test_timeline_keeps_every_action_inside(count: int) -> None:
    points = [TimelinePoint(1 + at % 5, "quiet", f"action {at}") for at in range(count)]
    picture = timeline(
        "Ratings", points, [(0, "01 Jan 1998"), (count // 2, "02 Jan 1998")], count - 1
    )
    dots = shapes(picture, "circle", "quiet")
    x = [float(one["cx"]) for one in dots]
    assert len(x) == count
    assert x == sorted(x)
    assert 0 < x[0] < x[-1] < WIDTH
    (future,) = shapes(picture, "rect", "future")
    assert x[-2] < float(future["x"]) < x[-1]
