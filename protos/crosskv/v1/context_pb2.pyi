from crosskv.v1 import model_pb2 as _model_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Actions(_message.Message):
    __slots__ = ("item_ids", "action_types", "times_s", "surfaces")
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    ACTION_TYPES_FIELD_NUMBER: _ClassVar[int]
    TIMES_S_FIELD_NUMBER: _ClassVar[int]
    SURFACES_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[int]
    action_types: _containers.RepeatedScalarFieldContainer[int]
    times_s: _containers.RepeatedScalarFieldContainer[int]
    surfaces: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, item_ids: _Optional[_Iterable[int]] = ..., action_types: _Optional[_Iterable[int]] = ..., times_s: _Optional[_Iterable[int]] = ..., surfaces: _Optional[_Iterable[int]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("model_fingerprint", "history_version", "tokens", "dropped_actions", "unknown_items", "stored_bytes", "published", "last_event_time_s")
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    HISTORY_VERSION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_ACTIONS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ITEMS_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_TIME_S_FIELD_NUMBER: _ClassVar[int]
    model_fingerprint: str
    history_version: int
    tokens: int
    dropped_actions: int
    unknown_items: int
    stored_bytes: int
    published: bool
    last_event_time_s: int
    def __init__(self, model_fingerprint: _Optional[str] = ..., history_version: _Optional[int] = ..., tokens: _Optional[int] = ..., dropped_actions: _Optional[int] = ..., unknown_items: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., published: bool = ..., last_event_time_s: _Optional[int] = ...) -> None: ...

class EncodeContextRequest(_message.Message):
    __slots__ = ("user_id", "actions", "history_version")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_VERSION_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    actions: Actions
    history_version: int
    def __init__(self, user_id: _Optional[str] = ..., actions: _Optional[_Union[Actions, _Mapping]] = ..., history_version: _Optional[int] = ...) -> None: ...

class EncodeContextResponse(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: Receipt
    def __init__(self, receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class AppendActionsRequest(_message.Message):
    __slots__ = ("user_id", "actions", "history_version")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_VERSION_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    actions: Actions
    history_version: int
    def __init__(self, user_id: _Optional[str] = ..., actions: _Optional[_Union[Actions, _Mapping]] = ..., history_version: _Optional[int] = ...) -> None: ...

class AppendActionsResponse(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: Receipt
    def __init__(self, receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class DescribeContextRequest(_message.Message):
    __slots__ = ("user_id",)
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    def __init__(self, user_id: _Optional[str] = ...) -> None: ...

class DescribeContextResponse(_message.Message):
    __slots__ = ("model_fingerprint", "history_version", "tokens", "stored_bytes", "dense_bytes", "last_event_time_s", "created_ms", "key_rows_used", "value_rows_used", "pool_rows")
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    HISTORY_VERSION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DENSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_TIME_S_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    KEY_ROWS_USED_FIELD_NUMBER: _ClassVar[int]
    VALUE_ROWS_USED_FIELD_NUMBER: _ClassVar[int]
    POOL_ROWS_FIELD_NUMBER: _ClassVar[int]
    model_fingerprint: str
    history_version: int
    tokens: int
    stored_bytes: int
    dense_bytes: int
    last_event_time_s: int
    created_ms: int
    key_rows_used: _containers.RepeatedScalarFieldContainer[int]
    value_rows_used: _containers.RepeatedScalarFieldContainer[int]
    pool_rows: int
    def __init__(self, model_fingerprint: _Optional[str] = ..., history_version: _Optional[int] = ..., tokens: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., dense_bytes: _Optional[int] = ..., last_event_time_s: _Optional[int] = ..., created_ms: _Optional[int] = ..., key_rows_used: _Optional[_Iterable[int]] = ..., value_rows_used: _Optional[_Iterable[int]] = ..., pool_rows: _Optional[int] = ...) -> None: ...

class DeleteContextRequest(_message.Message):
    __slots__ = ("user_id",)
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    def __init__(self, user_id: _Optional[str] = ...) -> None: ...

class DeleteContextResponse(_message.Message):
    __slots__ = ("deleted_entries",)
    DELETED_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    deleted_entries: int
    def __init__(self, deleted_entries: _Optional[int] = ...) -> None: ...

class ContextServiceDescribeModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ContextServiceDescribeModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.ModelDescription
    def __init__(self, model: _Optional[_Union[_model_pb2.ModelDescription, _Mapping]] = ...) -> None: ...
