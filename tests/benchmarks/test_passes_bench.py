"""The pass benchmark without a GPU: baselines compute what the ranker does; the record's form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

import benchmarks.passes as bench
from benchmarks.graph_timing import Timing
from benchmarks.passes import baselines, compiled_passes, contender, op_shares, workload
from benchmarks.passes.compiled_passes import CompiledPasses
from benchmarks.passes.contender import Contender
from benchmarks.passes.dense_transformer import DenseTransformer
from benchmarks.passes.our_passes import OurPasses
from benchmarks.passes.workload import (
    WORKLOADS,
    Variant,
    Workload,
    empty_entries,
    random_candidates,
    random_history_tokens,
    random_ranker,
)
from shared.model.config import ItemHashConfig

CPU = torch.device("cpu")
SMALL = Workload(
    "W0",
    "small",
    2,
    37,
    5,
    layers=3,
    head_dim=16,
    variants=(Variant("collective"), Variant("coded", product_keys=True)),
    beats_dense=True,
)


@pytest.fixture(autouse=True)
def few_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "_ITEMS", ItemHashConfig(tables=2, rows=50))


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool = False
) -> tuple[Tensor, Tensor]:
    logits = torch.einsum("bqhd,bkhd->bhqk", q, k).float() * scale
    if causal:
        seen = torch.ones(logits.shape[-2:], dtype=torch.bool).tril(k.shape[1] - q.shape[1])
        logits = logits.masked_fill(~seen, -torch.inf)
    weights = logits.softmax(dim=-1).to(v.dtype)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v), logits.logsumexp(dim=-1)


def plain_output(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    return plain_attention(q, k, v, **options)[0]


@torch.no_grad()
def test_both_baselines_score_as_the_ranker() -> None:
    random = torch.Generator(CPU).manual_seed(1)
    tokens, candidates = random_history_tokens(SMALL, random), random_candidates(SMALL, random)
    ranker = baselines.tied_ranker(SMALL, CPU, torch.float32)
    model = DenseTransformer(ranker, plain_output, plain_attention, compiled=False)
    kv = empty_entries(SMALL, ranker, random)
    assert ranker.context_pass(tokens, kv).all()
    # Entries are bf16; both baselines keep their numbers as they are.
    wanted = ranker.crossing_pass(candidates, kv)
    found = model.score(candidates, model.encode(tokens, SMALL.users))
    assert wanted.std() > 0.05
    torch.testing.assert_close(found, wanted, rtol=0, atol=3e-3)
    history, few = baselines._some_of_first_user(tokens, candidates, SMALL, 4)
    torch.testing.assert_close(model.score_each(history, few), found[:4], rtol=0, atol=1e-5)


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)


def fake_device(monkeypatch: pytest.MonkeyPatch, crossing: Callable[..., Any]) -> list[str]:
    """No GPU, no compiler, plain attention; returns the names of what will have been timed."""
    timed: list[str] = []

    def time_in_turn(runs: Mapping[str, Any], rounds: int) -> dict[str, Timing]:
        for run in runs.values():
            run()
        timed.extend(runs)
        return {
            name: Timing(100.0 if "candidate" in name else 10.0 + len(name), "graph replay")
            for name in runs
        }

    for module in (bench, baselines):
        monkeypatch.setattr(module, "time_in_turn", time_in_turn)
    no_compiler(monkeypatch)
    monkeypatch.setattr(baselines, "attentions", lambda: {"plain": plain_output})
    monkeypatch.setattr(baselines, "attentions_with_sums", lambda: {"plain": crossing})
    monkeypatch.setattr(bench, "shares_by_op", lambda run: {"crossing_attention": 100.0})
    return timed


def test_a_workload_s_record(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = fake_device(monkeypatch, plain_attention)
    record = bench.measured_workload(SMALL, CPU)
    assert record["problems"] == {}
    assert record["each_candidate"]["sequences_timed"] == 5
    assert record["each_candidate"]["us"] == 100.0 / 5 * 10
    assert record["dcat_dense"]["attention"] == {"causal": "plain", "crossing": "plain"}
    both = record["dcat_dense"]["context_us"] + record["dcat_dense"]["crossing_us"]
    assert record["dcat_dense"]["both_us"] == both
    names = ["collective", "collective compiled", "coded product", "coded product compiled"]
    assert list(record["ours"]) == record["contenders"] == names
    assert record["ours"]["collective"]["pool_rows"] == 8192
    assert "difference" not in record["ours"]["coded product"]
    ours = record["ours"]["coded product compiled"]
    assert (ours["form"], ours["router_keys"], ours["pool_rows"], ours["compiled"]) == (
        "coded",
        "product",
        2025,
        True,
    )
    assert ours["difference"] == {"crossing": 0, "both": 0}  # nothing was compiled here
    assert ours["candidates_per_s"] == round(10 / ours["crossing_us"] * 1e6)
    assert ours["users_per_s"] == round(2 / ours["context_us"] * 1e6)
    assert 0 < ours["error"]["torch"] < 0.05
    values = [goal["value"] for goal in ours["goals"]]
    mine = ours["context_us"] + ours["crossing_us"]
    assert values == pytest.approx(
        [200 / mine, record["dcat_dense"]["crossing_us"] / ours["crossing_us"], both / mine],
        abs=1e-4,
    )
    assert [goal["must"] for goal in ours["goals"]] == [7.0, 1.3, 1.3]
    assert "coded product compiled, crossing" in timed


@pytest.mark.parametrize("spoiled", ["enter", "between", "leave"])
def test_compiled_arithmetic_that_is_wrong_is_a_problem(
    spoiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(compiled_passes, spoiled)

    def wrong(*args: Any) -> Any:
        found = right(*args)
        if isinstance(found, Tensor):
            return found * 1.1
        return [found[0] * 1.5, *(it.flip(0) for it in found[1:])]

    no_compiler(monkeypatch)
    monkeypatch.setattr(compiled_passes, spoiled, wrong)
    random = torch.Generator(CPU).manual_seed(1)
    tokens, candidates = random_history_tokens(SMALL, random), random_candidates(SMALL, random)
    passes = OurPasses(SMALL, Variant("collective"), tokens, candidates, random)
    with torch.no_grad():
        assert Contender(Variant("collective"), passes, compiled=False).check() is None
        problem = Contender(Variant("collective"), passes, compiled=True).check()
        assert (problem or "").startswith("relative error")


def test_scores_that_compiling_changes_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    no_compiler(monkeypatch)
    monkeypatch.setattr(contender, "MOST_DIFFERENCE", -1.0)
    random = torch.Generator(CPU).manual_seed(1)
    tokens, candidates = random_history_tokens(SMALL, random), random_candidates(SMALL, random)
    passes = OurPasses(SMALL, Variant("collective"), tokens, candidates, random)
    with torch.no_grad():
        assert Contender(Variant("collective"), passes, compiled=False).check() is None
        problem = Contender(Variant("collective"), passes, compiled=True).check()
    assert problem == "scores differ by 0.00e+00 from those not compiled"


@pytest.mark.parametrize("variant", SMALL.variants, ids=str)
@torch.no_grad()
def test_one_compilation_computes_what_the_model_does(
    variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = CompileCounter()
    compiler = partial(torch.compile, backend=counter, fullgraph=True)
    monkeypatch.setattr(torch, "compile", compiler)
    torch.compiler.reset()
    for tokens_each, candidates_each in ((37, 5), (150, 11)):
        sizes = replace(SMALL, tokens=tokens_each, candidates=candidates_each)
        random = torch.Generator(CPU).manual_seed(1)
        tokens, candidates = random_history_tokens(sizes, random), random_candidates(sizes, random)
        ranker = random_ranker(sizes.config(variant), CPU, torch.bfloat16)
        compiled = CompiledPasses(ranker)
        kv, wanted = empty_entries(sizes, ranker, random), None
        for model in (ranker, compiled):
            kv.arena.zero_()
            assert model.context_pass(tokens, kv).all()
            found = kv.arena.clone(), model.crossing_pass(candidates, kv)
            wanted = found if wanted is None else wanted
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)
        assert kv.arena.any()
    # Entering and leaving each pass, and what stands between two layers, the last of history too.
    assert counter.frame_count == 6


def test_product_keys_get_the_next_square() -> None:
    rows = {str(it): it.pool_rows for it in WORKLOADS[2].variants}
    assert rows == {
        "collective": 8192,
        "collective product": 91**2,
        "coded": 2048,
        "coded product": 45**2,
    }
    config = SMALL.config(Variant("coded", product_keys=True))
    assert config.router_shape == (1, 2, 45)


def test_baselines_that_differ_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(*args: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        out, log_sum = plain_attention(*args, **options)
        return out * 2, log_sum - 5

    fake_device(monkeypatch, spoiled)
    assert "differ" in bench.measured_workload(SMALL, CPU)["problems"]["baselines"]


def test_the_workloads_are_those_of_the_documents() -> None:
    assert [(it.name, it.tokens, it.candidates) for it in WORKLOADS] == [
        ("W1", 256, 1000),
        ("W2", 2048, 512),
        ("W3", 16384, 512),
        ("W4", 3968, 256),
    ]
    assert (WORKLOADS[3].layers, WORKLOADS[3].head_dim, WORKLOADS[3].users) == (8, 256, 8)


def test_kernels_belong_to_ops() -> None:
    own = op_shares._own_kernels()
    assert set(own.values()) <= {path.parent.name for path in op_shares.Path("kernels").glob("*/*")}
    for name, op in own.items():
        assert op_shares.op_of(name) == op
    assert op_shares.op_of("nvjet_tst_128x64_64x9_NNT") == "matrix products"
    assert op_shares.op_of("Memcpy DtoD (Device -> Device)") == "copies"
    assert op_shares.op_of("void at::native::rms_norm<float>()") == "norms, activations, sums"
