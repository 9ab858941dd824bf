"""The client that an orchestrator holds: one for the process, inside one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from google.protobuf.message import Message
from numpy.typing import ArrayLike

from crosskv.v1 import context_pb2, crossing_pb2
from ranking_client import requests
from ranking_client.attempts import Attempts, Call, Repeat, Reply
from ranking_client.records import (
    Actions,
    ContextDescription,
    ModelDescription,
    Prefetched,
    Receipt,
    Scores,
)
from ranking_client.routing import Affinity, router
from shared.errors import (
    DeadlineExceededError,
    InvalidFieldError,
    KVMissError,
    ModelMismatchError,
)
from shared.rpc.deadline import Deadline

LoadHistory = Callable[[str], Awaitable[Actions]]
"""Gives a user's whole history, at least as new as the `min_history_version` that was asked for."""

_MOST_ENCODES = 4
"""Pods that one `score` lets encode a history: mid-rollout, with half of them on the model that
crossing pods serve, 15 of 16 users find one, and no user costs more than four encodes."""
_DELETE_TIMEOUT_S = 30.0
"""A deletion walks all keys of the store: some 0.2 s a million."""

_YEAR_S = 365.0 * 86400
_CONTEXT = "crosskv.v1.ContextService"
_CROSSING = "crosskv.v1.CrossingService"


class RankingClient:
    """Scores candidates, encodes and appends histories, and picks pods.

    Every method raises the typed errors of `shared.errors` and `ranking_client.errors`, all of them
    `CrossKVError`: `InvalidFieldError`, `KVMissError`, `ModelMismatchError`, `HistoryFullError`,
    `StaleHistoryError`, `QueueFullError`, `StoreUnavailableError`,
    `ServiceUnavailableError`, `DeadlineExceededError`, `NoAnswerError`, `OutcomeUnknownError`,
    `RemoteError`.
    `timeout_s` bounds a method's whole duration, repeats included; None: the client's own.
    """

    def __init__(
        self,
        context: str | Sequence[str],
        crossing: str | Sequence[str],
        *,
        timeout_s: float = 1.0,
        load_history: LoadHistory | None = None,
        affinity: Affinity = "auto",
        max_attempts: int = 4,
    ) -> None:
        """Describe the services; `async with` connects.

        Args:
            context: the context service: one name that resolves to its pods, or a list
                of host:port.
            crossing: the crossing service, likewise.
            timeout_s: seconds a method may take when the call names no others.
            load_history: where `score` gets a history when there is no usable entry; None:
                KVMissError is raised instead.
            affinity: how users are spread over pods; "auto": ring_hash for a name, rendezvous for a
                list. The package's docstring says why.
            max_attempts: attempts after which a failing call is given up, at least 1; those that
                reached no server do not count.
        """
        if max_attempts < 1:
            raise InvalidFieldError("max_attempts", f"{max_attempts}; give at least 1")
        self._timeout_s = seconds(timeout_s)
        self._targets = {"context": context, "crossing": crossing}
        self._load_history = load_history
        self._affinity = affinity
        self._max_attempts = max_attempts

    async def __aenter__(self) -> Self:
        self._context = await self._connect("context")
        try:
            self._crossing = await self._connect("crossing")
        except BaseException:
            await self._context.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._context.close()
        await self._crossing.close()

    async def score(
        self,
        user_id: str,
        item_ids: ArrayLike,
        *,
        surfaces: ArrayLike | None = None,
        features: ArrayLike | None = None,
        request_time_s: int = 0,
        min_history_version: int = 0,
        tasks: Sequence[str] = (),
        model_fingerprint: str = "",
        timeout_s: float | None = None,
    ) -> Scores:
        """Score candidates; without a usable entry, load and encode the history and score again.

        Args:
            user_id: 1 to 256 bytes of UTF-8.
            item_ids: [candidates] unsigned 64-bit ids.
            surfaces: [candidates] surface indices; None: surface 0.
            features: [candidates, feature_dim] finite numbers; None: none.
            request_time_s: seconds since 1970-01-01 UTC; 0: the server's clock.
            min_history_version: oldest history to score on; 0: any. A history encoded here is
                published under this version, or under its newest action's time where it is 0.
            tasks: names; empty: all.
            model_fingerprint: the model expected; empty: any.
            timeout_s: seconds for everything.

        Raises:
            KVMissError: no usable entry and no `load_history`, or what it gave is older than asked.
            ModelMismatchError: no pod serves the expected model, or no pair of pods the same one.
        """
        deadline = self._deadline(timeout_s)

        def call(fingerprint: str) -> Call:
            data = requests.score_request(
                user_id,
                item_ids,
                surfaces=surfaces,
                features=features,
                request_time_s=request_time_s,
                min_history_version=min_history_version,
                tasks=tasks,
                model_fingerprint=fingerprint,
            )
            return Call(_CROSSING, "ScoreCandidates", data, deadline)

        try:
            reply = await self._crossing.make(call(model_fingerprint), user_id)
            return requests.read_scores(reply.data, reply.attempts, encoded=False)
        except KVMissError:
            if self._load_history is None:
                raise
        actions = await _loaded(self._load_history, user_id, deadline)
        encode = _actions_call(_ENCODE, user_id, actions, min_history_version, deadline)
        contexts = self._context.choices(user_id)
        for pods_left in reversed(range(min(self._context.width, _MOST_ENCODES))):
            receipt = _receipt(_ENCODE, await self._context.make(encode, user_id, contexts))
            if model_fingerprint not in {"", receipt.model_fingerprint}:
                continue
            try:  # pinned to the model that encoded: no other can score on this entry
                reply = await self._crossing.make(call(receipt.model_fingerprint), user_id)
            except ModelMismatchError:  # mid-rollout: another context pod may encode with theirs
                if not pods_left:
                    raise
            else:
                return requests.read_scores(reply.data, reply.attempts + 1, encoded=True)
        raise ModelMismatchError(
            f"model_fingerprint: no context service pod asked encodes with {model_fingerprint!r}; "
            "roll the model out to both services"
        )

    async def encode(
        self,
        user_id: str,
        actions: Actions,
        history_version: int = 0,
        *,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Encode a whole history and publish it, unless the store holds a newer one.

        `history_version` grows with the history; 0: the newest action's time. Safe to repeat: the
        store compares versions.
        """
        call = _actions_call(_ENCODE, user_id, actions, history_version, self._deadline(timeout_s))
        return _receipt(_ENCODE, await self._context.make(call, user_id))

    async def append(
        self,
        user_id: str,
        actions: Actions,
        history_version: int = 0,
        *,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Add actions, none older than the newest stored one, to the user's entry.

        Raises:
            KVMissError: there is no entry to append to; encode the whole history.
            HistoryFullError: the history would be longer than the model reads; likewise.
            OutcomeUnknownError: the reply was lost; not repeated, as it may have been applied.
        """
        deadline = self._deadline(timeout_s)
        call = _actions_call(_APPEND, user_id, actions, history_version, deadline)
        return _receipt(_APPEND, await self._context.make(call, user_id))

    async def prefetch(
        self, user_id: str, *, min_history_version: int = 0, timeout_s: float | None = None
    ) -> Prefetched:
        """Bring the user's entry onto the device of the pod that will score it.

        Raises:
            KVMissError: no usable entry.
        """
        data = requests.prefetch_request(user_id, min_history_version)
        call = Call(_CROSSING, "PrefetchContext", data, self._deadline(timeout_s))
        return requests.read_prefetched((await self._crossing.make(call, user_id)).data)

    async def describe(self, user_id: str, *, timeout_s: float | None = None) -> ContextDescription:
        """Describe the user's stored entry.

        Raises:
            KVMissError: there is none.
        """
        data = requests.user_request(context_pb2.DescribeContextRequest, user_id)
        call = Call(_CONTEXT, "DescribeContext", data, self._deadline(timeout_s))
        return requests.read_context((await self._context.make(call, user_id)).data)

    async def delete(self, user_id: str, *, timeout_s: float | None = None) -> int:
        """Delete the user's entries under every model; returns how many there were.

        The service walks every key of the store for them, which a big store makes slow: without
        `timeout_s` it gets 30 s, or the client's own time if that is longer.
        A crossing pod that holds one on its device may use it for the revalidation time longer.
        """
        data = requests.user_request(context_pb2.DeleteContextRequest, user_id)
        if timeout_s is None:
            timeout_s = max(_DELETE_TIMEOUT_S, self._timeout_s)
        call = Call(_CONTEXT, "DeleteContext", data, self._deadline(timeout_s))
        reply = await self._context.make(call, user_id)
        return context_pb2.DeleteContextResponse.FromString(reply.data).deleted_entries

    async def describe_model(
        self,
        service: Literal["crossing", "context"] = "crossing",
        *,
        timeout_s: float | None = None,
    ) -> ModelDescription:
        """Describe the model that one pod of `service` serves."""
        deadline = self._deadline(timeout_s)
        if service == "crossing":
            reply = await self._crossing.make(Call(_CROSSING, "DescribeModel", b"", deadline), "")
            return requests.read_model(
                crossing_pb2.CrossingServiceDescribeModelResponse, reply.data
            )
        reply = await self._context.make(Call(_CONTEXT, "DescribeModel", b"", deadline), "")
        return requests.read_model(context_pb2.ContextServiceDescribeModelResponse, reply.data)

    async def _connect(self, service: Literal["context", "crossing"]) -> Attempts:
        chosen = await router(service, self._targets[service], self._affinity)
        return Attempts(chosen, self._max_attempts)

    def _deadline(self, timeout_s: float | None) -> Deadline:
        return Deadline.after(self._timeout_s if timeout_s is None else seconds(timeout_s))


@dataclass(frozen=True)
class _ActionsRpc:
    """An RPC that takes actions and gives a receipt."""

    name: str
    request: type[Message]
    response: type[Message]
    repeat: Repeat


_ENCODE = _ActionsRpc(
    "EncodeContext",
    context_pb2.EncodeContextRequest,
    context_pb2.EncodeContextResponse,
    Repeat.FREELY,
)
_APPEND = _ActionsRpc(
    "AppendActions",
    context_pb2.AppendActionsRequest,
    context_pb2.AppendActionsResponse,
    Repeat.IF_NOTHING_DONE,
)


def _actions_call(
    rpc: _ActionsRpc, user_id: str, actions: Actions, version: int, deadline: Deadline
) -> Call:
    data = requests.actions_request(rpc.request, user_id, actions, version)
    return Call(_CONTEXT, rpc.name, data, deadline, rpc.repeat)


def _receipt(rpc: _ActionsRpc, reply: Reply) -> Receipt:
    return requests.read_receipt(rpc.response, reply.data)


async def _loaded(load: LoadHistory, user_id: str, deadline: Deadline) -> Actions:
    try:
        async with asyncio.timeout(deadline.remaining_s()):
            return await load(user_id)
    except TimeoutError as error:
        if not deadline.passed:
            raise  # the loader's own
        raise DeadlineExceededError(
            f"load_history gave no history of user {user_id!r} within the deadline"
        ) from error


def seconds(timeout_s: float) -> float:
    """`timeout_s` itself, which is above 0 and at most a year; InvalidFieldError otherwise."""
    if not 0 < timeout_s <= _YEAR_S:
        raise InvalidFieldError("timeout_s", f"{timeout_s}; give seconds above 0, at most a year")
    return timeout_s
