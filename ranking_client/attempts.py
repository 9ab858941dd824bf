"""One logical call as one or several attempts, inside one deadline.

What is repeated, and where:

* No pod took it, or its connection broke (UNAVAILABLE without a reason): at the user's next pod,
  and the pod is passed over for a while. Attempts at a pod known to be out of reach do not count:
  no server sees them, so they go on until a pod is back or the time is up.
* STORE_UNAVAILABLE: at the next pod, whose connection may be sound. The pod keeps its users:
  with the store down for all, moving them would part them from entries that still score.
* QUEUE_FULL: at the same pod, which holds the entry, after the delay it asked for, if that fits.
* MODEL_MISMATCH: at the other pods, once each; while a model is rolled out, one of them serves it.
* An append only where the error proves that nothing was done: its actions may all be of one second,
  which a second application could not tell from new ones.

Nothing else is repeated. Pauses grow and are drawn at random (full jitter): callers who failed
together do not return together.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from grpc.aio import AioRpcError

from ranking_client.errors import (
    UNCERTAIN,
    NoAnswerError,
    OutcomeUnknownError,
    ServiceUnavailableError,
    typed_error,
)
from ranking_client.pod import Pod
from ranking_client.routing import Router
from shared.errors import (
    CrossKVError,
    DeadlineExceededError,
    ModelMismatchError,
    QueueFullError,
    StoreUnavailableError,
)
from shared.rpc.deadline import Deadline

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.25


class Repeat(Enum):
    """When a call may be repeated."""

    FREELY = "freely"
    IF_NOTHING_DONE = "if_nothing_done"


@dataclass(frozen=True)
class Call:
    """One logical call."""

    service: str
    rpc: str
    request: bytes
    deadline: Deadline
    repeat: Repeat = Repeat.FREELY


@dataclass(frozen=True)
class Reply:
    """A call's reply."""

    data: bytes
    attempts: int


class Attempts:
    """Makes calls through one router."""

    def __init__(self, router: Router, max_attempts: int) -> None:
        self._router = router
        self._max_attempts = max_attempts

    @property
    def width(self) -> int:
        """How many of the choices may differ."""
        return self._router.width

    def choices(self, user: str) -> Iterator[Pod]:
        """The pods for `user`, the best first, without end."""
        return self._router.choices(user)

    async def make(self, call: Call, user: str, choices: Iterator[Pod] | None = None) -> Reply:
        """Attempt `call` until it is answered or must not be repeated.

        `choices`: pods left over from the user's earlier call, which are to be asked instead.

        Raises:
            CrossKVError: the last attempt's error, typed.
        """
        choices = choices or self.choices(user)
        pod = next(choices)
        attempts = failures = mismatches = 0
        while True:
            attempts += 1
            out_of_reach = pod.out_of_reach()
            try:
                return Reply(await self._attempt(call, pod), attempts)
            except CrossKVError as error:
                if isinstance(error, ModelMismatchError):
                    mismatches += 1
                    if mismatches >= self._router.width:
                        raise
                    pause = 0.0
                else:
                    failures += not out_of_reach
                    wanted = _pause_s(error, attempts - mismatches)
                    if wanted is None or failures >= self._max_attempts:
                        raise
                    if wanted >= call.deadline.remaining_s():
                        raise
                    pause = wanted
                if not isinstance(error, QueueFullError):
                    pod = next(choices)
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Close the channels."""
        await self._router.close()

    async def _attempt(self, call: Call, pod: Pod) -> bytes:
        remaining = call.deadline.remaining_s()
        if remaining == 0.0:
            raise DeadlineExceededError(f"{call.rpc}: the deadline passed before it was sent")
        try:
            data = await pod.send(f"/{call.service}/{call.rpc}", call.request, remaining)
        except AioRpcError as failure:
            error = typed_error(failure, call.rpc)
            if isinstance(error, ServiceUnavailableError):
                pod.failed()
            elif isinstance(error, NoAnswerError):
                pod.was_silent(remaining)
            else:
                pod.answered()
            if call.repeat is Repeat.IF_NOTHING_DONE and isinstance(error, UNCERTAIN):
                raise OutcomeUnknownError(
                    f"{error}; it may have been applied: compare DescribeContext's tokens"
                ) from failure
            raise error from failure
        pod.answered()
        return data


def _pause_s(error: CrossKVError, attempts: int) -> float | None:
    """Seconds before the next attempt; None: there must be none."""
    match error:
        case QueueFullError(retry_delay_s=delay):
            return delay * random.uniform(1.0, 1.25)
        case ServiceUnavailableError() | StoreUnavailableError():
            longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 10))
            return random.uniform(0.0, longest)
        case _:
            return None
