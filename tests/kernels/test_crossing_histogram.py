"""Attention over counted pool rows gives what attention over the tokens gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kernels.crossing_attention import crossing_attention
from kernels.crossing_attention.histogram import (
    LARGEST_WORKSPACE,
    attend_histogram,
    histogram,
    histogram_fits,
    histogram_pays,
    workspace_bytes,
)
from kernels.crossing_attention.reference import attend as attend_reference
from kernels.histories import CodedHistory, Pages
from kernels.kv_expand.reference import expand
from kernels.pools import aligned_pool
from tests.kernels import oracle
from tests.kernels.histories import PAGE, bounds, pages_of

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
TOLERANCE = 2e-6
SCALE = 0.31

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def _coded(
    tokens: list[list[tuple[int, int]]],
    rows: int,
    codes: int,
    width: int,
    dim: int = 16,
    groups: int = 2,
    dtype: torch.dtype = torch.float32,
) -> CodedHistory:
    """Users with tokens (row, code) and random value slices; unused slots are out of range."""
    rng = np.random.default_rng(5)
    pages, count = pages_of([len(user) for user in tokens], rng)
    row = np.full((count, PAGE), 65535, np.uint16)
    code = np.full((count, PAGE), 255, np.uint8)
    value = rng.integers(-127, 128, (count, PAGE, width))
    for user, pairs in enumerate(tokens):
        for t, pair in enumerate(pairs):
            at = int(pages.block_table[user, t // PAGE]), t % PAGE
            row[at], code[at] = pair

    def random(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape)).to(dtype).to(DEVICE)

    on_device = replace(
        pages, block_table=pages.block_table.to(DEVICE), cu_history=pages.cu_history.to(DEVICE)
    )
    return CodedHistory(
        on_device,
        torch.from_numpy(row).to(DEVICE),
        torch.from_numpy(code).to(DEVICE),
        torch.from_numpy(value).to(torch.int8).to(DEVICE),
        random(codes, width),
        torch.tensor(0.05, device=DEVICE),
        aligned_pool(random(rows, groups, dim - width), dim),
        aligned_pool(random(rows, groups, dim - width), dim),
    )


def _random_tokens(
    lengths: list[int], rows: int, codes: int, seed: int = 7
) -> list[list[tuple[int, int]]]:
    rng = np.random.default_rng(seed)
    return [
        [(int(r), int(b)) for r, b in rng.integers(0, (rows, codes), (length, 2))]
        for length in lengths
    ]


def _candidates(
    counts: list[int], heads: int, history: CodedHistory, factor: float = 1.0
) -> tuple[torch.Tensor, ...]:
    """q, k_self, v_self of `heads` query heads, and the bounds of users with `counts`."""
    rng = np.random.default_rng(3)
    pool = history.key_pool
    q, k, v = (
        torch.from_numpy(rng.normal(size=(sum(counts), h, pool.shape[-1])) * f).to(pool)
        for h, f in ((heads, factor), (pool.shape[1], 1.0), (pool.shape[1], 1.0))
    )
    return q, k, v, bounds(counts).to(DEVICE)


def _wanted(
    q: torch.Tensor,
    k_self: torch.Tensor,
    v_self: torch.Tensor,
    history: CodedHistory,
    cu: torch.Tensor,
    scale: float = SCALE,
) -> np.ndarray:
    k, v = expand(history, torch.float64)
    arrays = (tensor.double().cpu().numpy() for tensor in (q, k_self, v_self, k, v))
    bounds = cu.diff().tolist(), history.pages.cu_history.diff().tolist()
    return oracle.crossing_attention(*arrays, *bounds, scale)


def _error(counts: list[int], heads: int, history: CodedHistory, factor: float = 1.0) -> float:
    q, k, v, cu = _candidates(counts, heads, history, factor)
    out = attend_histogram(q, k, v, history, cu, SCALE)
    return oracle.error(out.cpu(), _wanted(q, k, v, history, cu))


SHAPES = {
    # candidates and history tokens, a user each
    "one token": ([1], [1]),
    "ragged": ([3, 33, 5], [17, 63, 40]),
    "users without candidates": ([0, 4, 0, 1, 0], [3, 18, 0, 20, 5]),
    "empty histories": ([2, 1, 1], [0, 19, 0]),
}


@pytest.mark.parametrize(("candidates", "total"), SHAPES.values(), ids=SHAPES)
def test_random_histories(candidates: list[int], total: list[int]) -> None:
    history = _coded(_random_tokens(total, 29, 5), rows=29, codes=5, width=1)
    assert _error(candidates, 4, history) < TOLERANCE


@pytest.mark.parametrize(
    ("rows", "codes", "width", "groups", "heads"),
    [(150, 16, 1, 2, 2), (29, 16, 2, 1, 3), (29, 5, 4, 2, 6), (128, 1, 1, 1, 1), (29, 20, 3, 1, 1)],
)
def test_shapes_of_models(rows: int, codes: int, width: int, groups: int, heads: int) -> None:
    tokens = _random_tokens([45, 20], rows, codes)
    history = _coded(tokens, rows, codes, width, groups=groups)
    assert _error([2, 3], heads, history) < TOLERANCE


TOKENS = {
    "all equal": [(3, 2)] * 40,
    "all distinct": [(t, t % 5) for t in range(29)],
    "one row, all codes": [(28, t % 5) for t in range(33)],
    "one code": [(t % 29, 4) for t in range(33)],
}


@pytest.mark.parametrize("tokens", TOKENS.values(), ids=TOKENS)
def test_repeated_and_distinct_tokens(tokens: list[tuple[int, int]]) -> None:
    assert _error([3, 2], 2, _coded([tokens, tokens[:7]], 29, 5, 1)) < TOLERANCE


def test_nobody_asks() -> None:
    history = _coded(_random_tokens([9], 29, 5), 29, 5, 1)
    out = attend_histogram(*_candidates([0], 4, history)[:3], history, bounds([0]), SCALE)
    assert out.shape == (0, 4, 16)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
@pytest.mark.parametrize("factor", [30.0, 1e3])
@pytest.mark.parametrize("tokens", [*TOKENS.values(), *_random_tokens([50], 29, 5)])
def test_logits_of_any_size(tokens: list[tuple[int, int]], factor: float) -> None:
    """Where exp(logit - own logit) overflows, and where the largest logit is no user's token."""
    assert _error([3, 2], 2, _coded([tokens, tokens[:7]], 29, 5, 1), factor) < 20 * TOLERANCE


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
def test_a_split_pool(monkeypatch: pytest.MonkeyPatch, far: bool) -> None:
    monkeypatch.setattr("kernels.crossing_attention.histogram._splits", lambda *_: 3)
    history = _coded(_random_tokens([90, 3], 300, 5), 300, 5, 2)
    assert _error([4, 1], 4, history, 200.0 if far else 1.0) < (20 if far else 1) * TOLERANCE


def test_the_comparison_notices_a_wrong_scale() -> None:
    history = _coded(_random_tokens([40], 29, 5), 29, 5, 1)
    q, k, v, cu = _candidates([3], 4, history)
    out = attend_histogram(q, k, v, history, cu, SCALE * 1.001)
    assert oracle.error(out.cpu(), _wanted(q, k, v, history, cu)) > 10 * TOLERANCE


def _long_history(length: int, page: int, width: int, value: int) -> CodedHistory:
    """One user whose tokens all have row 1 and code 2, but for the first."""
    count = -(-length // page)
    row = torch.ones(count, page, dtype=torch.int16)
    code = torch.full((count, page), 2, dtype=torch.uint8)
    row[0, 0], code[0, 0] = 0, 0
    short = _coded([[(0, 0)]], 3, 4, width)
    pages = Pages.contiguous([length], page, DEVICE)
    steps = torch.full((count, page, width), value, dtype=torch.int8)
    return replace(
        short,
        pages=pages,
        row=row.view(torch.uint16).to(DEVICE),
        key_code=code.to(DEVICE),
        value_slice=steps.to(DEVICE),
    )


@pytest.mark.parametrize(("width", "value"), [(1, -127), (2, 127), (3, -128)])
def test_counts_above_65535(monkeypatch: pytest.MonkeyPatch, width: int, value: int) -> None:
    length = 66_000
    monkeypatch.setattr("kernels.crossing_attention.histogram.TOKENS_AT_ONCE", 1 << 14)
    history = _long_history(length, 4096, width, value)
    planes = histogram(history, torch.float32).cpu()
    assert planes.shape == (1, 1 + width, 16, 128)
    expected = torch.zeros_like(planes)
    for field in range(1 + width):
        expected[0, field, 0, 0] = value if field else 1
        expected[0, field, 2, 1] = (value if field else 1) * (length - 1)
    assert torch.equal(planes, expected)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
def test_codes_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A code's weight is 0 beside the largest, yet its many tokens' large pool logits count."""
    monkeypatch.setattr("kernels.crossing_attention.histogram.TOKENS_AT_ONCE", 1 << 14)
    length = 66_000
    history = _long_history(length, 4096, 1, 0)
    history.codebook.copy_(torch.tensor([[63.0], [0.0], [-87.0], [0.0]]))
    history.key_pool[:2, :, 1] = torch.tensor([[-63.0], [62.5]])
    q, k, v, cu = _candidates([1], 2, history)
    q.zero_()[..., :2] = 1.0
    k.zero_()
    history.key_pool[..., 2:] = 0.0
    out = attend_histogram(q, k, v, history, cu, float(np.log(2)))
    weights = torch.tensor([1.0, (length - 1) * 2.0**-24.5, 1.0], device=DEVICE)
    values = torch.stack((history.value_pool[0], history.value_pool[1], v[0]))
    wanted = torch.einsum("k,kgd->gd", weights / weights.sum(), values)
    assert oracle.error(out[0].cpu(), wanted.double().cpu().numpy()) < 5 * TOLERANCE


def test_indices_out_of_range_stay_inside() -> None:
    history = _coded([[(65535, 255)] * 3], 29, 5, 1)
    planes = histogram(history, torch.float32).cpu()
    assert planes[0, 0].count_nonzero() == 1
    assert planes[0, 0, 4, 28] == 3


def test_what_fits_and_what_pays() -> None:
    history = _coded(_random_tokens([40], 29, 5), 29, 5, 1)
    q = torch.zeros(1, 2, 16)
    assert workspace_bytes(1, history, torch.bfloat16) == 8 * 5 * 29 + 2 * 2 * 16 * 128
    assert histogram_fits(q, history)
    assert not histogram_pays(q, history)  # one candidate does not wait for a count
    many_rows = q.expand(1 << 26, 2, 16)
    for longest in (43, 44):  # beside 29 pool rows
        other = replace(history, pages=replace(history.pages, longest=longest))
        assert histogram_fits(many_rows, other)
        assert histogram_pays(many_rows, other) == (longest == 44)
    assert not histogram_fits(torch.zeros(1, 2, 24), history)
    assert not histogram_fits(q.bfloat16(), history)
    wide = _coded(_random_tokens([40], 29, 5), 29, 5, 16)
    assert not histogram_fits(q, wide)
    users = LARGEST_WORKSPACE // workspace_bytes(1, history, torch.float32)
    for count in (users, users + 1):
        many = replace(history, pages=replace(history.pages, cu_history=bounds([40] * count)))
        assert histogram_fits(q.float(), many) == (count == users)


def test_names_the_bad_argument() -> None:
    history = _coded(_random_tokens([9], 29, 5), 29, 5, 1)
    q, k, v, cu = _candidates([2], 4, history)
    for name, bad in (
        ("row", history.row[:, :-1]),
        ("key_code", history.key_code.repeat(1, 2)[:, ::2]),
        ("value_slice", history.value_slice[..., 0]),
        ("value_pool", history.value_pool[:-1]),
        ("key_pool", history.key_pool[..., 1:]),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: "):
            crossing_attention(q, k, v, replace(history, **{name: bad}), cu, scale=SCALE)
    wide = _coded(_random_tokens([9], 29, 5), 29, 5, 9)
    with pytest.raises(ValueError, match=r"^codebook: 256 sums"):
        attend_histogram(q, k, v, wide, cu, SCALE)


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dim", [32, 64, 128, 256])
@pytest.mark.parametrize(
    ("candidates", "total", "rows", "codes", "width", "groups", "heads"),
    [
        ([1], [1], 29, 5, 1, 1, 1),
        ([130, 0, 1, 64], [300, 9, 0, 5000], 300, 16, 1, 2, 4),
        ([257], [16384], 2048, 16, 2, 1, 1),
        ([0, 65], [63, 257], 257, 5, 4, 2, 2),
        ([40, 24], [70_000, 63], 64, 16, 1, 4, 4),
    ],
)
def test_the_device_agrees(
    dtype: torch.dtype,
    dim: int,
    candidates: list[int],
    total: list[int],
    rows: int,
    codes: int,
    width: int,
    groups: int,
    heads: int,
) -> None:
    tokens = _random_tokens(total, rows, codes)
    history = _coded(tokens, rows, codes, width, dim, groups, dtype)
    q, k, v, cu = _candidates(candidates, heads, history)
    scale = dim**-0.5
    exact = replace(
        history,
        codebook=history.codebook.double(),
        value_scale=history.value_scale.double(),
        key_pool=history.key_pool.double(),
        value_pool=history.value_pool.double(),
    )
    wanted = attend_reference(q.double(), k.double(), v.double(), exact, cu, scale)
    plain = attend_reference(q, k, v, history, cu, scale)
    allowed = 2 * oracle.error(plain.double().cpu(), wanted.cpu().numpy()) + 1e-6
    out = attend_histogram(q, k, v, history, cu, scale)
    assert oracle.error(out.double().cpu(), wanted.cpu().numpy()) <= allowed
    assert torch.equal(out, attend_histogram(q, k, v, history, cu, scale))


@pytest.mark.skipif(not CUDA, reason="the interpreter cuts bfloat16 off instead of rounding")
@pytest.mark.parametrize("factor", [1.0, 100.0])
@pytest.mark.parametrize("value", [None, 100])
@pytest.mark.parametrize("rows", [1, 2])
def test_many_tokens_with_one_row(rows: int, value: int | None, factor: float) -> None:
    """Nothing averages the rounding of counts and weights; slices random, or equal."""
    history = _coded(_random_tokens([16384], rows, 16), 2048, 16, 1, 64, dtype=torch.bfloat16)
    if value is not None:
        history.value_slice.fill_(value)
    q, k, v, cu = _candidates([257], 4, history, factor)
    wanted = _wanted(q, k, v, history, cu)
    plain = attend_reference(q, k, v, history, cu, SCALE)
    allowed = 2 * oracle.error(plain.double().cpu(), wanted) + 1e-6
    out = attend_histogram(q, k, v, history, cu, SCALE)
    assert oracle.error(out.double().cpu(), wanted) <= allowed
