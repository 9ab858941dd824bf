"""The bytes of one small entry of each form. A change of them is a change of the format.

`python -m tests.shared.kv.test_golden` writes the files anew; do so only together with a new
`codec.FORMAT_VERSION` and a paragraph in docs/formats.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.kv.codec import EntryHeader
from shared.kv.layout import EntryLayout
from shared.model.config import ModelConfig
from tests.shared.kv.entries import FINGERPRINT, FORMS, codec_of, model_config

GOLDEN = Path(__file__).parent / "golden"
TOKENS = 18  # two pages, the second all but empty
HEADER = EntryHeader(
    fingerprint=FINGERPRINT,
    user="Ünal/7",
    tokens=TOKENS,
    last_event_time_s=893_286_638,
    history_version=893_286_639,
    created_ms=1_700_000_000_123,
)


def counted_pages(config: ModelConfig) -> NDArray[np.uint8]:
    """Numbers that say where they stand: 100 * layer + 10 * plane + token, below any limit."""
    layout = EntryLayout(config)
    pages = torch.zeros(layout.page_count(TOKENS), layout.page_bytes, dtype=torch.uint8)
    limits = dict.fromkeys(("row", "key_row", "value_row"), config.pool_rows)
    limits["key_code"] = config.code_vectors
    for layer in range(config.layers):
        for number, (name, plane) in enumerate(layout.planes(pages, layer).items()):
            for token in range(TOKENS):
                where = (100 * layer + 10 * number + token) % limits.get(name, 128)
                plane[divmod(token, layout.page_tokens)] = where
    return pages.numpy()


def golden_value(form: str) -> bytes:
    config = model_config(**FORMS[form])
    return codec_of(config).encode(HEADER, counted_pages(config))


@pytest.mark.parametrize("form", FORMS)
def test_bytes_are_pinned(form: str) -> None:
    assert golden_value(form) == (GOLDEN / f"{form}.bin").read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_stored_bytes_still_read(form: str) -> None:
    config = model_config(**FORMS[form])
    value = (GOLDEN / f"{form}.bin").read_bytes()
    entry = codec_of(config).decode(HEADER.user, value)
    assert entry.header == HEADER
    assert np.array_equal(entry.payload, counted_pages(config))


def test_every_file_has_a_form() -> None:
    assert {path.stem for path in GOLDEN.glob("*.bin")} == set(FORMS)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name in FORMS:
        (GOLDEN / f"{name}.bin").write_bytes(golden_value(name))
