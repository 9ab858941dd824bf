"""Whatever bytes a store returns, decoding ends in a proven entry or in a counted miss."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import KVMissError, MissCause
from shared.kv.codec import MARKER, EntryHeader, read_header
from tests.shared.kv.entries import FINGERPRINT, FORMS, codec_of, model_config, random_pages, sealed

CONFIGS = {name: model_config(**changes) for name, changes in FORMS.items()}
FORM = st.sampled_from(sorted(CONFIGS))
U63 = st.integers(0, (1 << 63) - 1)
USERS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=64)

HEADERS = st.builds(
    EntryHeader,
    fingerprint=st.just(FINGERPRINT),
    user=USERS,
    tokens=st.integers(1, 100),
    last_event_time_s=U63,
    history_version=st.integers(0, (1 << 64) - 1),
    created_ms=U63,
)


def encoded(form: str, header: EntryHeader, seed: int = 0) -> bytes:
    pages = random_pages(CONFIGS[form], header.tokens, seed)
    return codec_of(CONFIGS[form]).encode(header, pages)


def cause_of(form: str, user: str, value: bytes) -> MissCause:
    with pytest.raises(KVMissError) as raised:
        codec_of(CONFIGS[form]).decode(user, value)
    return raised.value.cause


@given(FORM, HEADERS, st.integers(0, 1 << 32))
def test_round_trip(form: str, header: EntryHeader, seed: int) -> None:
    value = encoded(form, header, seed)
    entry = codec_of(CONFIGS[form]).decode(header.user, value)
    assert entry.header == header
    assert entry.payload.tobytes() == random_pages(CONFIGS[form], header.tokens, seed).tobytes()
    assert entry.header_bytes + entry.payload.tobytes() == value


@settings(max_examples=400)
@given(FORM, HEADERS, st.data())
def test_any_flipped_bits(form: str, header: EntryHeader, data: st.DataObject) -> None:
    value = bytearray(encoded(form, header))
    header_bits = value[6] * 16 * 8
    places = st.one_of(st.integers(0, header_bits - 1), st.integers(0, len(value) * 8 - 1))
    flips = data.draw(st.sets(places, min_size=1, max_size=4))
    for bit in flips:
        value[bit // 8] ^= 1 << bit % 8
    cause = cause_of(form, header.user, bytes(value))
    if min(flips) >= header_bits:
        assert cause is MissCause.BAD_DIGEST


@given(FORM, HEADERS, st.data())
def test_any_truncation(form: str, header: EntryHeader, data: st.DataObject) -> None:
    value = encoded(form, header)
    length = data.draw(st.integers(0, len(value) - 1))
    cause = cause_of(form, header.user, value[:length])
    assert cause is (MissCause.MALFORMED if length < value[6] * 16 else MissCause.WRONG_SIZE)


@given(FORM, HEADERS, USERS)
def test_any_other_user(form: str, header: EntryHeader, user: str) -> None:
    if user != header.user:
        assert cause_of(form, user, encoded(form, header)) is MissCause.FOREIGN_USER


@given(FORM, HEADERS, st.data())
def test_any_sealed_change_of_a_header(form: str, header: EntryHeader, data: st.DataObject) -> None:
    """Even with a right digest: a changed header reads back as itself or is a miss."""
    value = encoded(form, header)
    at = data.draw(st.integers(6, value[6] * 16 - 1))
    changed = value[:at] + data.draw(st.binary(min_size=1, max_size=8)) + value[at + 1 :]
    try:
        entry = codec_of(CONFIGS[form]).decode(header.user, sealed(changed))
    except KVMissError:
        return
    assert entry.header.user == header.user
    assert entry.header.fingerprint == FINGERPRINT
    assert codec_of(CONFIGS[form]).encode(entry.header, entry.payload.tobytes()) == sealed(changed)


@given(FORM, st.binary(max_size=700), st.booleans(), st.integers(0, 255))
def test_any_bytes(form: str, noise: bytes, marked: bool, length: int) -> None:
    value = MARKER + bytes([length]) + noise if marked else noise
    cause_of(form, "42", value)
    with pytest.raises(ValueError, match="entry header"):
        read_header(value)
