"""How much memory a reference implementation takes for its logits."""

from __future__ import annotations

LOGITS_AT_ONCE = 1 << 24
"""128 MiB in float64; all logits of a 16384-token history on 4 heads would be 8 GiB."""


def rows_at_once(heads: int, columns: int) -> int:
    """Query rows whose [heads, rows, columns] logits stay within `LOGITS_AT_ONCE`; at least 1."""
    return max(1, LOGITS_AT_ONCE // max(1, heads * columns))
