"""The picture of docs/performance.md: bars of ours and the others' for every row."""

from __future__ import annotations

from typing import Any

from cli.demo.svg import WIDTH, bar, element, label, line, picture

ROW, HEAD, GAP = 13.0, 18.0, 12.0
LEFT, RIGHT = 168.0, WIDTH - 90.0
STYLE = """
text { fill: #1d2127; font: 11.5px system-ui, "DejaVu Sans", sans-serif; }
.head { font-weight: 600; }
.brand { fill: #1f6feb; }
.quiet { fill: #8f98a5; }
.floor { stroke: #c2571a; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #e8eaee; }
  .brand { fill: #6ea8ff; }
  .quiet { fill: #6f7a8a; }
  .floor { stroke: #f0924f; }
}
"""


def bars(record: dict[str, Any]) -> str:
    """An SVG file's text: a group a row, scaled to its slowest; a line marks the floor."""
    shapes = []
    y = HEAD
    rows = [row for row in record["rows"] if row["ours_us"] is not None and row["anchors_us"]]
    for row in rows:
        times = {"ours": row["ours_us"], **row["anchors_us"]}
        longest = max(times.values())
        shapes.append(label(0, y, f"{row['op']}: {row['case']}", kind="head"))
        y += 5
        top = y
        for name, us in times.items():
            width = us / longest * (RIGHT - LEFT)
            kind = "brand" if name == "ours" else "quiet"
            shapes.append(label(LEFT - 8, y + ROW - 4, name, anchor="end"))
            shapes.append(bar(LEFT, y + 1, width, ROW - 3, kind, f"{name}: {us:,.1f} us"))
            shapes.append(label(LEFT + width + 6, y + ROW - 4, f"{us:,.1f} us"))
            y += ROW
        floor = LEFT + max(row["floor_us"].values()) / longest * (RIGHT - LEFT)
        shapes.append(line(floor, top - 1, floor, y, "floor"))
        y += GAP + HEAD - 5
    told = (
        f"{len(rows)} rows measured on one {record['gpu']}, each scaled to its slowest; "
        "the upright line is the floor"
    )
    height = y - HEAD
    inner = picture(height, "Time of ours and of the others", told, *shapes)
    return (
        element(
            "svg",
            element("style", text=STYLE),
            inner,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {WIDTH} {height:g}",
            width=WIDTH,
            height=height,
        )
        + "\n"
    )
