"""The Triton kernels of expansion copy every number exactly, and nothing that is not a token's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from triton import next_power_of_2

from kernels.histories import CodedHistory, CollectiveHistory, DenseHistory, Pages
from kernels.kv_expand import kv_expand, reference
from kernels.kv_expand.launch import expand
from tests.kernels import histories
from tests.kernels.histories import CODES, GROUPS, KINDS, PAGE, POOL, random_history

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
PAGED = [form for form in KINDS if form != "ragged"]
DTYPES = [torch.bfloat16, torch.float32]
LENGTHS = {
    "one token": [1],
    "page and tile bounds": [7, 16, 17, 33],
    "users without tokens": [0, 3, 0, 0, 9, 0],
    "no tokens": [0, 0],
    "no users": [],
}
TILES = {"tiles within a page": 8, "tiles over pages": 64}
"""Tokens of a tile."""
Paged = CollectiveHistory | CodedHistory | DenseHistory


def _cast(value: Any, dtype: torch.dtype, device: str = DEVICE) -> Any:
    """The history on `device`, its floating-point numbers in `dtype`."""
    if isinstance(value, torch.Tensor):
        return value.to(device, dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, int):
        return value
    return replace(
        value, **{name: _cast(part, dtype, device) for name, part in vars(value).items()}
    )


def _assert_exact(history: Paged, dtype: torch.dtype) -> None:
    """Bit for bit the reference's numbers, made in float64 and rounded once.

    Where there is anything to round to bfloat16, the interpreter cuts off instead.
    """
    wide = _cast(history, torch.float64, "cpu")
    product = isinstance(history, CodedHistory)
    stored = history.key if isinstance(history, DenseHistory) else history.key_pool
    rounds = dtype == torch.bfloat16 and (product or stored.dtype != dtype)
    tolerance = 2.0**-7 if rounds and DEVICE == "cpu" else 0.0
    got, wanted = expand(history, dtype), reference.expand(wide, torch.float64)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.cpu(), theirs.to(dtype), rtol=tolerance, atol=0)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is allocated starts as NaN, and so do the rows behind it: they must stay NaN."""
    empty, behind = torch.empty, []

    def full_of_nan(rows: int, *shape: int, **options: Any) -> torch.Tensor:
        whole = empty(rows + 128, *shape, **options).fill_(torch.nan)
        behind.append(whole[rows:])
        return whole[:rows]

    def like(other: torch.Tensor) -> torch.Tensor:
        return full_of_nan(*other.shape, dtype=other.dtype, device=other.device)

    monkeypatch.setattr(torch, "empty", full_of_nan)
    monkeypatch.setattr(torch, "empty_like", like)
    yield
    assert all(rows.isnan().all() for rows in behind)


def _tile(monkeypatch: pytest.MonkeyPatch, tokens: int, width: int, dtype: torch.dtype) -> None:
    monkeypatch.setattr(
        "kernels.kv_expand.launch.TILE_BYTES", tokens * next_power_of_2(width) * dtype.itemsize
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", PAGED)
@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_expansion(
    lengths: list[int],
    tile: int,
    form: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history, _, _ = random_history(form, lengths, seed=6)
    _tile(monkeypatch, tile, GROUPS * 8, dtype)
    _assert_exact(_cast(history, dtype), dtype)


@pytest.mark.parametrize("form", ["separate", "dense"])
def test_pages_that_no_tile_divides(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "PAGE", 24)
    history, _, _ = random_history(form, [17, 100], seed=6)
    _tile(monkeypatch, 32, GROUPS * 8, torch.bfloat16)
    _assert_exact(_cast(history, torch.bfloat16), torch.bfloat16)


@pytest.mark.parametrize("form", ["separate", "coded", "dense"])
@pytest.mark.parametrize(("dim", "width"), [(12, 3), (32, 1), (32, 16)])
def test_head_and_slice_sizes(
    form: str, dim: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads whose numbers are no power of 2, and the narrowest and widest slices."""
    history, _, _ = random_history(form, [33, 1], seed=6, dim=dim, width=width)
    _tile(monkeypatch, 8, GROUPS * dim, torch.bfloat16)
    _assert_exact(_cast(history, torch.bfloat16), torch.bfloat16)


@pytest.mark.parametrize("form", ["separate", "coded", "dense"])
@pytest.mark.parametrize(("stored", "wanted"), [DTYPES, DTYPES[::-1]])
def test_numbers_are_rounded_to_what_is_asked(
    form: str, stored: torch.dtype, wanted: torch.dtype
) -> None:
    history, _, _ = random_history(form, [17], seed=6)
    _assert_exact(_cast(history, stored), wanted)


def test_slices_and_pools_of_two_dtypes() -> None:
    history, _, _ = random_history("separate", [17], seed=6)
    assert isinstance(history, CollectiveHistory)
    narrow = _cast(history, torch.bfloat16)
    mixed = replace(
        _cast(history, torch.float32), key_slice=narrow.key_slice, value_slice=narrow.value_slice
    )
    _assert_exact(mixed, torch.float32)


def test_planes_lie_in_an_arena() -> None:
    """Pages further apart than their numbers are long, sides at different distances."""
    history, _, _ = random_history("separate", [33, 7], seed=6)
    assert isinstance(history, CollectiveHistory)
    history = _cast(history, torch.bfloat16)

    def spread(plane: torch.Tensor, gap: int) -> torch.Tensor:
        arena = plane.new_full((len(plane), plane[0].numel() + gap), 99)
        arena[:, : plane[0].numel()] = plane.flatten(1)
        return arena[:, : plane[0].numel()].view(plane.shape)

    planes = ("key_row", "value_row", "key_slice", "value_slice")
    apart = {name: spread(getattr(history, name), gap) for gap, name in enumerate(planes, start=1)}
    _assert_exact(replace(history, **apart), torch.bfloat16)


def test_no_row_or_code_leads_out_of_its_table() -> None:
    """Whoever fills a page proves its indices; whatever is there, the kernel reads the last row."""
    lengths = [3]
    coded, _, _ = random_history("coded", lengths, seed=6)
    assert isinstance(coded, CodedHistory)
    coded = _cast(coded, torch.float32)
    page = int(coded.pages.block_table[0, 0])
    coded.row.view(torch.int16)[page, :3] = torch.tensor([-1, POOL, 5])
    coded.key_code[page, :3] = torch.tensor([255, CODES, 1])
    keys, values = expand(coded, torch.float32)
    for token in (0, 1):
        assert torch.equal(keys[token, :, 2:], coded.key_pool[POOL - 1, :, 2:])
        assert torch.equal(values[token, :, 2:], coded.value_pool[POOL - 1, :, 2:])
        assert torch.equal(keys[token, 0, :2], coded.codebook[CODES - 1])
    assert torch.equal(keys[2, 1, 2:], coded.key_pool[5, 1, 2:])


def _collective() -> CollectiveHistory:
    history, _, _ = random_history("separate", [17], seed=6)
    assert isinstance(history, CollectiveHistory)
    return history


def _coded() -> CodedHistory:
    history, _, _ = random_history("coded", [17], seed=6)
    assert isinstance(history, CodedHistory)
    return history


def _dense() -> DenseHistory:
    history, _, _ = random_history("dense", [17], seed=6)
    assert isinstance(history, DenseHistory)
    return history


def _short_table(history: CollectiveHistory) -> CollectiveHistory:
    return replace(history, pages=Pages.of(history.pages.block_table[:, :1], [17], PAGE))


REFUSED: dict[str, tuple[Paged, str]] = {
    "row dtype": (
        replace(_collective(), key_row=torch.zeros(4, PAGE, dtype=torch.int32)),
        r"key_row: dtype torch.int32, expected torch.uint16",
    ),
    "page size": (
        replace(_coded(), key_code=torch.zeros(4, 8, dtype=torch.uint8)),
        r"key_code: shape \[4, 8\], expected \[\*, 16\]",
    ),
    "slice widths": (
        replace(_collective(), value_slice=torch.zeros(4, PAGE, 3)),
        r"value_slice: shape \[4, 16, 3\], expected \[\*, 16, 2\]",
    ),
    "pool shapes": (
        replace(_collective(), value_pool=torch.zeros(POOL, GROUPS, 6)),
        r"value_pool: shape \[29, 2, 6\], expected \[29, 2, 8\]",
    ),
    "pool layout": (
        replace(_collective(), key_pool=torch.zeros(GROUPS, POOL, 8).transpose(0, 1)),
        "key_pool: not contiguous",
    ),
    "slices without room": (
        replace(_coded(), codebook=torch.zeros(5, 9), value_slice=torch.zeros(4, PAGE, 9).char()),
        "key_pool: heads of 8 numbers have no room for slices of 9",
    ),
    "dense shapes": (
        replace(_dense(), value=torch.zeros(4, PAGE, GROUPS, 6)),
        r"value: shape \[4, 16, 2, 6\], expected \[\*, 16, 2, 8\]",
    ),
    "dense layout": (
        replace(_dense(), key=torch.zeros(4, GROUPS, PAGE, 8).transpose(1, 2)),
        "key: a page's numbers are not contiguous",
    ),
    "too few pages": (
        _short_table(_collective()),
        "block_table: room for 16 tokens a user, not 17",
    ),
}


@pytest.mark.parametrize(("history", "message"), REFUSED.values(), ids=REFUSED)
def test_a_history_that_does_not_fit_is_refused(history: Paged, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kv_expand(history, torch.float32)


@GPU
@pytest.mark.parametrize(
    ("form", "dim", "width", "dtype"),
    [
        (form, *size, DTYPES[(i + j) % 2])  # every pair of form, size and dtype
        for i, form in enumerate(PAGED)
        for j, size in enumerate([(32, 1), (64, 2), (128, 16), (256, 1)])
    ],
)
def test_gpu_matrix(form: str, dim: int, width: int, dtype: torch.dtype) -> None:
    lengths = [0, 1, 63, 257, 0, 1024]
    history, _, _ = random_history(form, lengths, seed=6, dim=dim, width=width)
    history = _cast(history, dtype)
    _assert_exact(history, dtype)
    first, second = kv_expand(history, dtype), kv_expand(history, dtype)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


@GPU
def test_expansion_is_captured_in_a_graph() -> None:
    history = _cast(random_history("separate", [257, 3], seed=6)[0], torch.bfloat16)
    wanted = kv_expand(history, torch.bfloat16)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = kv_expand(history, torch.bfloat16)
    for tensor in captured:
        tensor.zero_()
    graph.replay()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(captured, wanted, strict=True))


@GPU
def test_numbers_past_two_to_the_31() -> None:
    """2.1 million tokens of 1024 numbers, read and written; the last user's are looked at."""
    pages = Pages.contiguous([1050] * 2000, 128, "cuda")
    count = int(pages.block_table.max()) + 1
    plane = torch.empty(count, 128, 4, 256, dtype=torch.bfloat16, device="cuda")
    last = plane[-9:].copy_(torch.randn(9, 128, 4, 256))
    key, value = kv_expand(DenseHistory(pages, plane, plane), torch.bfloat16)
    assert key.numel() > 2**31
    for rows in (key, value):
        assert torch.equal(rows[-1050:], last.flatten(0, 1)[:1050])
