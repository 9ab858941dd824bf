"""The errors a caller can meet: one class a cause, each with its gRPC code and a fixed reason."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from grpc import StatusCode

DOMAIN = "crosskv.v1"


class MissCause(StrEnum):
    """Why an entry cannot be used: the label under which misses are counted."""

    ABSENT = "absent"
    TOO_OLD = "too_old"
    MALFORMED = "malformed"
    UNKNOWN_FORMAT = "unknown_format"
    FOREIGN_USER = "foreign_user"
    FOREIGN_FINGERPRINT = "foreign_fingerprint"
    WRONG_SIZE = "wrong_size"
    OVERSIZED = "oversized"
    BAD_DIGEST = "bad_digest"
    INDEX_OUT_OF_RANGE = "index_out_of_range"


class CrossKVError(Exception):
    """Base of every foreseen error; `code` and `reason` are what a client receives."""

    code: ClassVar[StatusCode] = StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"


class InvalidFieldError(CrossKVError):
    """A request field is wrong. The message names the field, the value and the way out."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "INVALID_FIELD"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class KVMissError(CrossKVError):
    """There is no usable entry for this user; `cause` says why."""

    code = StatusCode.NOT_FOUND
    reason = "KV_MISS"

    def __init__(self, user: str, cause: MissCause) -> None:
        super().__init__(
            f"no usable KV entry for user {user!r} ({cause}); call EncodeContext, then again"
        )
        self.user = user
        self.cause = cause


class HistoryFullError(CrossKVError):
    """Appending would exceed max_history; the newest part must be encoded afresh."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "HISTORY_FULL"


class StaleHistoryError(CrossKVError):
    """Other writers replaced the entry each time an append was about to be published."""

    code = StatusCode.ABORTED
    reason = "STALE_HISTORY"


class ModelMismatchError(CrossKVError):
    """The caller expects another model than the one that is served."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "MODEL_MISMATCH"


class NonFiniteResultError(CrossKVError):
    """The model yields NaN or infinity for this input; nothing is published or scored."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "NON_FINITE_RESULT"


class QueueFullError(CrossKVError):
    """The service has no room for more work now; `retry_delay_s` is a hint."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "QUEUE_FULL"

    def __init__(self, problem: str, retry_delay_s: float) -> None:
        super().__init__(f"{problem}; retry after {retry_delay_s:.2f} s")
        self.retry_delay_s = retry_delay_s


class DeadlineExceededError(CrossKVError):
    """The caller's deadline passed before the work began; nothing was done."""

    code = StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class StoreUnavailableError(CrossKVError):
    """The store did not answer in time or refused."""

    code = StatusCode.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"


class CheckpointError(CrossKVError):
    """A checkpoint cannot be served; the message names the file, the value and the way out."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "BAD_CHECKPOINT"
