"""Pools are handed to attention aligned, from a copy that follows every change of the weights."""

from __future__ import annotations

import copy

import pytest
import torch

from kernels.histories import CodedHistory, CollectiveHistory, Pages
from shared.model.kv_source import CollectiveKV
from shared.model.ranker import Ranker
from tests.tiny_model import FORMS, tiny_config, tiny_ranker

WIDTH = 2


def _pools(ranker: Ranker) -> tuple[torch.Tensor, torch.Tensor]:
    """What layer 0 hands out."""
    source = ranker.layers[0].kv
    assert isinstance(source, CollectiveKV)
    arena = torch.zeros(1, ranker.layout.page_bytes, dtype=torch.uint8)
    history = source.history(ranker.layout.planes(arena, 0), Pages.contiguous([3], 16, "cpu"))
    assert isinstance(history, CollectiveHistory | CodedHistory)
    return history.key_pool, history.value_pool


def _assert_current(ranker: Ranker, width: int = WIDTH) -> None:
    pools = _pools(ranker)
    for pool, name in zip(pools, ("key_pool", "value_pool"), strict=True):
        weights = getattr(ranker.layers[0].kv, name)
        assert pool.is_contiguous()
        assert pool.shape == (37, 2, 8)
        assert pool.dtype == weights.dtype
        assert not pool.requires_grad
        assert not pool[..., :width].any()
        assert torch.equal(pool[..., width:], weights)


@pytest.mark.parametrize("form", ["separate", "coded", "no_slice"])
def test_pools_are_aligned_once(form: str) -> None:
    ranker = tiny_ranker(tiny_config(**FORMS[form]))
    _assert_current(ranker, width=0 if form == "no_slice" else WIDTH)
    first = _pools(ranker)
    with torch.inference_mode():
        second = _pools(ranker)
    assert all(one is two for one, two in zip(first, second, strict=True))
    assert all("aligned" not in name for name in ranker.state_dict())


def _step(ranker: Ranker) -> Ranker:
    source = ranker.requires_grad_(True).layers[0].kv
    optimizer = torch.optim.SGD(source.parameters(), lr=0.5)
    (source.key_pool.square().sum() + source.value_pool.exp().sum()).backward()
    optimizer.step()
    return ranker


def _load(ranker: Ranker) -> Ranker:
    ranker.load_state_dict(tiny_ranker(tiny_config(), seed=9).state_dict())
    return ranker


CHANGES = {
    "a training step": _step,
    "another dtype": lambda ranker: ranker.to(torch.bfloat16),
    "there and back": lambda ranker: ranker.to(torch.bfloat16).to(torch.float32),
    "other weights": _load,
    "a copy of the model": lambda ranker: copy.deepcopy(ranker).double(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("inference", [False, True])
def test_changed_weights_are_noticed(change: object, inference: bool) -> None:
    assert callable(change)
    ranker = tiny_ranker(tiny_config())
    with torch.inference_mode(inference):
        before = _pools(ranker)[0].double()
    changed = change(ranker)
    _assert_current(changed)
    assert not torch.equal(_pools(changed)[0].double(), before) or changed is not ranker


def test_a_copy_made_while_serving_takes_part_in_gradients() -> None:
    """A tensor born in inference mode could not."""
    ranker = tiny_ranker(tiny_config())
    with torch.inference_mode():
        pool = _pools(ranker)[0]
    weight = torch.ones((), requires_grad=True)
    (weight * pool).sum().backward()
    assert weight.grad is not None


def test_weights_that_count_no_changes() -> None:
    with torch.inference_mode():
        ranker = tiny_ranker(tiny_config())
        _assert_current(ranker)
        ranker.layers[0].kv.key_pool.add_(1)
        _assert_current(ranker)
