"""What is trained is what is served, apart from the router's gate; and the auxiliary losses."""

from __future__ import annotations

from math import exp, log
from typing import Any

import pytest
import torch

from kernels.histories import Pages
from shared.model.batch import CandidateTokens, HistoryTokens, PagedKV, bounds
from shared.model.config import ModelConfig
from shared.model.kv_source import CollectiveKV
from tests.tiny_model import FORMS, tiny_config, tiny_ranker

LENGTHS, CANDIDATES = [5, 1, 33], [2, 3, 1]


def _tokens(config: ModelConfig) -> tuple[HistoryTokens, CandidateTokens]:
    generator = torch.Generator().manual_seed(4)

    def draw(limit: int, *shape: int) -> torch.Tensor:
        return torch.randint(limit, shape, generator=generator)

    tokens, candidates = sum(LENGTHS), sum(CANDIDATES)
    tables = 1 if config.items.kind == "list" else config.items.tables
    return (
        HistoryTokens(
            draw(40, tokens, tables),
            draw(3, tokens),
            draw(2, tokens),
            draw(32, tokens),
            bounds(LENGTHS),
        ),
        CandidateTokens(
            draw(40, candidates, tables),
            draw(2, candidates),
            draw(32, candidates),
            torch.randn(candidates, 3, generator=generator, dtype=torch.float64),
            bounds(CANDIDATES),
        ),
    )


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_training_scores_are_serving_scores(form: dict[str, Any]) -> None:
    """With gates wide open (a bias of 50 on every row), and entries in float64."""
    config = tiny_config(**{**form, "entry_dtype": "float64"})
    ranker = tiny_ranker(config, seed=2).double()
    for name, parameter in ranker.named_parameters():
        if name.endswith("router_bias"):
            parameter.add_(50.0)
    tokens, candidates = _tokens(config)
    trained = ranker(tokens, candidates).logits.sigmoid()
    blocks = torch.tensor([[0, -1, -1], [1, -1, -1], [2, 3, 4]], dtype=torch.int32)
    arena = torch.zeros(5, ranker.layout.page_bytes, dtype=torch.uint8)
    kv = PagedKV(arena, Pages.of(blocks, LENGTHS, config.page_tokens))
    ranker.context_pass(tokens, kv)
    served = ranker.crossing_pass(candidates, kv)
    torch.testing.assert_close(trained, served, rtol=1e-11, atol=0)


def test_the_gate_scales_pooled_rows_and_not_slices() -> None:
    """CollectiveKV eq. 8: the gathered row times the sigmoid of the winning logit."""
    source = _source(tiny_config())
    h = torch.randn(6, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    k, v, _ = source.training_form(h)
    for side, (got, pool) in enumerate(((k, source.key_pool), (v, source.value_pool))):
        for t in range(6):
            logits = source.router_weight[side] @ h[t] + source.router_bias[side]
            row = int(logits.argmax())
            gate = 1 / (1 + exp(-float(logits[row])))
            user_slice = (source.slices.weight @ h[t])[2 * side : 2 * side + 2]
            for g in range(2):
                wanted = torch.cat((user_slice, pool[row, g] * gate))
                torch.testing.assert_close(got[t, g], wanted, rtol=1e-12, atol=0)


def test_auxiliary_losses() -> None:
    """CollectiveKV eq. 10 and 11, token by token, the mean of both sides."""
    source = _source(tiny_config())
    h = torch.randn(6, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    losses = source.training_form(h)[2]
    peak, balance = [], []
    for side in range(2):
        use = torch.zeros(37, dtype=torch.float64)
        for t in range(6):
            logits = source.router_weight[side] @ h[t] + source.router_bias[side]
            peak.append(log(1 + exp(-float(logits.max()))))
            use += logits.exp() / logits.exp().sum() / 6
            assert losses.rows[side, t] == logits.argmax()
        balance.append(sum(float(p) * log(37 * float(p)) for p in use))
    assert float(losses.peak) == pytest.approx(sum(peak) / len(peak), rel=1e-12)
    assert float(losses.balance) == pytest.approx(sum(balance) / 2, rel=1e-12)


@pytest.mark.parametrize("router", ["separate", "tied"])
def test_product_keys_train_as_one_router_of_all_pairs(router: str) -> None:
    """Gate, losses and rows are those of [T, P] logits, every pair's keys and biases added up.

    So are the gradients: those of a pair's sum, to each of its keys.
    """
    source = _source(tiny_config(router=router, router_keys="product", pool_rows=36))
    whole = _source(tiny_config(router=router, pool_rows=36))
    h = torch.randn(9, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight, bias = (p.requires_grad_(True) for p in (source.router_weight, source.router_bias))
    pairs = weight[:, 0].unsqueeze(2) + weight[:, 1].unsqueeze(1)  # [S, p, p, E]
    del whole.router_weight, whole.router_bias  # parameters, where sums are to stand
    whole.router_weight = pairs.flatten(1, 2)
    whole.router_bias = (bias[:, 0].unsqueeze(2) + bias[:, 1].unsqueeze(1)).flatten(1, 2)
    for name in ("key_pool", "value_pool"):
        getattr(whole, name).copy_(getattr(source, name))
    whole.slices.load_state_dict(source.slices.state_dict())
    outcomes = []
    for form in (source, whole):
        k, v, losses = form.training_form(h)
        assert losses.rows.unique().numel() > 3
        total = (k.square().sum() + v.square().sum()) / 50 + losses.peak + losses.balance
        gradients = torch.autograd.grad(total, (weight, bias), retain_graph=True)
        outcomes.append((k, v, losses.peak, losses.balance, losses.rows, *gradients))
    for got, wanted in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-13)


def test_even_use_has_no_balance_loss() -> None:
    for keys in ("full", "product"):
        source = _source(tiny_config(router_keys=keys, pool_rows=36))
        source.router_weight.zero_()
        source.router_bias.zero_()
        losses = source.training_form(torch.randn(6, 24, dtype=torch.float64))[2]
        assert float(losses.balance) == pytest.approx(0.0, abs=1e-14)


def test_every_parameter_gets_a_gradient() -> None:
    """Routers through the gate, codes and slices straight through."""
    for form in (
        FORMS["separate"],
        FORMS["coded"],
        FORMS["product_keys"],
        FORMS["product_coded"],
        FORMS["dense"],
    ):
        config = tiny_config(**form)
        ranker = tiny_ranker(config, seed=2).double().train().requires_grad_(True)
        tokens, candidates = _tokens(config)
        ranker(tokens, candidates).logits.square().sum().backward()
        for name, parameter in ranker.named_parameters():
            assert parameter.grad is not None, (form, name)
            assert parameter.grad.abs().sum() > 0, (form, name)


def _source(config: ModelConfig) -> CollectiveKV:
    source = tiny_ranker(config, seed=2).double().layers[0].kv
    assert isinstance(source, CollectiveKV)
    return source
