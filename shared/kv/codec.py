"""A KV entry as one value: a small msgpack header, then the payload in device layout.

The header is `[marker, length, order, digest, fingerprint, last_event_time_s, created_ms, user,
padding]`. Its first five elements have fixed widths, so a store can compare two values' order, and
a reader their format, without parsing. `docs/formats.md` shows it byte by byte.

Nothing that is read is trusted: whatever cannot be proven whole, its own and in bounds is a miss.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from shared.errors import KVMissError, MissCause
from shared.kv.layout import ALIGNMENT, EntryLayout
from shared.rpc.user_id import MAX_USER_BYTES

FORMAT_VERSION = 1
MARKER = b"\x99\xa4CKV" + bytes([FORMAT_VERSION])
"""First bytes of every value of this format: array of 9, string of 4, "CKV", version."""

ORDER = slice(9, 21)
"""History version (u64) and tokens (u32), big-endian: these bytes compare as the pair does."""

HEADER_LIMIT = 336
"""Bytes; the header of a 256-byte user id with every integer at its widest."""

_LENGTH_AT = 6
_DIGEST = slice(23, 31)
_FIELDS = 9
_VERSION_AT = len(MARKER) - 1


@dataclass(frozen=True)
class EntryHeader:
    """What an entry says of itself.

    `fingerprint` is the model's, as 32 hex digits; `tokens` counts the history's tokens;
    `last_event_time_s` is the newest action's time in seconds; `created_ms` is the writer's clock
    in milliseconds.
    """

    fingerprint: str
    user: str
    tokens: int
    last_event_time_s: int
    history_version: int
    created_ms: int

    @property
    def order(self) -> tuple[int, int]:
        """Stores keep the greater one: (history_version, tokens)."""
        return self.history_version, self.tokens


@dataclass(frozen=True)
class Entry:
    """A verified entry: `payload` [pages, page_bytes] uint8, a read-only view of the value.

    `header_bytes` are the header exactly as stored: what `replaces` of a put, or a check whether a
    copy is still the stored one, compares.
    """

    header: EntryHeader
    payload: NDArray[np.uint8]
    header_bytes: bytes


class HeaderError(ValueError):
    """These bytes do not begin with a header of this format; `cause` says what is wrong."""

    def __init__(self, cause: MissCause, problem: str) -> None:
        super().__init__(f"entry header: {problem}")
        self.cause = cause


@dataclass(frozen=True)
class _Bound:
    """`width` numbers from `offset` of every page and layer on, each of which is below `limit`."""

    offset: int
    width: int
    dtype: np.dtype[Any]
    limit: int


class EntryCodec:
    """Writes and proves the entries of one model (`fingerprint`, 32 hex digits).

    Raises ValueError for a fingerprint of another form or `max_tokens` below one.
    """

    def __init__(self, layout: EntryLayout, fingerprint: str, *, max_tokens: int) -> None:
        _fingerprint_bytes(fingerprint)
        if max_tokens < 1:
            raise ValueError(f"max_tokens: {max_tokens} leaves no entry; give at least 1")
        self._layout = layout
        self._fingerprint = fingerprint
        self._max_tokens = max_tokens
        self.max_bytes = HEADER_LIMIT + layout.payload_bytes(max_tokens)
        """No value that `decode` takes is longer."""
        self._layer_bytes = layout.page_bytes // len(layout.layers)
        self._bounds = _bounds(layout)

    def encode(self, header: EntryHeader, payload: NDArray[np.uint8] | bytes) -> bytes:
        """The value to store; `payload` is [pages, page_bytes] or its bytes.

        Slots past the last token must be zero, so that equal histories give equal bytes. Raises
        ValueError for a header or a payload that `decode` would refuse to read back.
        """
        if header.fingerprint != self._fingerprint:
            raise ValueError(
                f"fingerprint: {header.fingerprint!r} is not this model's {self._fingerprint!r}"
            )
        if not 1 <= header.tokens <= self._max_tokens:
            raise ValueError(f"tokens: {header.tokens} is not within 1..{self._max_tokens}")
        data = payload if isinstance(payload, bytes) else np.ascontiguousarray(payload).data
        expected = self._layout.payload_bytes(header.tokens)
        size = len(data) if isinstance(data, bytes) else data.nbytes
        if size != expected:
            raise ValueError(
                f"payload: {size} bytes for {header.tokens} tokens, which take {expected}"
            )
        pages = np.frombuffer(data, np.uint8).reshape(-1, self._layout.page_bytes)
        self._require_zero_padding(pages, header.tokens)
        head = bytearray(_pack_header(header))
        head[_DIGEST] = _digest(head, data)
        return b"".join((head, data))

    def decode(self, user: str, value: bytes) -> Entry:
        """Prove that `value` is this user's whole entry for this model, and view it without a copy.

        Raises KVMissError, and nothing else, whatever `value` holds.
        """
        if len(value) > self.max_bytes:
            raise KVMissError(user, MissCause.OVERSIZED)
        try:
            header, header_bytes = read_header(value)
        except HeaderError as error:
            raise KVMissError(user, error.cause) from error
        cause = self._header_fault(user, header)
        if cause is None and len(value) - len(header_bytes) != self._layout.payload_bytes(
            header.tokens
        ):
            cause = MissCause.WRONG_SIZE
        if cause is not None:
            raise KVMissError(user, cause)
        if _digest(header_bytes, memoryview(value)[len(header_bytes) :]) != header_bytes[_DIGEST]:
            raise KVMissError(user, MissCause.BAD_DIGEST)
        pages = self._layout.page_count(header.tokens)
        if not self._in_bounds(value, len(header_bytes), pages):
            raise KVMissError(user, MissCause.INDEX_OUT_OF_RANGE)
        payload = np.frombuffer(value, np.uint8, offset=len(header_bytes))
        return Entry(header, payload.reshape(pages, self._layout.page_bytes), header_bytes)

    def _header_fault(self, user: str, header: EntryHeader) -> MissCause | None:
        if header.user != user:
            return MissCause.FOREIGN_USER
        if header.fingerprint != self._fingerprint:
            return MissCause.FOREIGN_FINGERPRINT
        if header.tokens > self._max_tokens:
            return MissCause.OVERSIZED
        return None

    def _in_bounds(self, value: bytes, start: int, pages: int) -> bool:
        # Unused slots too: a kernel reads whole pages. All pages, layers and sides in one pass: at
        # 16384 tokens and 4 layers 8 us, plane by plane 20.
        for bound in self._bounds:
            numbers: NDArray[Any] = np.ndarray(
                (pages, len(self._layout.layers), bound.width),
                bound.dtype,
                value,
                start + bound.offset,
                (self._layout.page_bytes, self._layer_bytes, bound.dtype.itemsize),
            )
            if numbers.max() >= bound.limit:
                return False
        return True

    def _require_zero_padding(self, pages: NDArray[np.uint8], tokens: int) -> None:
        used = tokens - (len(pages) - 1) * self._layout.page_tokens
        for layer, planes in enumerate(self._layout.layers):
            ends = [plane.offset for plane in planes[1:]] + [(layer + 1) * self._layer_bytes]
            for plane, end in zip(planes, ends, strict=True):
                token_bytes = (end - plane.offset) // self._layout.page_tokens
                if pages[-1, plane.offset + used * token_bytes : end].any():
                    raise ValueError(
                        f"payload: layer {layer}, plane {plane.name}: slots past the last of "
                        f"{tokens} tokens are not zero"
                    )


def read_header(value: bytes) -> tuple[EntryHeader, bytes]:
    """The header, and its bytes as stored, of a value or of its first `HEADER_LIMIT` bytes.

    Proves the header's form only: neither digest nor owner. Raises HeaderError, a ValueError.
    """
    if len(value) < len(MARKER) or value[1:_VERSION_AT] != MARKER[1:_VERSION_AT]:
        raise HeaderError(MissCause.MALFORMED, f"begins with {value[:6]!r}, not {MARKER!r}")
    if value[: len(MARKER)] != MARKER:
        raise HeaderError(
            MissCause.UNKNOWN_FORMAT,
            f"{value[: len(MARKER)]!r} is another format version; this build reads {MARKER!r}",
        )
    length = value[_LENGTH_AT] * ALIGNMENT if len(value) > _LENGTH_AT else 0
    if not ORDER.stop < length <= min(HEADER_LIMIT, len(value)):
        raise HeaderError(
            MissCause.MALFORMED, f"length {length} of {len(value)} bytes, limit {HEADER_LIMIT}"
        )
    header_bytes = value[:length]
    try:
        fields = msgpack.unpackb(
            header_bytes,
            max_str_len=MAX_USER_BYTES,
            max_bin_len=ALIGNMENT,
            max_array_len=_FIELDS,
            max_map_len=0,
            max_ext_len=0,
        )
        _, _, order, _, fingerprint, last_event_time_s, created_ms, user, _ = fields
        history_version, tokens = struct.unpack(">QI", order)
        header = EntryHeader(
            fingerprint.hex(), user, tokens, last_event_time_s, history_version, created_ms
        )
        # A header has one spelling: packing it again must give the same bytes, the digest apart.
        again = _pack_header(header)
    except (ValueError, TypeError, AttributeError, struct.error) as error:
        raise HeaderError(MissCause.MALFORMED, str(error)) from error
    if again[: _DIGEST.start] + again[_DIGEST.stop :] != _without_digest(header_bytes):
        raise HeaderError(MissCause.MALFORMED, "is not spelled as this format spells it")
    return header, header_bytes


def _pack_header(header: EntryHeader) -> bytes:
    """The header, its digest zero, padded to `ALIGNMENT`; ValueError for a field out of range."""
    user = header.user.encode()
    if not 1 <= len(user) <= MAX_USER_BYTES:
        raise ValueError(f"user: {len(user)} bytes; 1 to {MAX_USER_BYTES} are allowed")
    for name, value, bits in (
        ("tokens", header.tokens, 32),
        ("history_version", header.history_version, 64),
        ("last_event_time_s", header.last_event_time_s, 63),
        ("created_ms", header.created_ms, 63),
    ):
        if type(value) is not int or not 0 <= value < 1 << bits or (name == "tokens" and not value):
            raise ValueError(f"{name}: {value!r} is no count below 2**{bits}")
    tail = b"".join(
        msgpack.packb(field)
        for field in (
            _fingerprint_bytes(header.fingerprint),
            header.last_event_time_s,
            header.created_ms,
            header.user,
        )
    )
    padding = -(_DIGEST.stop + len(tail) + 2) % ALIGNMENT
    length = _DIGEST.stop + len(tail) + 2 + padding
    order = struct.pack(">QI", header.history_version, header.tokens)
    return b"".join(
        (
            MARKER,
            msgpack.packb(length // ALIGNMENT),
            msgpack.packb(order),
            msgpack.packb(bytes(8)),
            tail,
            msgpack.packb(bytes(padding)),
        )
    )


def _fingerprint_bytes(fingerprint: str) -> bytes:
    raw = bytes.fromhex(fingerprint)
    if len(raw) != 16 or raw.hex() != fingerprint:
        raise ValueError(f"fingerprint: {fingerprint!r} is not 32 lower-case hex digits")
    return raw


def _without_digest(header_bytes: bytes | bytearray) -> bytes:
    return bytes(header_bytes[: _DIGEST.start] + header_bytes[_DIGEST.stop :])


def _digest(header_bytes: bytes | bytearray, payload: bytes | memoryview) -> bytes:
    digest = xxhash.xxh3_64(_without_digest(header_bytes))
    digest.update(payload)
    return digest.digest()


def _bounds(layout: EntryLayout) -> list[_Bound]:
    """What of a page is an index. The rows of both sides lie side by side: one check for both."""
    bounds = []
    rows = [plane for plane in layout.layers[0] if plane.dtype is torch.uint16]
    if rows and layout.pool_rows < 1 << 16:
        width = len(rows) * layout.page_tokens
        bounds.append(_Bound(rows[0].offset, width, np.dtype("<u2"), layout.pool_rows))
    codes = [plane for plane in layout.layers[0] if plane.name == "key_code"]
    if codes and layout.code_vectors < 1 << 8:
        width = layout.page_tokens
        bounds.append(_Bound(codes[0].offset, width, np.dtype("u1"), layout.code_vectors))
    return bounds
