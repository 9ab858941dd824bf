"""The caller's deadline, as an absolute moment every stage can look at."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Self, TypeVar

from shared.errors import DeadlineExceededError, StoreUnavailableError

T = TypeVar("T")

REPLY_MARGIN_S = 0.02
"""Kept of the remaining time, at most, so that an error reaches the caller in time."""

REPLY_MARGIN_SHARE = 0.2
"""The same for short deadlines, as a share of what remains."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock; infinity where the caller set none."""

    at: float

    @classmethod
    def after(cls, seconds: float | None) -> Self:
        """The moment `seconds` from now; None: never."""
        return cls(math.inf if seconds is None else time.monotonic() + seconds)

    def remaining_s(self) -> float:
        """Seconds left, not below 0."""
        return max(0.0, self.at - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() >= self.at

    def check(self, what: str) -> None:
        """Raise DeadlineExceededError if no time is left to begin `what`."""
        if self.passed:
            raise DeadlineExceededError(
                f"the deadline passed before {what} began; nothing was done"
            )

    async def bound(self, awaitable: Awaitable[T], what: str) -> T:
        """Await at most the remaining time, less a margin for the reply.

        Raises:
            StoreUnavailableError: `what` did not answer in that time.
        """
        if math.isinf(self.at):
            return await awaitable
        remaining = self.remaining_s()
        margin = min(REPLY_MARGIN_S, REPLY_MARGIN_SHARE * remaining)
        try:
            async with asyncio.timeout(remaining - margin):
                return await awaitable
        except TimeoutError as error:
            raise StoreUnavailableError(
                f"{what} did not answer within the caller's deadline"
            ) from error
