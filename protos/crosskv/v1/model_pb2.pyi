from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ModelDescription(_message.Message):
    __slots__ = ("fingerprint", "tasks", "feature_dim", "max_history", "max_candidates", "action_types", "surfaces", "config_json")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    FEATURE_DIM_FIELD_NUMBER: _ClassVar[int]
    MAX_HISTORY_FIELD_NUMBER: _ClassVar[int]
    MAX_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    ACTION_TYPES_FIELD_NUMBER: _ClassVar[int]
    SURFACES_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    tasks: _containers.RepeatedScalarFieldContainer[str]
    feature_dim: int
    max_history: int
    max_candidates: int
    action_types: _containers.RepeatedScalarFieldContainer[str]
    surfaces: _containers.RepeatedScalarFieldContainer[str]
    config_json: str
    def __init__(self, fingerprint: _Optional[str] = ..., tasks: _Optional[_Iterable[str]] = ..., feature_dim: _Optional[int] = ..., max_history: _Optional[int] = ..., max_candidates: _Optional[int] = ..., action_types: _Optional[_Iterable[str]] = ..., surfaces: _Optional[_Iterable[str]] = ..., config_json: _Optional[str] = ...) -> None: ...
