from crosskv.v1 import model_pb2 as _model_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EntrySource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENTRY_SOURCE_UNSPECIFIED: _ClassVar[EntrySource]
    ENTRY_SOURCE_DEVICE: _ClassVar[EntrySource]
    ENTRY_SOURCE_STORE: _ClassVar[EntrySource]
ENTRY_SOURCE_UNSPECIFIED: EntrySource
ENTRY_SOURCE_DEVICE: EntrySource
ENTRY_SOURCE_STORE: EntrySource

class ScoreCandidatesRequest(_message.Message):
    __slots__ = ("user_id", "item_ids", "surfaces", "features", "request_time_s", "min_history_version", "tasks", "model_fingerprint")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    SURFACES_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIME_S_FIELD_NUMBER: _ClassVar[int]
    MIN_HISTORY_VERSION_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    item_ids: _containers.RepeatedScalarFieldContainer[int]
    surfaces: _containers.RepeatedScalarFieldContainer[int]
    features: _containers.RepeatedScalarFieldContainer[float]
    request_time_s: int
    min_history_version: int
    tasks: _containers.RepeatedScalarFieldContainer[str]
    model_fingerprint: str
    def __init__(self, user_id: _Optional[str] = ..., item_ids: _Optional[_Iterable[int]] = ..., surfaces: _Optional[_Iterable[int]] = ..., features: _Optional[_Iterable[float]] = ..., request_time_s: _Optional[int] = ..., min_history_version: _Optional[int] = ..., tasks: _Optional[_Iterable[str]] = ..., model_fingerprint: _Optional[str] = ...) -> None: ...

class ScoreCandidatesResponse(_message.Message):
    __slots__ = ("scores", "tasks", "model_fingerprint", "history_version", "history_tokens", "unknown_items", "entry_source")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    HISTORY_VERSION_FIELD_NUMBER: _ClassVar[int]
    HISTORY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ITEMS_FIELD_NUMBER: _ClassVar[int]
    ENTRY_SOURCE_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedScalarFieldContainer[float]
    tasks: _containers.RepeatedScalarFieldContainer[str]
    model_fingerprint: str
    history_version: int
    history_tokens: int
    unknown_items: int
    entry_source: EntrySource
    def __init__(self, scores: _Optional[_Iterable[float]] = ..., tasks: _Optional[_Iterable[str]] = ..., model_fingerprint: _Optional[str] = ..., history_version: _Optional[int] = ..., history_tokens: _Optional[int] = ..., unknown_items: _Optional[int] = ..., entry_source: _Optional[_Union[EntrySource, str]] = ...) -> None: ...

class PrefetchContextRequest(_message.Message):
    __slots__ = ("user_id", "min_history_version")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    MIN_HISTORY_VERSION_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    min_history_version: int
    def __init__(self, user_id: _Optional[str] = ..., min_history_version: _Optional[int] = ...) -> None: ...

class PrefetchContextResponse(_message.Message):
    __slots__ = ("history_version", "history_tokens", "entry_source")
    HISTORY_VERSION_FIELD_NUMBER: _ClassVar[int]
    HISTORY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ENTRY_SOURCE_FIELD_NUMBER: _ClassVar[int]
    history_version: int
    history_tokens: int
    entry_source: EntrySource
    def __init__(self, history_version: _Optional[int] = ..., history_tokens: _Optional[int] = ..., entry_source: _Optional[_Union[EntrySource, str]] = ...) -> None: ...

class CrossingServiceDescribeModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CrossingServiceDescribeModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.ModelDescription
    def __init__(self, model: _Optional[_Union[_model_pb2.ModelDescription, _Mapping]] = ...) -> None: ...
