"""What the context service counts beside the metrics of every service."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

ENTRY_BYTES = Histogram(
    "crosskv_context_entry_bytes",
    "Size of encoded entries in bytes, header and padding included.",
    buckets=tuple(4**k for k in range(4, 14)),
)
TOKENS_ENCODED = Counter(
    "crosskv_context_tokens_encoded_total", "Actions that went through the context pass."
)
PUTS = Counter(
    "crosskv_context_puts_total",
    "Writes to the store by outcome: stored, stale, conflict.",
    ["outcome"],
)
