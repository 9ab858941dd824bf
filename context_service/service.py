"""The RPCs of `crosskv.v1.ContextService`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from google.protobuf.message import Message

from context_service.encoder import Encoded, EncodeWork
from context_service.history import History, read_history
from context_service.metrics import ENTRY_BYTES, PUTS, TOKENS_ENCODED
from context_service.pool_usage import rows_used
from context_service.settings import ContextSettings
from crosskv.v1 import context_pb2
from shared.errors import (
    HistoryFullError,
    InvalidFieldError,
    KVMissError,
    MissCause,
    StaleHistoryError,
)
from shared.kv.codec import HEADER_LIMIT, Entry, EntryCodec, EntryHeader
from shared.kv.store import KVStore, PutOutcome
from shared.metrics import MISSES, STAGE_SECONDS, UNKNOWN_ITEMS
from shared.model.checkpoint import Checkpoint
from shared.rpc.batcher import Batcher
from shared.rpc.deadline import Deadline
from shared.rpc.model_description import describe_model
from shared.rpc.user_id import prove_user_id
from shared.rpc.wire import build

_STORE = "the store"
_GET_SECONDS = STAGE_SECONDS.labels("store_get")
_PUT_SECONDS = STAGE_SECONDS.labels("store_put")


class ContextServicer:
    """Has histories encoded and publishes them; an older history never replaces a newer one."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        codec: EntryCodec,
        store: KVStore,
        batcher: Batcher[EncodeWork, Encoded],
        settings: ContextSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives seconds since 1970-01-01 UTC; entries carry it as their age."""
        self._config = checkpoint.config
        self._layout = checkpoint.ranker.layout
        self._fingerprint = checkpoint.fingerprint
        # how many candidates fit is for the crossing service to say
        self._description = describe_model(checkpoint, max_candidates=0)
        self._codec = codec
        self._store = store
        self._batcher = batcher
        self._settings = settings
        self._clock = clock

    async def EncodeContext(  # noqa: N802
        self, request: context_pb2.EncodeContextRequest, deadline: Deadline
    ) -> context_pb2.EncodeContextResponse:
        """Encode the newest `max_history` actions as the user's whole history."""
        user = prove_user_id(request.user_id)
        history = self._history(request).newest(self._config.max_history)
        version = request.history_version or history.last_event_time_s
        receipt = await self._publish(user, EncodeWork(history), version, deadline)
        return build(context_pb2.EncodeContextResponse, receipt=receipt)

    async def AppendActions(  # noqa: N802
        self, request: context_pb2.AppendActionsRequest, deadline: Deadline
    ) -> context_pb2.AppendActionsResponse:
        """Encode new actions behind the stored ones, again when another writer came first."""
        user = prove_user_id(request.user_id)
        history = self._history(request)
        for _ in range(1 + self._settings.append_retries):
            base = await self._entry(user, deadline)
            version = self._appended_version(base.header, history, request.history_version)
            receipt = await self._publish(user, EncodeWork(history, base), version, deadline)
            if receipt.published:
                return build(context_pb2.AppendActionsResponse, receipt=receipt)
        raise StaleHistoryError(
            f"another writer replaced the entry of user {user!r} "
            f"{1 + self._settings.append_retries} times in a row; call again"
        )

    async def DescribeContext(  # noqa: N802
        self, request: context_pb2.DescribeContextRequest, deadline: Deadline
    ) -> context_pb2.DescribeContextResponse:
        """Describe the stored entry, proven whole as for scoring."""
        entry = await self._entry(prove_user_id(request.user_id), deadline)
        key_rows, value_rows = rows_used(self._layout, entry)
        header = entry.header
        return build(
            context_pb2.DescribeContextResponse,
            model_fingerprint=header.fingerprint,
            history_version=header.history_version,
            tokens=header.tokens,
            stored_bytes=len(entry.header_bytes) + entry.payload.nbytes,
            dense_bytes=self._config.dense_bytes_per_token * header.tokens,
            last_event_time_s=header.last_event_time_s,
            created_ms=header.created_ms,
            key_rows_used=key_rows,
            value_rows_used=value_rows,
            pool_rows=self._layout.pool_rows,
        )

    async def DeleteContext(  # noqa: N802
        self, request: context_pb2.DeleteContextRequest, deadline: Deadline
    ) -> context_pb2.DeleteContextResponse:
        """Delete the user's entries under every fingerprint."""
        user = prove_user_id(request.user_id)
        deleted = await deadline.bound(self._store.delete(user), _STORE)
        return build(context_pb2.DeleteContextResponse, deleted_entries=deleted)

    async def DescribeModel(  # noqa: N802
        self, request: context_pb2.ContextServiceDescribeModelRequest, deadline: Deadline
    ) -> context_pb2.ContextServiceDescribeModelResponse:
        """Describe the model that encodes."""
        return build(context_pb2.ContextServiceDescribeModelResponse, model=self._description)

    def _history(self, request: Message) -> History:
        return read_history(request, self._config, self._settings.max_actions)

    async def _entry(self, user: str, deadline: Deadline) -> Entry:
        value = await self._stored(user, deadline)
        if value is None:
            raise KVMissError(user, MissCause.ABSENT)
        return self._codec.decode(user, value)

    async def _stored(self, user: str, deadline: Deadline) -> bytes | None:
        limit = self._codec.max_bytes + 1  # enough to see that a value is too large
        with _GET_SECONDS.time():
            got = self._store.get(user, self._fingerprint, limit=limit)
            return await deadline.bound(got, _STORE)

    async def _publish(
        self, user: str, work: EncodeWork, version: int, deadline: Deadline
    ) -> context_pb2.Receipt:
        """Encode `work` and put it in place of its base, if it has one."""
        encoded = await self._batcher.submit(work, deadline)
        header = EntryHeader(
            fingerprint=self._fingerprint,
            user=user,
            tokens=work.tokens,
            last_event_time_s=work.history.last_event_time_s,
            history_version=version,
            created_ms=int(self._clock() * 1000),
        )
        # off the loop: a dense entry of 64 MiB takes tens of milliseconds to digest and join
        value = await asyncio.to_thread(self._codec.encode, header, encoded.payload)
        replaces = None if work.base is None else work.base.header_bytes
        outcome = await self._put(header, value, replaces, deadline)
        if outcome is PutOutcome.STALE:
            outcome = await self._replace_unreadable(header, value, deadline)
        TOKENS_ENCODED.inc(len(work.history))
        UNKNOWN_ITEMS.inc(encoded.unknown_items)
        ENTRY_BYTES.observe(len(value))
        PUTS.labels(outcome.value).inc()
        return build(
            context_pb2.Receipt,
            model_fingerprint=header.fingerprint,
            history_version=header.history_version,
            tokens=header.tokens,
            dropped_actions=work.history.dropped,
            unknown_items=encoded.unknown_items,
            stored_bytes=len(value),
            published=outcome is PutOutcome.STORED,
            last_event_time_s=header.last_event_time_s,
        )

    async def _put(
        self, header: EntryHeader, value: bytes, replaces: bytes | None, deadline: Deadline
    ) -> PutOutcome:
        with _PUT_SECONDS.time():
            return await deadline.bound(self._store.put(header, value, replaces=replaces), _STORE)

    async def _replace_unreadable(
        self, header: EntryHeader, value: bytes, deadline: Deadline
    ) -> PutOutcome:
        """Put over what claims to be newer but cannot be read: until its TTL it would be a miss."""
        stored = await self._stored(header.user, deadline)
        if stored is None:
            return await self._put(header, value, None, deadline)
        try:
            self._codec.decode(header.user, stored)
        except KVMissError as unreadable:
            MISSES.labels("EncodeContext", unreadable.cause.value).inc()
            return await self._put(header, value, stored[:HEADER_LIMIT], deadline)
        return PutOutcome.STALE

    def _appended_version(self, stored: EntryHeader, history: History, wanted: int) -> int:
        """The version of stored and new actions together; refuses those that do not fit."""
        if history.times_s[0] < stored.last_event_time_s:
            raise InvalidFieldError(
                "actions.times_s[0]",
                f"{history.times_s[0]} is older than the newest stored action "
                f"({stored.last_event_time_s}); encode the whole history instead",
            )
        if 0 < wanted < stored.history_version:
            raise InvalidFieldError(
                "history_version",
                f"{wanted} is below the stored version {stored.history_version}; "
                "send that or a larger one, or 0",
            )
        if stored.tokens + len(history) > self._config.max_history:
            raise HistoryFullError(
                f"{stored.tokens} stored and {len(history)} new actions exceed max_history "
                f"{self._config.max_history}; call EncodeContext with the newest actions"
            )
        return wanted or max(stored.history_version, history.last_event_time_s)
