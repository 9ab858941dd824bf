"""What the entry format costs: time to prove and view an entry, to parse a long request; sizes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from crosskv.v1 import context_pb2
from shared.kv.codec import EntryCodec, EntryHeader, read_header
from shared.kv.layout import EntryLayout
from shared.model.config import ItemListConfig, ModelConfig
from shared.provenance import provenance
from shared.rpc.wire import build, packed, parse

TOKENS = 16384
RUNS = 2000
DECODE_TARGET_MS = 0.3
PARSE_TARGET_MS = 2.0

# Values taken in turn, 32 MiB of the separate form: a served value was not in the cache before.
_COPIES = 64
_FINGERPRINT = "0" * 32
_MAX_HISTORY = 16384
_USER = "0f8fad5b-d9cb-469f-a165-70867728950e"
_FORMS: dict[str, dict[str, Any]] = {
    "separate": {"router": "separate"},
    "tied": {"router": "tied"},
    "coded": {"router": "tied", "slices": "coded"},
    "dense": {"kv": "dense"},
}
_DEMO = {"layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 32, "pool_rows": 256}
_BASE = {"layers": 4, "heads": 4, "kv_heads": 4, "head_dim": 64, "pool_rows": 8192}


def bench_codec(out: Path | None) -> dict[str, Any]:
    """Measure, and write the record to the file `out` as JSON, if given.

    Returns:
        `times`: median and 90th percentile in ms over `runs`, with targets; `sizes`: bytes stored
        for one user, header and padding included, in percent of dense bf16; provenance.
    """
    values = {form: _value(_config(form, _BASE, 128), TOKENS) for form in _FORMS if form != "dense"}
    jobs = [(f"decode {form}", DECODE_TARGET_MS, *_decoding(form, values[form])) for form in values]
    jobs.append((f"parse {TOKENS} actions", PARSE_TARGET_MS, *_parsing()))
    times = [
        {"what": what, "bytes": size, **_timed(run), "target_ms": target}
        for what, target, size, run in track(jobs, description="Timing the codec")
    ]
    record = {
        "benchmark": "codec",
        "tokens": TOKENS,
        "layers": _BASE["layers"],
        "pool_rows": _BASE["pool_rows"],
        "runs": RUNS,
        "times": times,
        "sizes": _sizes(),
        "provenance": provenance(),
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=2) + "\n")
    return record


def _config(form: str, sizes: dict[str, int], page_tokens: int) -> ModelConfig:
    fixed = {
        "embed_dim": sizes["kv_heads"] * sizes["head_dim"],
        "ffn_dim": 1,
        "tasks": ("watch",),
        "action_types": ("view",),
        "items": ItemListConfig(count=1),
        "max_history": _MAX_HISTORY,
        "page_tokens": page_tokens,
    }
    return ModelConfig.model_validate(fixed | sizes | _FORMS[form])


def _value(config: ModelConfig, tokens: int) -> bytes:
    layout = EntryLayout(config)
    header = EntryHeader(
        _FINGERPRINT, _USER, tokens, 1_700_000_000, 1_700_000_000, 1_700_000_000_000
    )
    codec = EntryCodec(layout, _FINGERPRINT, max_tokens=_MAX_HISTORY)
    return codec.encode(header, _random_pages(config, layout, tokens))


def _random_pages(config: ModelConfig, layout: EntryLayout, tokens: int) -> NDArray[np.uint8]:
    """Random indices in bounds and random slices, zero past the last token."""
    random = torch.Generator().manual_seed(0)
    pages = torch.zeros(layout.page_count(tokens), layout.page_bytes, dtype=torch.uint8)
    limits = {torch.uint16: config.pool_rows, torch.uint8: config.code_vectors}
    for layer in range(config.layers):
        for plane in layout.planes(pages, layer).values():
            limit = limits.get(plane.dtype, 100)
            numbers = torch.randint(limit, plane.shape, generator=random)
            numbers.flatten(0, 1)[tokens:] = 0
            plane.copy_(numbers.to(plane.dtype))
    return pages.numpy()


def _decoding(form: str, value: bytes) -> tuple[int, Callable[[int], object]]:
    layout = EntryLayout(_config(form, _BASE, 128))
    codec = EntryCodec(layout, _FINGERPRINT, max_tokens=_MAX_HISTORY)
    copies = [bytes(bytearray(value)) for _ in range(_COPIES)]
    return len(value), lambda run: codec.decode(_USER, copies[run % _COPIES])


def _parsing() -> tuple[int, Callable[[int], object]]:
    random = np.random.default_rng(0)
    actions = build(
        context_pb2.Actions,
        item_ids=random.integers(0, 2**64, TOKENS, np.uint64),
        action_types=random.integers(0, 8, TOKENS, np.uint32),
        times_s=1_700_000_000 + np.arange(TOKENS),
        surfaces=random.integers(0, 8, TOKENS, np.uint32),
    )
    request = build(context_pb2.EncodeContextRequest, user_id=_USER, actions=actions)
    data = request.SerializeToString()

    def run(_: int) -> object:
        message = parse(context_pb2.EncodeContextRequest, data)
        fields = ("item_ids", "action_types", "times_s", "surfaces")
        return [packed(message.actions, field) for field in fields]

    return len(data), run


def _timed(run: Callable[[int], object]) -> dict[str, float]:
    for warm_up in range(_COPIES):
        run(warm_up)
    times_ms = []
    for number in range(RUNS):
        began = time.perf_counter_ns()
        run(number)
        times_ms.append((time.perf_counter_ns() - began) / 1e6)
    median, p90 = np.percentile(times_ms, (50, 90))
    return {"median_ms": round(float(median), 4), "p90_ms": round(float(p90), 4)}


def _sizes() -> list[dict[str, Any]]:
    rows = []
    for name, sizes, page_tokens, tokens in (
        ("demo", _DEMO, 16, 80),
        ("base", _BASE, 128, 1024),
        ("base", _BASE, 128, TOKENS),
    ):
        for form in _FORMS:
            config = _config(form, sizes, page_tokens)
            value = _value(config, tokens)
            dense = config.dense_bytes_per_token * tokens
            rows.append(
                {
                    "model": name,
                    "form": form,
                    "layers": config.layers,
                    "kv_width": config.kv_heads * config.head_dim,
                    "tokens": tokens,
                    "page_tokens": page_tokens,
                    "header_bytes": len(read_header(value)[1]),
                    "stored_bytes": len(value),
                    "dense_bytes": dense,
                    "percent_of_dense": round(100 * len(value) / dense, 3),
                }
            )
    return rows
