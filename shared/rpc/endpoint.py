"""One RPC: bytes in, bytes out; the one place where errors become gRPC statuses.

Every foreseen error carries its code and reason; they reach the client as a status with
google.rpc.ErrorInfo, and with BadRequest or RetryInfo where they apply.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from shared.errors import (
    DOMAIN,
    CrossKVError,
    InvalidFieldError,
    KVMissError,
    MissCause,
    QueueFullError,
)
from shared.metrics import IN_FLIGHT, MISSES, REQUEST_SECONDS, REQUESTS
from shared.rpc.deadline import Deadline
from shared.rpc.wire import parse

MESSAGE_LIMIT = 1024
"""Bytes of an error text that are sent: a text travels three times, percent-encoded and in base64,
and peers refuse trailers of more than 8 KiB."""

Handler = Callable[[Any, Deadline], Awaitable[Message]]
Context = grpc.aio.ServicerContext[bytes, bytes]

_log = structlog.get_logger()


class Endpoint:
    """Parses, calls the handler, answers or aborts; counts and times every call."""

    def __init__(self, method: MethodDescriptor, handler: Handler) -> None:
        self._name = method.name
        self._request_type = GetMessageClass(method.input_type)
        self._handler = handler
        self._seconds = REQUEST_SECONDS.labels(self._name)
        self._in_flight = IN_FLIGHT.labels(self._name)
        self._misses = {cause: MISSES.labels(self._name, cause.value) for cause in MissCause}
        self._ok = REQUESTS.labels(self._name, grpc.StatusCode.OK.name)

    async def answer(self, data: bytes, context: Context) -> bytes:
        """Answer one call."""
        started = time.perf_counter()
        self._in_flight.inc()
        try:
            deadline = Deadline.after(context.time_remaining())
            request = parse(self._request_type, data)
            deadline.check(self._name)
            response = await self._handler(request, deadline)
            reply: bytes = response.SerializeToString()
            self._ok.inc()
            return reply
        except CrossKVError as error:
            await self._abort(context, error)
            raise
        except asyncio.CancelledError:
            self._count(grpc.StatusCode.CANCELLED)
            raise
        except Exception:
            self._count(grpc.StatusCode.INTERNAL)
            _log.exception("unforeseen_error", rpc=self._name)
            await context.abort(grpc.StatusCode.INTERNAL, "unforeseen error; the log has its trace")
            raise
        finally:
            self._in_flight.dec()
            self._seconds.observe(time.perf_counter() - started)

    async def _abort(self, context: Context, error: CrossKVError) -> None:
        self._count(error.code)
        if isinstance(error, KVMissError):
            self._misses[error.cause].inc()
        _log.info("call_refused", rpc=self._name, code=error.code.name, reason=error.reason)
        status = error_status(error)
        trailer = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(error.code, status.message, trailing_metadata=trailer)

    def _count(self, code: grpc.StatusCode) -> None:
        REQUESTS.labels(self._name, code.name).inc()


def error_status(error: CrossKVError) -> status_pb2.Status:
    """The google.rpc.Status of `error`, with its details."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    details: list[Message] = [info]
    match error:
        case InvalidFieldError(field=field, problem=problem):
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=field, description=_cut(problem)
            )
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        case KVMissError(user=user, cause=cause):
            info.metadata.update(user=user, cause=cause.value)
        case QueueFullError(retry_delay_s=delay):
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(int(delay * 1e9))
            details.append(retry)
    status = status_pb2.Status(code=error.code.value[0], message=_cut(str(error)))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _cut(text: str) -> str:
    data = text.encode()
    if len(data) <= MESSAGE_LIMIT:
        return text
    return data[:MESSAGE_LIMIT].decode(errors="ignore") + " ..."
