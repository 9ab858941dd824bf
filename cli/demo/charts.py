"""The report's pictures: numbers in, SVG out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cli.demo.svg import WIDTH, bar, dot, element, label, line, picture, ticks

_LEFT = 168  # room for row names
_RIGHT = WIDTH - 124  # room for values


@dataclass(frozen=True)
class Estimate:
    """One row of a comparison: mean and standard deviation over seeds."""

    name: str
    mean: float
    deviation: float
    kind: str
    """Style class of the dot."""


@dataclass(frozen=True)
class TimelinePoint:
    """One action of a user."""

    rating: int
    kind: str
    """Style class of the dot."""
    tip: str


def comparison(
    name: str, metric: str, rows: Sequence[Estimate], served: float, served_name: str
) -> str:
    """Dots with whiskers of one standard deviation, and a named line at `served`."""
    row_height, top = 26.0, 26.0
    height = top + row_height * len(rows) + 26
    values = [served]
    for row in rows:
        values += [row.mean - row.deviation, row.mean + row.deviation]
    room = max(0.002, 0.06 * (max(values) - min(values)))
    low, high = min(values) - room, max(values) + room

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT)

    shapes = _grid(ticks(low, high), x, top - 8, height - 26, "{:g}")
    shapes.append(label(_LEFT - 12, top - 10, metric, anchor="end", kind="value"))
    shapes.append(line(x(served), top - 6, x(served), height - 26, "served"))
    anchor = "start" if x(served) < (_LEFT + _RIGHT) / 2 else "end"  # clear of what is beside it
    told_served = f"{served_name}: {served:.3f}"
    shapes.append(label(x(served), top - 12, told_served, anchor=anchor, kind="note"))
    for number, row in enumerate(rows):
        y = top + row_height * (number + 0.5)
        spread = f" ± {row.deviation:.3f}" if row.deviation else ""
        shapes.append(label(_LEFT - 12, y + 4, row.name, anchor="end"))
        if row.deviation:
            shapes.append(
                line(x(row.mean - row.deviation), y, x(row.mean + row.deviation), y, "whisker")
            )
        shapes.append(dot(x(row.mean), y, 5, row.kind, f"{row.name}: {row.mean:.4f}{spread}"))
        shapes.append(label(_RIGHT + 14, y + 4, f"{row.mean:.3f}{spread}", kind="value"))
    told = ", ".join(f"{row.name} {row.mean:.3f}" for row in rows)
    return picture(height, name, f"{told_served}; offline study: {told}.", *shapes)


def histogram(name: str, values: NDArray[np.float64], unit: str, kind: str) -> str:
    """How often which value came, to the largest; lines mark the median and the 99th percentile."""
    top, bottom = 30.0, 150.0
    left, right = 24.0, WIDTH - 24.0
    counts, edges = np.histogram(values, bins=48, range=(0.0, float(values.max())))
    p50, p99 = (float(p) for p in np.percentile(values, [50, 99]))

    def x(value: float) -> float:
        return left + value / float(edges[-1]) * (right - left)

    shapes = _grid(ticks(0.0, float(edges[-1]), 8), x, bottom, bottom + 4, "{:g} " + unit)
    tallest = float(counts.max())
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            height = (bottom - top) * float(count) / tallest
            tip = f"{low:.1f} to {high:.1f} {unit}: {count}"
            shapes.append(
                bar(x(low) + 0.5, bottom - height, x(high) - x(low) - 1, height, kind, tip)
            )
    for percentile, value in (("p50", p50), ("p99", p99)):
        anchor = "end" if x(value) > 0.85 * WIDTH else "start"
        nudge = -5 if anchor == "end" else 5
        shapes.append(line(x(value), 12, x(value), bottom, "mark"))
        shapes.append(
            label(x(value) + nudge, 20, f"{percentile} {value:.1f} {unit}", anchor=anchor)
        )
    shapes.append(line(left, bottom, right, bottom, "axis"))
    return picture(
        bottom + 24,
        name,
        f"{len(values)} values, median {p50:.1f} {unit}, 99th percentile {p99:.1f} {unit}.",
        *shapes,
    )


def size_bars(name: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """Bars of bytes, each (name, bytes, style class), on one scale from zero."""
    row_height = 40.0
    largest = max(size for _, size, _ in rows)
    shapes = []
    for number, (row, size, kind) in enumerate(rows):
        y = row_height * number + 6
        width = size / largest * (_RIGHT - _LEFT)
        shapes.append(label(_LEFT - 12, y + 19, row, anchor="end"))
        shapes.append(bar(_LEFT, y, width, 28, kind, f"{row}: {size:,.0f} bytes"))
        shapes.append(label(_LEFT + width + 8, y + 19, kilobytes(size), kind="value"))
    told = ", ".join(f"{row} {size:,.0f} bytes" for row, size, _ in rows)
    return picture(row_height * len(rows) + 4, name, f"{told}.", *shapes)


def timeline(
    name: str, points: Sequence[TimelinePoint], sessions: Sequence[tuple[int, str]], cut: int
) -> str:
    """A user's ratings in order, left to right; `sessions` are (first action, date), `cut` is where
    the encoded history ends.
    """
    left, right, top, step = 40.0, WIDTH - 12.0, 34.0, 21.0
    bottom = top + 4 * step + 12
    pitch = (right - left) / len(points)
    radius = min(4.5, max(1.6, 0.42 * pitch))

    def x(number: float) -> float:
        return left + (number + 0.5) * pitch

    shapes = []
    for rating in range(1, 6):
        y = top + (5 - rating) * step
        shapes += [
            line(left, y, right, y, "grid"),
            label(left - 10, y + 4, f"{rating}★", anchor="end"),
        ]
    last_label = -1e9
    for first, date in sessions:
        at = x(first - 0.5)
        shapes.append(line(at, top - 8, at, bottom, "session"))
        if at - last_label > 92 and at < right - 80:  # a date is that wide
            shapes.append(label(at + 4, bottom + 14, date, kind="tick"))
            last_label = at
    edge = x(cut - 0.5)
    shapes.append(
        element(
            "rect",
            x=edge,
            y=top - 12,
            width=right - edge,
            height=bottom - top + 12,
            class_="future",
        )
    )
    shapes.append(label(edge - 6, 14, "encoded history →|", anchor="end", kind="note"))
    shapes.append(label(edge + 6, 14, "held out", kind="note"))
    for number, point in enumerate(points):
        shapes.append(
            dot(x(number), top + (5 - point.rating) * step, radius, point.kind, point.tip)
        )
    told = f"{cut} actions in the encoded history, {len(points) - cut} held out."
    return picture(bottom + 22, name, told, *shapes)


def _grid(
    values: Sequence[float], x: Callable[[float], float], top: float, bottom: float, shown: str
) -> list[str]:
    """Vertical lines at `values` with their numbers below, written as `shown`."""
    return [
        shape
        for value in values
        for shape in (
            line(x(value), top, x(value), bottom, "grid"),
            label(x(value), bottom + 15, shown.format(value), anchor="middle", kind="tick"),
        )
    ]


def kilobytes(size: float) -> str:
    """`size` bytes in words."""
    return f"{size / 1024:,.1f} KiB" if size >= 1024 else f"{size:,.0f} B"
