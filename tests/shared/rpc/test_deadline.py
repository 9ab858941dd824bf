"""Deadlines: infinite without one, passed at zero, bounding what is awaited."""

from __future__ import annotations

import asyncio
import math

import pytest

from shared.errors import DeadlineExceededError, StoreUnavailableError
from shared.rpc.deadline import Deadline


async def test_none_never_passes() -> None:
    never = Deadline.after(None)
    assert math.isinf(never.remaining_s())
    assert not never.passed
    never.check("work")
    assert await never.bound(asyncio.sleep(0, "answer"), "the store") == "answer"


def test_a_passed_deadline_refuses_to_begin() -> None:
    passed = Deadline.after(0)
    assert passed.passed
    assert passed.remaining_s() == 0
    with pytest.raises(DeadlineExceededError, match="before scoring began; nothing was done"):
        passed.check("scoring")


async def test_what_does_not_answer_is_unavailable_before_the_deadline() -> None:
    deadline = Deadline.after(0.1)
    with pytest.raises(StoreUnavailableError, match="the store did not answer within"):
        await deadline.bound(asyncio.sleep(60), "the store")
    assert not deadline.passed


async def test_a_short_deadline_still_leaves_time_for_what_is_quick() -> None:
    for _ in range(20):
        quick = asyncio.sleep(0.001, "answer")
        assert await Deadline.after(0.015).bound(quick, "the store") == "answer"
