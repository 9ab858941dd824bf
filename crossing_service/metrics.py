"""What the crossing service counts beside the metrics of every service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

ENTRIES_USED = Counter(
    "crosskv_crossing_entries_used_total",
    "Requests for scores by where their entry was: device (a cache hit) or store.",
    ["source"],
)
EVICTIONS = Counter(
    "crosskv_crossing_evictions_total", "Entries that left the device to make room for another."
)
RESIDENT_ENTRIES = Gauge("crosskv_crossing_resident_entries", "Entries on the device.")
RESIDENT_BYTES = Gauge(
    "crosskv_crossing_resident_bytes", "Device memory in use by entries, in bytes, whole pages."
)
