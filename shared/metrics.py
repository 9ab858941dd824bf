"""Prometheus metrics that both services export; each service adds its own in its `metrics.py`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, start_http_server

SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Histogram bounds for latencies: from a resident score to a caller's usual deadline."""

REQUESTS = Counter(
    "crosskv_requests_total", "Finished calls by RPC and gRPC status code.", ["rpc", "code"]
)
REQUEST_SECONDS = Histogram(
    "crosskv_request_seconds", "Time from request bytes to reply bytes.", ["rpc"], buckets=SECONDS
)
IN_FLIGHT = Gauge("crosskv_requests_in_flight", "Calls being answered now.", ["rpc"])
STAGE_SECONDS = Histogram(
    "crosskv_stage_seconds", "Time a call spends in a stage.", ["stage"], buckets=SECONDS
)
QUEUE_DEPTH = Gauge("crosskv_queue_depth", "Work waiting for the next batch.", ["queue"])
BATCH_SIZE = Histogram(
    "crosskv_batch_size",
    "Work items in a batch.",
    ["queue"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
BATCH_COST = Histogram(
    "crosskv_batch_cost",
    "Tokens in a batch: history actions and candidates.",
    ["queue"],
    buckets=tuple(4**k for k in range(2, 10)),
)
MISSES = Counter(
    "crosskv_entry_misses_total",
    "Entries that could not be used, by RPC and cause.",
    ["rpc", "cause"],
)
UNKNOWN_ITEMS = Counter(
    "crosskv_unknown_items_total", "Items the model does not know, which share one embedding row."
)


def serve_metrics(host: str, port: int) -> None:
    """Serve `/metrics` over HTTP on a thread of its own."""
    start_http_server(port, addr=host)
