"""How much of the pools an entry uses."""

from __future__ import annotations

import numpy as np
import torch

from shared.kv.codec import Entry
from shared.kv.layout import EntryLayout


def rows_used(layout: EntryLayout, entry: Entry) -> tuple[list[int], list[int]]:
    """Distinct rows that the entry's keys, and its values, use, one number a layer.

    Both lists are empty for dense entries.
    """
    if not layout.pool_rows:
        return [], []
    key_rows, value_rows = [], []
    pages = torch.from_numpy(entry.payload.copy())  # torch refuses read-only memory
    for layer in range(len(layout.layers)):
        # planes that are no rows stay out; one router serves both sides under the name "row"
        distinct = {
            name: len(np.unique(plane.numpy().reshape(-1)[: entry.header.tokens]))
            for name, plane in layout.planes(pages, layer).items()
            if plane.dtype is torch.uint16
        }
        key_rows.append(distinct["row" if "row" in distinct else "key_row"])
        value_rows.append(distinct["row" if "row" in distinct else "value_row"])
    return key_rows, value_rows
