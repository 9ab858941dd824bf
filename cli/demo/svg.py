"""SVG as text: escaped elements, a frame that screen readers can name, axis ticks.

Colours are never written here: a shape names a class, and the page's style sheet has two sets.
"""

from __future__ import annotations

from html import escape
from math import floor, log10

WIDTH = 720
"""Every picture's width in user units; the page scales it."""


def element(name: str, *children: str, text: str = "", **attributes: str | float) -> str:
    """One element; `class_` stands for class, other underscores for hyphens."""
    parts = [name]
    for key, value in attributes.items():
        shown = value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
        parts.append(f'{key.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    return f"<{' '.join(parts)}>{escape(text)}{''.join(children)}</{name}>"


def picture(height: float, name: str, description: str, *children: str) -> str:
    """An <svg> that a screen reader announces as one image with `name` and `description`."""
    return element(
        "svg",
        element("title", text=name),
        element("desc", text=description),
        *children,
        viewBox=f"0 0 {WIDTH} {height:g}",
        role="img",
        aria_label=f"{name}. {description}",
    )


def label(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "text") -> str:
    """Text with its baseline at (x, y)."""
    return element("text", text=text, x=x, y=y, text_anchor=anchor, class_=kind)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def bar(x: float, y: float, width: float, height: float, kind: str, tip: str = "") -> str:
    """A rectangle with a tool tip; a positive value is never thinner than one unit."""
    inside = [element("title", text=tip)] if tip else []
    return element(
        "rect", *inside, x=x, y=y, width=max(1.0, width), height=height, rx=2, class_=kind
    )


def dot(x: float, y: float, radius: float, kind: str, tip: str) -> str:
    """A disc with a tool tip."""
    return element("circle", element("title", text=tip), cx=x, cy=y, r=radius, class_=kind)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within [low, high], roughly `about` of them; needs low < high."""
    raw = (high - low) / about
    power = 10.0 ** floor(log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = -floor(-low / step)
    return [number * step + 0.0 for number in range(first, floor(high / step + 1e-9) + 1)]
