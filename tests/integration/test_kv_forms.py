"""Equality 4: scores through both services and the store are those of one process, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ranking_client import RankingClient
from tests.integration.oracle import Oracle, assert_right
from tests.integration.orchestrator import UNKNOWN_ITEM, Orchestrator, Ranked
from tests.integration.stack import ROOT, Pod, Stack
from tests.tiny_model import FORMS, tiny_checkpoint_dir, tiny_config

SERVED = ("separate", "tied", "coded", "dense", "ml-100k")
ACTIONS = (1, 15, 16, 17, 200, 333)  # around a page of 16; some are longer than a tiny model reads


@dataclass
class Served:
    """A form's pods, and what they must answer."""

    checkpoint: Path
    context: Pod
    crossing: Pod
    oracle: Oracle

    def orchestrator(self) -> Orchestrator:
        return Orchestrator(self.checkpoint)

    def client(self, orchestrator: Orchestrator) -> RankingClient:
        return RankingClient(
            [self.context.address],
            [self.crossing.address],
            timeout_s=20.0,
            load_history=orchestrator.load_history,
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    directory = tmp_path_factory.mktemp("forms")
    with Stack(directory) as stack:
        forms = {}
        for form in SERVED:
            checkpoint = ROOT / "checkpoints" / form
            if form in FORMS:
                checkpoint = directory / form
                tiny_checkpoint_dir(checkpoint, tiny_config(**FORMS[form]))
            pods = [stack.pod(service, checkpoint) for service in ("context", "crossing")]
            forms[form] = Served(checkpoint, *pods, Oracle(checkpoint))
        stack.wait_until_serving()
        yield forms


@pytest.fixture(params=SERVED)
def form(request: pytest.FixtureRequest, served: dict[str, Served]) -> Served:
    return served[request.param]


async def test_a_cold_user_is_encoded_and_scored_as_in_one_process(form: Served) -> None:
    orchestrator = form.orchestrator()
    async with form.client(orchestrator) as client:
        limit = (await client.describe_model()).max_history
        for count in ACTIONS:
            user = f"cold-{count}"
            orchestrator.add_user(user, count)
            first = await orchestrator.rank(client, user)
            assert (first.scores.encoded, first.scores.entry_source) == (True, "store")
            for turn in (0, 1, 2):
                again = await orchestrator.rank(client, user, turn)
                assert (again.scores.encoded, again.scores.entry_source) == (False, "device")
                assert again.scores.history_tokens == min(count, limit)
                unknown = (again.candidates.item_ids == UNKNOWN_ITEM).sum()
                assert again.scores.unknown_items == unknown
                assert_right(again, form.oracle, exactly=True)
            assert_right(first, form.oracle, exactly=True)


@pytest.mark.parametrize("candidates", [1, 2, 63, 1000])
async def test_any_number_of_candidates(form: Served, candidates: int) -> None:
    orchestrator = form.orchestrator()
    orchestrator.add_user("many", 40)
    async with form.client(orchestrator) as client:
        ranked = await orchestrator.rank(client, "many", 1, count=candidates)
    assert_right(ranked, form.oracle, exactly=True)


async def test_appending_changes_the_ranking_to_that_of_a_full_encode(form: Served) -> None:
    orchestrator = form.orchestrator()
    whole = orchestrator.add_user("appended", 60)
    orchestrator.histories["appended"] = whole[:37]
    async with form.client(orchestrator) as client:
        before = await orchestrator.rank(client, "appended", 1)
        receipt = await client.append("appended", whole[37:])
        assert (receipt.tokens, receipt.published) == (60, True)
        candidates = before.candidates
        after = await client.score(
            "appended",
            candidates.item_ids,
            surfaces=candidates.surfaces,
            features=candidates.features,
            request_time_s=candidates.request_time_s,
            min_history_version=receipt.history_version,
        )
        orchestrator.histories["appended"] = whole
        await client.encode("full", whole)
        orchestrator.histories["full"] = whole
        full = await orchestrator.rank(client, "full", 1)
    assert not np.array_equal(after.by_task["watch"], before.scores.by_task["watch"])
    assert_right(before, form.oracle, exactly=True)
    assert_right(Ranked("appended", whole, candidates, after), form.oracle, exactly=True)
    assert_right(full, form.oracle, exactly=True)


async def test_the_stored_entry_is_described(form: Served) -> None:
    orchestrator = form.orchestrator()
    orchestrator.add_user("described", 100)
    async with form.client(orchestrator) as client:
        receipt = await client.encode("described", orchestrator.histories["described"])
        described = await client.describe("described")
        models = [await client.describe_model("context"), await client.describe_model("crossing")]
    assert described.model_fingerprint == form.oracle.fingerprint
    assert (described.tokens, described.stored_bytes) == (100, receipt.stored_bytes)
    assert [model.fingerprint for model in models] == [form.oracle.fingerprint] * 2
    assert [model.max_candidates for model in models] == [0, 4096]
