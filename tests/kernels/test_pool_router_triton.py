"""The Triton router finds the largest logit of float64, writes every answer and keeps ties low."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.pool_router import launch, pool_router
from kernels.pool_router.launch import Tiles, route, tiles_for
from tests.kernels.routers import DEVICE, always_roles, random_router

ON_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_hopper = pytest.mark.skipif(not ON_HOPPER, reason="needs a Hopper device")


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten is NaN or a row that no pool has."""

    def poisoned(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        value = float("nan") if dtype.is_floating_point else -77
        return torch.full(shape, value, dtype=dtype, device=device)

    monkeypatch.setattr(launch.torch, "empty", poisoned)


@pytest.fixture(params=["resident", "chunks", pytest.param("roles", marks=needs_hopper)])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """The dtype of each way to multiply: the hidden tile stays, or comes in chunks; Hopper's."""
    if request.param == "roles":
        always_roles(monkeypatch)
        return torch.bfloat16
    if request.param == "resident":

        def resident(tokens: int, width: int, _: torch.dtype) -> Tiles:
            return tiles_for(tokens, min(width, 256), torch.bfloat16)

        monkeypatch.setattr(launch, "tiles_for", resident)
    return torch.float32


def split(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    monkeypatch.setattr(launch, "splits_for", lambda programs, tiles, processors: min(tiles, parts))


def exact_logits(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[S, T, P] float64."""
    logits = torch.einsum("te,spe->stp", hidden.double(), weight.double())
    return logits + bias.double()[:, None]


def check(hidden: Tensor, weight: Tensor, bias: Tensor) -> None:
    """A row is right if no other's exact logit beats it by more than float32 sums may be off."""
    row, logit = route(hidden, weight, bias)
    sides, rows, width = weight.shape
    assert row.shape == logit.shape == (sides, len(hidden))
    assert row.dtype == torch.int64
    assert logit.dtype == hidden.dtype
    assert bool(((row >= 0) & (row < rows)).all())
    exact = exact_logits(hidden, weight, bias)
    chosen = exact.gather(-1, row[..., None])[..., 0]
    sizes = exact_logits(hidden.abs(), weight.abs(), bias.abs())  # what the roundings are parts of
    rounding = sizes.amax(-1) * 2.0**-23 * max(4.0, width**0.5)
    assert bool((exact.amax(-1) - chosen <= 2 * rounding).all())
    # in float32 hardly any two logits are that close: nearly all rows are the very same
    assert int((row != exact.argmax(-1)).sum()) <= row.numel() // 1000
    step = torch.finfo(hidden.dtype).eps / 2  # the answer is rounded once more
    assert bool(((logit.double() - chosen).abs() <= rounding + step * chosen.abs()).all())


@pytest.mark.parametrize("tokens", [0, 1, 63, 257])
@pytest.mark.parametrize(
    ("width", "rows", "sides"),
    [(1, 1, 1), (7, 5, 2), (24, 63, 4), (33, 257, 2), (96, 130, 1)],
)
def test_finds_the_largest_logit(
    tokens: int, width: int, rows: int, sides: int, tiles: torch.dtype
) -> None:
    width = width if tiles == torch.float32 else 64 + width // 8 * 8
    check(*random_router(tokens, width, rows, sides, tiles))


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_splits_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, parts: int, tiles: torch.dtype
) -> None:
    inputs = random_router(70, 72, 300, 2, tiles)
    whole = route(*inputs)
    split(monkeypatch, parts)
    check(*inputs)
    for ours, theirs in zip(route(*inputs), whole, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("parts", [1, 3])
def test_ties_go_to_the_lowest_row(
    monkeypatch: pytest.MonkeyPatch, parts: int, tiles: torch.dtype
) -> None:
    """Equal rows in one tile, at the same place of two tiles, and in two splits."""
    split(monkeypatch, parts)
    for rows in (20, 60, 64):  # tiles have 64: every row again at other places, or at its own
        hidden, weight, bias = random_router(65, 64, rows, 2, tiles)
        first, _ = route(hidden, weight, bias)
        for times in (2, 5):
            row, _ = route(hidden, weight.repeat(1, times, 1), bias.repeat(1, times))
            assert torch.equal(row, first)
        swapped, _ = route(hidden, weight.flip(1).repeat(1, 3, 1), bias.flip(1).repeat(1, 3))
        assert torch.equal(swapped, rows - 1 - first)
    flat, _ = route(hidden, weight.new_zeros(2, 300, 64), bias.new_zeros(2, 300))
    assert not flat.any()


@pytest.mark.parametrize("parts", [1, 2])
def test_reads_no_row_but_its_own_routers(
    monkeypatch: pytest.MonkeyPatch, parts: int, tiles: torch.dtype
) -> None:
    """All logits are negative, so a padding row's 0 would win; so would the other side's rows."""
    split(monkeypatch, parts)
    hidden, weight, bias = random_router(9, 64, 3 * 70, 1, tiles)
    weight, bias = weight.reshape(3, 70, 64), bias.reshape(3, 70) - 100
    bias[1] += 1000
    weight[2], bias[2] = float("nan"), float("nan")
    check(hidden, weight[:1], bias[:1])
    check(hidden, weight[:2], bias[:2])
    apart, _ = route(hidden, weight[:2], bias[:2])
    beside_nan, _ = route(hidden, weight, bias)
    assert torch.equal(beside_nan[:2], apart)
    assert not beside_nan[2].any()


def test_nan_never_wins(tiles: torch.dtype) -> None:
    hidden, weight, bias = random_router(5, 64, 70, 1, tiles)
    expected, _ = route(hidden, weight, bias)
    bias[0, [3, 66]] = float("nan")
    weight[0, 68, 2] = float("nan")
    untouched = ~torch.isin(expected, torch.tensor([3, 66, 68], device=DEVICE))
    row, logit = route(hidden, weight, bias)
    assert torch.equal(row[untouched], expected[untouched])
    assert not logit.isnan().any()
    row, _ = route(hidden, torch.full_like(weight, float("nan")), bias)
    assert not row.any()


def test_strides_do_not_matter() -> None:
    hidden, weight, bias = random_router(9, 8, 20, 2, torch.float32)
    expected = route(hidden, weight, bias)
    strided = (hidden.t().contiguous().t(), weight.mT.contiguous().mT, bias.t().contiguous().t())
    for ours, theirs in zip(route(*strided), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("hidden", lambda h, w, b: (h.double(), w.double(), b.double())),
        ("weight", lambda h, w, b: (h, w.bfloat16(), b)),
        ("bias", lambda h, w, b: (h, w, b.bfloat16())),
        ("weight", lambda h, w, b: (h, w[:, :0], b[:, :0])),
    ],
)
def test_names_the_bad_argument(name: str, change: object) -> None:
    inputs = random_router(3, 4, 5, 1, torch.float32)
    with pytest.raises(ValueError, match=rf"^{name}: "):
        route(*change(*inputs))  # type: ignore[operator]


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tokens", [0, 1, 63, 257, 4096])
@pytest.mark.parametrize(
    ("width", "rows", "sides"),
    [(1, 1, 1), (40, 91, 4), (100, 257, 2), (96, 1000, 1), (256, 8192, 2), (300, 500, 2)],
)
def test_on_a_gpu(dtype: torch.dtype, tokens: int, width: int, rows: int, sides: int) -> None:
    inputs = random_router(tokens, width, rows, sides, dtype)
    check(*inputs)
    for one, two in zip(route(*inputs), pool_router(*inputs), strict=True):
        assert torch.equal(one, two)


@needs_hopper
@pytest.mark.parametrize("tokens", [0, 1, 63, 257, 16384])
@pytest.mark.parametrize(
    ("width", "rows", "sides"),
    [(64, 1, 1), (72, 91, 4), (96, 1000, 1), (128, 65, 2), (200, 2048, 1), (256, 8192, 2)],
)
def test_on_hopper(
    monkeypatch: pytest.MonkeyPatch, tokens: int, width: int, rows: int, sides: int
) -> None:
    always_roles(monkeypatch)
    inputs = random_router(tokens, width, rows, sides, torch.bfloat16)
    check(*inputs)
    for one, two in zip(route(*inputs), route(*inputs), strict=True):
        assert torch.equal(one, two)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tokens", [3, 300, 9000])
def test_ties_on_a_gpu(dtype: torch.dtype, tokens: int) -> None:
    hidden, weight, bias = random_router(tokens, 256, 1000, 2, dtype)
    row, _ = route(hidden, weight.repeat(1, 3, 1), bias.repeat(1, 3))
    assert int(row.max()) < 1000


@needs_gpu
def test_sixteen_thousand_tokens_take_little_memory_and_replay() -> None:
    hidden, weight, bias = random_router(16384, 256, 8192, 2, torch.bfloat16)
    expected = route(hidden, weight, bias)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    row, logit = route(hidden, weight, bias)
    assert torch.cuda.max_memory_allocated() - before < 64 << 20
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = route(hidden, weight, bias)
    for answer in captured:
        answer.fill_(-5)
    graph.replay()
    for ours, theirs, replayed in zip((row, logit), expected, captured, strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(ours, replayed)


@needs_gpu
def test_a_router_past_two_to_the_31() -> None:
    weight = torch.zeros(2, 65536, 16640, dtype=torch.bfloat16, device="cuda")
    hidden = torch.randn(3, 16640, device="cuda").bfloat16()
    weight[1, 65535] = hidden[0].sign()
    row, logit = route(hidden, weight, torch.zeros(2, 65536, dtype=torch.bfloat16, device="cuda"))
    assert row[:, 0].tolist() == [0, 65535]
    assert float(logit[1, 0]) == pytest.approx(float(hidden[0].double().abs().sum()), rel=1e-2)
