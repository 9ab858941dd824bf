"""Messages whose numeric arrays are numpy arrays, on the same wire format.

protobuf's Python hands out a repeated field as one Python object an element: 2 ms for a history of
16384 actions. A packed fixed-width field is, on the wire, a length-delimited run of little-endian
numbers, which is also what a `bytes` field is. So each message type has a twin in a private
descriptor pool that differs only in declaring such fields `repeated bytes` (repeated, because a
sender may split a packed field into several runs): parsing copies bytes, and numpy views them.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, cast

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from shared.errors import InvalidFieldError

M = TypeVar("M", bound=Message)

_DTYPES: dict[int, str] = {
    FieldDescriptor.TYPE_FIXED64: "<u8",
    FieldDescriptor.TYPE_SFIXED64: "<i8",
    FieldDescriptor.TYPE_FIXED32: "<u4",
    FieldDescriptor.TYPE_SFIXED32: "<i4",
    FieldDescriptor.TYPE_FLOAT: "<f4",
    FieldDescriptor.TYPE_DOUBLE: "<f8",
}


def parse(message_type: type[M], data: bytes) -> M:
    """Parse `data` into the twin of `message_type`: read arrays with `packed`, the rest as usual.

    Raises:
        InvalidFieldError: `data` is no such message.
    """
    twin = _twin(message_type.DESCRIPTOR)
    try:
        message = twin.FromString(data)
        size = message.ByteSize()
        message.DiscardUnknownFields()
        if message.ByteSize() != size:
            # An array sent unpacked, which is legal though no current library does it, is unknown
            # to the twin: let the public type read it and pack it.
            public = message_type.FromString(data)
            public.DiscardUnknownFields()
            message = twin.FromString(public.SerializeToString())
    except DecodeError as error:
        name = message_type.DESCRIPTOR.full_name
        raise InvalidFieldError(
            "request", f"{len(data)} bytes that are no {name}; send the message of that type"
        ) from error
    return cast(M, message)


def packed(message: Message, field: str) -> NDArray[Any]:
    """The array field `field` of a parsed message, [n], read-only, without a copy.

    A field of a nested message is named by its path: "actions.item_ids".

    Raises:
        InvalidFieldError: its bytes are no whole number of elements.
    """
    *parents, name = field.split(".")
    for parent in parents:
        message = getattr(message, parent)
    runs: list[bytes] = getattr(message, name)
    data = runs[0] if len(runs) == 1 else b"".join(runs)
    dtype = _array_fields[message.DESCRIPTOR.full_name][name]
    if len(data) % dtype.itemsize:
        raise InvalidFieldError(
            field, f"{len(data)} bytes, expected a multiple of {dtype.itemsize}"
        )
    return np.frombuffer(data, dtype)


def build(message_type: type[M], **fields: Any) -> M:
    """A message of the twin of `message_type`, array fields given as numpy arrays.

    It serialises exactly as the public type does.
    """
    twin = _twin(message_type.DESCRIPTOR)
    for name, dtype in _array_fields[message_type.DESCRIPTOR.full_name].items():
        if name in fields:
            data = np.ascontiguousarray(fields[name], dtype).tobytes()
            fields[name] = [data] if data else []
    return cast(M, twin(**fields))


_pool = descriptor_pool.DescriptorPool()
_array_fields: dict[str, dict[str, np.dtype[Any]]] = {}
"""Element type of each array field, by message name; filled as twins are made."""


@cache
def _twin(descriptor: Descriptor) -> type[Message]:
    _add_file(descriptor.file)
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(descriptor.full_name))


@cache
def _add_file(file: FileDescriptor) -> None:
    for dependency in file.dependencies:
        _add_file(dependency)
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    for message in proto.message_type:
        dtypes = _array_fields.setdefault(f"{proto.package}.{message.name}", {})
        for field in message.field:
            if field.label == field.LABEL_REPEATED and field.type in _DTYPES:
                dtypes[field.name] = np.dtype(_DTYPES[field.type])
                field.type = field.TYPE_BYTES
                field.ClearField("options")
    _pool.Add(proto)
