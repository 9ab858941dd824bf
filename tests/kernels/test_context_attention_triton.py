"""The Triton kernels of context attention: in the interpreter, and at full size on a GPU."""

from __future__ import annotations

import pytest
import torch

from kernels.context_attention import context_attention, launch, reference
from tests.kernels import oracle
from tests.kernels.histories import bounds

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="interpreter, slow on sizes")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCALE = 0.31
pytestmark = pytest.mark.usefixtures("poisoned_memory")


def _inputs(
    new: list[int], total: list[int], heads: int, groups: int, dim: int, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(len(new) + sum(total) + dim)
    shapes = ((sum(new), heads, dim), *[(sum(total), groups, dim)] * 2)
    qkv = (torch.randn(*shape, generator=generator) for shape in shapes)
    return *(x.to(DEVICE, dtype) for x in qkv), bounds(new).to(DEVICE), bounds(total).to(DEVICE)


def _error(out: torch.Tensor, wanted: torch.Tensor) -> float:
    return oracle.error(out.double().cpu(), wanted.double().cpu().numpy())


def _in_float64(inputs: tuple[torch.Tensor, ...], scale: float) -> torch.Tensor:
    q, k, v, cu_query, cu_history = inputs
    return reference.attend(q.double(), k.double(), v.double(), cu_query, cu_history, scale)


def _accept(inputs: tuple[torch.Tensor, ...], scale: float) -> None:
    """As near to float64 as torch is in the same dtype, and further from a wrong scale."""
    out = launch.attend(*inputs, scale)
    wanted = _in_float64(inputs, scale)
    bar = 2 * _error(reference.attend(*inputs, scale), wanted) + 1e-6
    assert out.dtype == inputs[0].dtype
    assert out.shape == inputs[0].shape
    assert _error(out, wanted) <= bar
    if len(inputs[1]) > 1:
        assert _error(out, _in_float64(inputs, scale * 1.2)) > bar
    torch.testing.assert_close(launch.attend(*inputs, scale), out, rtol=0, atol=0)


SHAPES = {
    # new tokens and all tokens, a user each
    "one token": ([1], [1]),
    "whole histories": ([1, 63, 2, 65], [1, 63, 2, 65]),
    "appends": ([1, 3, 16], [67, 65, 17]),
    "a long append": ([70, 1], [131, 9]),
    "users without tokens": ([0, 4, 0, 0, 2, 0], [0, 4, 9, 0, 2, 0]),
    "nothing new": ([0, 0], [5, 0]),
    "no users": ([], []),
}


@interpreted
@pytest.mark.parametrize("split_keys", [512, 32], ids=["whole", "split"])
@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (5, 1)])
@pytest.mark.parametrize(("new", "total"), SHAPES.values(), ids=SHAPES)
def test_against_the_oracle(
    new: list[int],
    total: list[int],
    heads: int,
    groups: int,
    split_keys: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "SPLIT_KEYS", split_keys)
    inputs = _inputs(new, total, heads, groups, 16, torch.float32)
    out = launch.attend(*inputs, SCALE)
    q, k, v = (x.double().numpy() for x in inputs[:3])
    assert oracle.error(out, oracle.context_attention(q, k, v, new, total, SCALE)) < 1e-6
    if any(length > 1 for length, fresh in zip(total, new, strict=True) if fresh):
        wrong = oracle.context_attention(q, k, v, new, total, SCALE * 1.01)
        assert oracle.error(out, wrong) > 1e-4


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [16, 128, 256])
def test_every_choice_of_tiles(dim: int, dtype: torch.dtype) -> None:
    _accept(_inputs([5, 0, 130], [5, 3, 130], 4, 2, dim, dtype), dim**-0.5)
    _accept(_inputs([5, 0, 3], [700, 3, 30], 4, 2, dim, dtype), dim**-0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_user_alone_is_encoded_to_the_same_bits(dtype: torch.dtype) -> None:
    lengths = [33, 150, 0, 7]
    q, k, v, _, cu = _inputs(lengths, lengths, 6, 2, 16, dtype)
    together = launch.attend(q, k, v, cu, cu, SCALE)
    at = 0
    for length in lengths:
        own = slice(at, at + length)
        alone = bounds([length]).to(DEVICE)
        out = launch.attend(q[own], k[own], v[own], alone, alone, SCALE)
        assert torch.equal(out, together[own])
        at += length


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_long_append_has_the_bits_of_encoding(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "PROGRAMS_AT_ONCE", 0)  # no reason to split
    q, k, v, _, cu = _inputs([260], [260], 2, 2, 16, dtype)
    whole = launch.attend(q, k, v, cu, cu, SCALE)
    for new in (35, 130, 259):
        out = launch.attend(q[-new:], k, v, bounds([new]).to(DEVICE), cu, SCALE)
        assert torch.equal(out, whole[-new:])


def test_foreign_tokens_do_not_matter() -> None:
    """NaN in the next user's keys and values, which share this user's last tile of keys."""
    q, k, v, _, cu = _inputs([70, 5], [70, 5], 2, 2, 16, torch.float32)
    clean = launch.attend(q, k, v, cu, cu, SCALE)
    k[70:], v[70:] = torch.nan, torch.nan
    spoilt = launch.attend(q, k, v, cu, cu, SCALE)
    assert torch.equal(spoilt[:70], clean[:70])
    assert spoilt[70:].isnan().all()


def test_large_logits_do_not_overflow() -> None:
    q, k, v, *bound = _inputs([40, 1], [40, 70], 2, 2, 16, torch.float32)
    out = launch.attend(q * 1e3, k, v, *bound, SCALE)
    assert _error(out, _in_float64((q * 1e3, k, v, *bound), SCALE)) < 1e-6


def test_views_are_read_as_they_lie() -> None:
    q, k, v, *bound = _inputs([40, 1], [40, 70], 2, 2, 16, torch.float32)
    wide = torch.full((*k.shape[:2], 48), torch.nan, device=DEVICE)
    wide[..., 16:32] = k
    out = launch.attend(q, wide[..., 16:32], v, *bound, SCALE)
    assert torch.equal(out, launch.attend(q, k, v, *bound, SCALE))


RAGGED = {
    "whole histories": ([0, 1, 63, 257, 2048, 0, 300], [0, 1, 63, 257, 2048, 0, 300]),
    "the longest": ([16384, 16], [16384, 16]),
    "appends": ([1, 16, 0, 5, 63], [16384, 257, 63, 5, 1000]),
    "one append": ([7], [16384]),
    "a long append": ([600, 1], [5000, 16384]),
    "many users": ([1, 0, 3] * 200, [5, 0, 700] * 200),
}


DIMS, HEADS = (16, 32, 64, 128, 256), ((4, 4), (8, 2), (5, 1))


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "dim", "heads", "groups"),
    [
        (shape, dim, *HEADS[(i + j) % 3])  # every pair of shape, dim and heads
        for i, shape in enumerate(RAGGED)
        for j, dim in enumerate(DIMS)
    ],
)
def test_matrix(shape: str, dim: int, heads: int, groups: int, dtype: torch.dtype) -> None:
    _accept(_inputs(*RAGGED[shape], heads, groups, dim, dtype), 2 * dim**-0.5)


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_numbers_past_two_to_the_31(dtype: torch.dtype) -> None:
    """2.1 million tokens of 1024 numbers, of which the last user's lie past 2^31."""
    rows = torch.randn(2000 * 1050, 4, 256, dtype=dtype, device=DEVICE)
    assert rows.numel() > 2**31
    cu, alone = bounds([1050] * 2000).to(DEVICE), bounds([1050]).to(DEVICE)
    out = launch.attend(rows, rows, rows, cu, cu, 0.1)[-1050:]
    last = rows[-1050:]
    assert torch.equal(out, launch.attend(last, last, last, alone, alone, 0.1))


@on_gpu
def test_public_function_takes_the_kernels_and_captures() -> None:
    inputs = _inputs([100, 1], [100, 3000], 4, 4, 64, torch.bfloat16)
    out = context_attention(*inputs, scale=SCALE)
    assert torch.equal(out, launch.attend(*inputs, SCALE))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = context_attention(*inputs, scale=SCALE)
    captured.fill_(torch.nan)
    graph.replay()
    assert torch.equal(captured, out)
