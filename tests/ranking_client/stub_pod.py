"""A pod of either service that answers by script, on a real port in this process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Self

import grpc
import numpy as np
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from crosskv.v1 import context_pb2, crossing_pb2, model_pb2
from shared.rpc.deadline import Deadline
from shared.rpc.endpoint import Endpoint
from shared.rpc.wire import build, packed

FINGERPRINT = "ab" * 16
SERVICES = (
    context_pb2.DESCRIPTOR.services_by_name["ContextService"],
    crossing_pb2.DESCRIPTOR.services_by_name["CrossingService"],
)
Step = Exception | Callable[[Any, Deadline], Any]


class StubPod:
    """Serves both services; `script[rpc]` holds what the next calls do before the usual answer."""

    def __init__(self, fingerprint: str = FINGERPRINT, port: int = 0) -> None:
        self.fingerprint = fingerprint
        self.port = port
        self.script: dict[str, deque[Step]] = {}
        self.always: dict[str, Step] = {}
        self.calls: list[tuple[str, str]] = []
        self.requests: list[Any] = []
        self.remaining_s: list[float] = []
        self.health = HealthServicer()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def users(self, rpc: str) -> list[str]:
        return [user for name, user in self.calls if name == rpc]

    def next(self, rpc: str, *steps: Step) -> None:
        self.script.setdefault(rpc, deque()).extend(steps)

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        for service in SERVICES:
            handlers = {
                method.name: grpc.unary_unary_rpc_method_handler(
                    Endpoint(method, self._handler(service.name, method.name)).answer
                )
                for method in service.methods
            }
            generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
            self._server.add_generic_rpc_handlers((generic,))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        await self.health.set("", health_pb2.HealthCheckResponse.SERVING)
        self.port = self._server.add_insecure_port(self.address)
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        await self._server.stop(None)

    def _handler(self, service: str, rpc: str) -> Callable[[Any, Deadline], Any]:
        async def handle(request: Any, deadline: Deadline) -> Message:
            self.calls.append((rpc, getattr(request, "user_id", "")))
            self.requests.append(request)
            self.remaining_s.append(deadline.remaining_s())
            queue = self.script.get(rpc)
            step = queue.popleft() if queue else self.always.get(rpc)
            if isinstance(step, Exception):
                raise step
            if step is not None:
                made = step(request, deadline)
                if asyncio.iscoroutine(made):
                    made = await made
                if made is not None:
                    return made
            return self._answer(service, rpc, request)

        return handle

    def _answer(self, service: str, rpc: str, request: Any) -> Message:
        return {
            "ScoreCandidates": self._scores,
            "PrefetchContext": self._prefetched,
            "EncodeContext": lambda r: context_pb2.EncodeContextResponse(receipt=self._receipt(r)),
            "AppendActions": lambda r: context_pb2.AppendActionsResponse(receipt=self._receipt(r)),
            "DescribeContext": self._context,
            "DeleteContext": lambda _: context_pb2.DeleteContextResponse(deleted_entries=2),
            "DescribeModel": lambda _: self._model(service),
        }[rpc](request)

    def _scores(self, request: Any) -> Message:
        ids = packed(request, "item_ids")
        tasks = list(request.tasks) or ["watch", "like"]
        return build(
            crossing_pb2.ScoreCandidatesResponse,
            scores=np.concatenate([score_of(request.user_id, task, ids) for task in tasks]),
            tasks=tasks,
            model_fingerprint=self.fingerprint,
            history_version=7,
            history_tokens=3,
            unknown_items=1,
            entry_source=crossing_pb2.ENTRY_SOURCE_STORE,
        )

    def _prefetched(self, request: Any) -> Message:
        return crossing_pb2.PrefetchContextResponse(
            history_version=7, history_tokens=3, entry_source=crossing_pb2.ENTRY_SOURCE_DEVICE
        )

    def _receipt(self, request: Any) -> context_pb2.Receipt:
        return context_pb2.Receipt(
            model_fingerprint=self.fingerprint,
            history_version=request.history_version or 7,
            tokens=len(packed(request.actions, "item_ids")),
            dropped_actions=2,
            unknown_items=1,
            stored_bytes=160,
            published=True,
            last_event_time_s=7,
        )

    def _context(self, request: Any) -> Message:
        return context_pb2.DescribeContextResponse(
            model_fingerprint=self.fingerprint,
            history_version=7,
            tokens=3,
            stored_bytes=160,
            dense_bytes=6144,
            last_event_time_s=7,
            created_ms=8,
            key_rows_used=[2, 3],
            value_rows_used=[3, 1],
            pool_rows=37,
        )

    def _model(self, service: str) -> Message:
        model = model_pb2.ModelDescription(
            fingerprint=self.fingerprint,
            tasks=["watch", "like"],
            feature_dim=3,
            max_history=200,
            max_candidates=4096,
            action_types=["view"],
            surfaces=["home"],
            config_json="{}",
        )
        if service == "ContextService":
            return context_pb2.ContextServiceDescribeModelResponse(model=model)
        return crossing_pb2.CrossingServiceDescribeModelResponse(model=model)


def score_of(user: str, task: str, ids: Any) -> Any:
    """What a stub scores: a number that tells user, task and item apart."""
    salt = (len(user) * 31 + len(task)) % 97
    return ((ids.astype(np.float64) * 7 + salt) % 101 / 101).astype(np.float32)
