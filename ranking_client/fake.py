"""A RankingClient for an orchestrator's own tests: no network, scores by script."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crosskv.v1 import context_pb2
from ranking_client import requests
from ranking_client.client import LoadHistory, seconds
from ranking_client.proofs import prove_actions, prove_candidates
from ranking_client.records import (
    Actions,
    ContextDescription,
    ModelDescription,
    Prefetched,
    Receipt,
    Scores,
    integers,
)
from shared.errors import (
    CrossKVError,
    HistoryFullError,
    InvalidFieldError,
    KVMissError,
    MissCause,
)
from shared.rpc.user_id import prove_user_id

ScoreScript = Callable[[str, Actions, NDArray[np.uint64]], Mapping[str, ArrayLike]]
"""Scores [candidates] by task, from a user, the history that was encoded, and item ids."""

MODEL = ModelDescription(
    fingerprint="0123456789abcdef" * 2,
    tasks=("watch", "like"),
    feature_dim=0,
    max_history=1024,
    max_candidates=4096,
    action_types=("view",),
    surfaces=("default",),
    config_json="{}",
)
"""What the fake describes unless it is told otherwise."""


@dataclass(frozen=True)
class FakeCall:
    """A call that was made."""

    method: str
    user_id: str


class FakeRankingClient:
    """Keeps histories in memory and answers as the services do: misses, versions, limits."""

    def __init__(
        self,
        script: ScoreScript | None = None,
        *,
        load_history: LoadHistory | None = None,
        model: ModelDescription = MODEL,
    ) -> None:
        """Without `script` each task's scores fall evenly in request order, from 1 to 0."""
        self.calls: list[FakeCall] = []
        self._script = script
        self._load_history = load_history
        self._model = model
        self._entries: dict[str, tuple[Receipt, Actions]] = {}
        self._on_device: set[str] = set()
        self._failures: deque[CrossKVError] = deque()

    def fail_next(self, *errors: CrossKVError) -> None:
        """Let the next calls raise `errors`, one a call."""
        self._failures.extend(errors)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

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
        """As RankingClient.score."""
        self._called("score", user_id, timeout_s)
        requests.score_request(
            user_id,
            item_ids,
            surfaces=surfaces,
            features=features,
            request_time_s=request_time_s,
            min_history_version=min_history_version,
            tasks=tasks,
            model_fingerprint=model_fingerprint,
        )
        ids = integers("item_ids", item_ids, np.uint64)
        prove_candidates(
            self._model,
            ids,
            surfaces=surfaces,
            features=features,
            request_time_s=request_time_s,
            tasks=tasks,
            model_fingerprint=model_fingerprint,
        )
        encoded = False
        try:
            receipt, actions = self._entry(user_id, min_history_version)
        except KVMissError:
            if self._load_history is None:
                raise
            self._publish(user_id, await self._load_history(user_id), min_history_version)
            receipt, actions = self._entry(user_id, min_history_version)
            encoded = True
        by_task = self._scores(user_id, actions, ids)
        return Scores(
            by_task={task: by_task[task] for task in tasks or self._model.tasks},
            model_fingerprint=receipt.model_fingerprint,
            history_version=receipt.history_version,
            history_tokens=receipt.tokens,
            unknown_items=0,
            entry_source=self._source(user_id),
            attempts=2 if encoded else 1,
            encoded=encoded,
        )

    async def encode(
        self,
        user_id: str,
        actions: Actions,
        history_version: int = 0,
        *,
        timeout_s: float | None = None,
    ) -> Receipt:
        """As RankingClient.encode."""
        self._called("encode", user_id, timeout_s)
        return self._publish(user_id, actions, history_version)

    async def append(
        self,
        user_id: str,
        actions: Actions,
        history_version: int = 0,
        *,
        timeout_s: float | None = None,
    ) -> Receipt:
        """As RankingClient.append."""
        self._called("append", user_id, timeout_s)
        self._prove(user_id, actions, history_version)
        receipt, stored = self._entry(user_id, 0)
        if actions.times_s[0] < receipt.last_event_time_s:
            raise InvalidFieldError(
                "actions.times_s",
                f"{actions.times_s[0]} is older than the newest stored action "
                f"({receipt.last_event_time_s}); encode the whole history",
            )
        if len(stored) + len(actions) > self._model.max_history:
            raise HistoryFullError(
                f"{len(stored)} + {len(actions)} actions exceed max_history "
                f"{self._model.max_history}; encode the newest"
            )
        if 0 < history_version < receipt.history_version:
            raise InvalidFieldError(
                "history_version",
                f"{history_version} is below the stored version {receipt.history_version}",
            )
        version = history_version or max(receipt.history_version, int(actions.times_s[-1]))
        return self._publish(user_id, _joined(stored, actions), version)

    async def prefetch(
        self, user_id: str, *, min_history_version: int = 0, timeout_s: float | None = None
    ) -> Prefetched:
        """As RankingClient.prefetch."""
        self._called("prefetch", user_id, timeout_s)
        receipt, _ = self._entry(user_id, min_history_version)
        return Prefetched(receipt.history_version, receipt.tokens, self._source(user_id))

    async def describe(self, user_id: str, *, timeout_s: float | None = None) -> ContextDescription:
        """As RankingClient.describe; sizes and pool rows are 0."""
        self._called("describe", user_id, timeout_s)
        receipt, _ = self._entry(user_id, 0)
        return ContextDescription(
            model_fingerprint=receipt.model_fingerprint,
            history_version=receipt.history_version,
            tokens=receipt.tokens,
            stored_bytes=0,
            dense_bytes=0,
            last_event_time_s=receipt.last_event_time_s,
            created_ms=time.time_ns() // 1_000_000,
            key_rows_used=(),
            value_rows_used=(),
            pool_rows=0,
        )

    async def delete(self, user_id: str, *, timeout_s: float | None = None) -> int:
        """As RankingClient.delete; later scores miss at once."""
        self._called("delete", user_id, timeout_s)
        self._on_device.discard(user_id)
        return 0 if self._entries.pop(user_id, None) is None else 1

    async def describe_model(
        self,
        service: Literal["crossing", "context"] = "crossing",
        *,
        timeout_s: float | None = None,
    ) -> ModelDescription:
        """As RankingClient.describe_model."""
        self._called("describe_model", "", timeout_s)
        return self._model

    def _called(self, method: str, user_id: str, timeout_s: float | None) -> None:
        self.calls.append(FakeCall(method, user_id))
        if timeout_s is not None:
            seconds(timeout_s)
        if method != "describe_model":
            requests.user_request(context_pb2.DescribeContextRequest, user_id)
            prove_user_id(user_id)
        if self._failures:
            raise self._failures.popleft()

    def _prove(self, user_id: str, actions: Actions, version: int) -> None:
        requests.actions_request(context_pb2.EncodeContextRequest, user_id, actions, version)
        prove_actions(actions, self._model)

    def _entry(self, user_id: str, min_history_version: int) -> tuple[Receipt, Actions]:
        if user_id not in self._entries:
            raise KVMissError(user_id, MissCause.ABSENT)
        receipt, actions = self._entries[user_id]
        if receipt.history_version < min_history_version:
            raise KVMissError(user_id, MissCause.TOO_OLD)
        return receipt, actions

    def _publish(self, user_id: str, actions: Actions, version: int) -> Receipt:
        self._prove(user_id, actions, version)
        kept = actions[-self._model.max_history :]
        newest = int(kept.times_s[-1])
        receipt = Receipt(
            model_fingerprint=self._model.fingerprint,
            history_version=version or newest,
            tokens=len(kept),
            dropped_actions=len(actions) - len(kept),
            unknown_items=0,
            stored_bytes=0,
            published=True,
            last_event_time_s=newest,
        )
        stored = self._entries.get(user_id)
        if stored is not None and _order(receipt) < _order(stored[0]):
            return replace(receipt, published=False)
        self._entries[user_id] = receipt, kept
        self._on_device.discard(user_id)
        return receipt

    def _scores(
        self, user_id: str, actions: Actions, ids: NDArray[np.uint64]
    ) -> dict[str, NDArray[np.float32]]:
        if self._script is None:
            falling = 1.0 - (np.arange(len(ids), dtype=np.float32) + 0.5) / len(ids)
            return {task: falling.astype(np.float32) for task in self._model.tasks}
        scripted = self._script(user_id, actions, ids)
        return {task: np.asarray(values, np.float32) for task, values in scripted.items()}

    def _source(self, user_id: str) -> Literal["device", "store"]:
        if user_id in self._on_device:
            return "device"
        self._on_device.add(user_id)
        return "store"


def _order(receipt: Receipt) -> tuple[int, int]:
    return receipt.history_version, receipt.tokens


def _joined(first: Actions, then: Actions) -> Actions:
    surfaces = None
    if first.surfaces is not None or then.surfaces is not None:
        surfaces = np.concatenate([_surfaces(first), _surfaces(then)])
    return Actions(
        np.concatenate([first.item_ids, then.item_ids]),
        np.concatenate([first.action_types, then.action_types]),
        np.concatenate([first.times_s, then.times_s]),
        surfaces,
    )


def _surfaces(actions: Actions) -> NDArray[np.uint32]:
    return np.zeros(len(actions), np.uint32) if actions.surfaces is None else actions.surfaces
