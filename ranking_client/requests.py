"""Client records to and from the messages of `crosskv.v1`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from crosskv.v1 import context_pb2, crossing_pb2
from ranking_client.records import (
    Actions,
    ContextDescription,
    EntrySource,
    ModelDescription,
    Prefetched,
    Receipt,
    Scores,
    floats,
    integers,
)
from shared.errors import InvalidFieldError
from shared.rpc.wire import build, packed, parse

_SOURCES: dict[int, EntrySource] = {
    crossing_pb2.ENTRY_SOURCE_DEVICE: "device",
    crossing_pb2.ENTRY_SOURCE_STORE: "store",
}


def score_request(
    user_id: str,
    item_ids: ArrayLike,
    *,
    surfaces: ArrayLike | None,
    features: ArrayLike | None,
    request_time_s: int,
    min_history_version: int,
    tasks: Sequence[str],
    model_fingerprint: str,
) -> bytes:
    """A serialised ScoreCandidatesRequest."""
    ids = integers("item_ids", item_ids, np.uint64)
    arrays: dict[str, Any] = {"item_ids": ids}
    if surfaces is not None:
        arrays["surfaces"] = integers("surfaces", surfaces, np.uint32)
    if features is not None:
        arrays["features"] = floats("features", features, len(ids)).ravel()
    return _serialised(
        crossing_pb2.ScoreCandidatesRequest,
        user_id,
        request_time_s=request_time_s,
        min_history_version=min_history_version,
        tasks=list(tasks),
        model_fingerprint=model_fingerprint,
        **arrays,
    )


def prefetch_request(user_id: str, min_history_version: int) -> bytes:
    """A serialised PrefetchContextRequest."""
    return _serialised(
        crossing_pb2.PrefetchContextRequest, user_id, min_history_version=min_history_version
    )


def actions_request(message: type[Any], user_id: str, actions: Actions, version: int) -> bytes:
    """A serialised EncodeContextRequest or AppendActionsRequest."""
    arrays: dict[str, Any] = {
        "item_ids": actions.item_ids,
        "action_types": actions.action_types,
        "times_s": actions.times_s,
    }
    if actions.surfaces is not None:
        arrays["surfaces"] = actions.surfaces
    return _serialised(
        message, user_id, actions=build(context_pb2.Actions, **arrays), history_version=version
    )


def user_request(message: type[Any], user_id: str) -> bytes:
    """A serialised DescribeContextRequest or DeleteContextRequest."""
    return _serialised(message, user_id)


def read_scores(data: bytes, attempts: int, encoded: bool) -> Scores:
    """The scores in a serialised ScoreCandidatesResponse."""
    reply = parse(crossing_pb2.ScoreCandidatesResponse, data)
    scores = packed(reply, "scores").astype(np.float32).reshape(len(reply.tasks), -1)
    return Scores(
        by_task=dict(zip(reply.tasks, scores, strict=True)),
        model_fingerprint=reply.model_fingerprint,
        history_version=reply.history_version,
        history_tokens=reply.history_tokens,
        unknown_items=reply.unknown_items,
        entry_source=_SOURCES[reply.entry_source],
        attempts=attempts,
        encoded=encoded,
    )


def read_prefetched(data: bytes) -> Prefetched:
    """The record in a serialised PrefetchContextResponse."""
    reply = parse(crossing_pb2.PrefetchContextResponse, data)
    return Prefetched(reply.history_version, reply.history_tokens, _SOURCES[reply.entry_source])


def read_receipt(message: type[Any], data: bytes) -> Receipt:
    """The receipt in a serialised EncodeContextResponse or AppendActionsResponse."""
    receipt = message.FromString(data).receipt
    return Receipt(**{field.name: getattr(receipt, field.name) for field in _fields(receipt)})


def read_context(data: bytes) -> ContextDescription:
    """The record in a serialised DescribeContextResponse."""
    reply = context_pb2.DescribeContextResponse.FromString(data)
    values = {field.name: getattr(reply, field.name) for field in _fields(reply)}
    for name in ("key_rows_used", "value_rows_used"):
        values[name] = tuple(values[name])
    return ContextDescription(**values)


def read_model(message: type[Any], data: bytes) -> ModelDescription:
    """The record in a serialised DescribeModelResponse of either service."""
    model = message.FromString(data).model
    values = {field.name: getattr(model, field.name) for field in _fields(model)}
    for name in ("tasks", "action_types", "surfaces"):
        values[name] = tuple(values[name])
    return ModelDescription(**values)


def _fields(message: Any) -> Any:
    return message.DESCRIPTOR.fields


def _serialised(message: type[Any], user_id: str, **fields: Any) -> bytes:
    for name, value in fields.items():
        if isinstance(value, float):  # time.time(), say
            raise InvalidFieldError(name, f"{value}; send a whole number")
    try:
        user_id.encode()
        data: bytes = build(message, user_id=user_id, **fields).SerializeToString()
    except UnicodeEncodeError as error:
        raise InvalidFieldError("user_id", f"{user_id!r} is no UTF-8; send text") from error
    except (TypeError, ValueError) as error:
        raise InvalidFieldError("request", f"{error}; see the field limits of the proto") from error
    return data
