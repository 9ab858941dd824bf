"""gRPC statuses back into the typed errors that the services raised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc.aio import AioRpcError

from shared.errors import (
    DOMAIN,
    CrossKVError,
    DeadlineExceededError,
    HistoryFullError,
    InvalidFieldError,
    KVMissError,
    MissCause,
    ModelMismatchError,
    NonFiniteResultError,
    QueueFullError,
    StaleHistoryError,
    StoreUnavailableError,
)

_TRAILER = "grpc-status-details-bin"
Detail = TypeVar("Detail", bound=Message)


class ServiceUnavailableError(CrossKVError):
    """No pod took the call, or its connection broke before the reply."""

    code = StatusCode.UNAVAILABLE
    reason = "SERVICE_UNAVAILABLE"


class NoAnswerError(DeadlineExceededError):
    """The caller's deadline passed before an answer came; the work may have been done."""

    reason = "NO_ANSWER"


class OutcomeUnknownError(CrossKVError):
    """An append may have been applied, but its reply was lost; `describe` tells, by its tokens."""

    code = StatusCode.UNKNOWN
    reason = "OUTCOME_UNKNOWN"


class RemoteError(CrossKVError):
    """A status without a known reason: a message over the size limit, a proxy, a defect."""

    def __init__(self, message: str, status: StatusCode) -> None:
        super().__init__(message)
        self.status = status


_BY_REASON: dict[str, type[CrossKVError]] = {
    error.reason: error
    for error in (
        DeadlineExceededError,
        HistoryFullError,
        InvalidFieldError,
        KVMissError,
        ModelMismatchError,
        NonFiniteResultError,
        QueueFullError,
        StaleHistoryError,
        StoreUnavailableError,
    )
}

UNCERTAIN = ServiceUnavailableError, StoreUnavailableError, NoAnswerError
"""Errors after which a call may have been carried out all the same."""


def typed_error(failure: AioRpcError, rpc: str) -> CrossKVError:
    """The error behind a failed call of `rpc`, its message as the service wrote it."""
    message = failure.details() or ""
    status = _status(failure)
    info = _detail(status, error_details_pb2.ErrorInfo)
    known = _BY_REASON.get(info.reason) if info.domain == DOMAIN else None
    if known is not None:
        return _revived(known, message, _attributes(known, info.metadata, status))
    match failure.code():
        case StatusCode.UNAVAILABLE | StatusCode.CANCELLED:
            # Cancelled by the other side: a stopping server drops calls it has yet to accept.
            return ServiceUnavailableError(f"{rpc}: no pod answered ({message})")
        case StatusCode.DEADLINE_EXCEEDED:
            return NoAnswerError(f"{rpc}: no answer within the caller's deadline")
        case code:
            return RemoteError(f"{rpc}: {code.name}: {message}", code)


def _status(failure: AioRpcError) -> status_pb2.Status:
    status = status_pb2.Status()
    for key, value in failure.trailing_metadata() or ():
        if key == _TRAILER and isinstance(value, bytes):
            try:
                status.ParseFromString(value)
            except DecodeError:  # another party's trailer: code and message remain
                return status_pb2.Status()
    return status


def _detail(status: status_pb2.Status, detail_type: type[Detail]) -> Detail:
    detail = detail_type()
    for packed in status.details:
        if packed.Unpack(detail):
            break
    return detail


def _attributes(
    error: type[CrossKVError], metadata: Mapping[str, str], status: status_pb2.Status
) -> dict[str, Any]:
    if error is KVMissError:
        return {"user": metadata["user"], "cause": MissCause(metadata["cause"])}
    if error is QueueFullError:
        delay = _detail(status, error_details_pb2.RetryInfo).retry_delay
        return {"retry_delay_s": delay.ToNanoseconds() / 1e9}
    if error is InvalidFieldError:
        violation = _detail(status, error_details_pb2.BadRequest).field_violations[0]
        return {"field": violation.field, "problem": violation.description}
    return {}


def _revived(
    error_type: type[CrossKVError], message: str, attributes: dict[str, Any]
) -> CrossKVError:
    """An instance with the service's own message: its constructor would word it anew."""
    error = error_type.__new__(error_type)
    Exception.__init__(error, message)
    vars(error).update(attributes)
    return error
