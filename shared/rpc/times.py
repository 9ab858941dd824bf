"""The one bound on times: what a field in seconds cannot mean."""

from __future__ import annotations

LATEST_S = 10**11
"""Seconds since 1970-01-01 UTC: the year 5138. Milliseconds of today are beyond it; taken for
seconds they would set a history version that no later correct history exceeds."""
