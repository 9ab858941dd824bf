"""What both services export over HTTP after real calls, and that the documentation lists it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ranking_client import RankingClient
from shared.errors import InvalidFieldError, KVMissError
from shared.rpc.ports import free_port
from tests.integration.orchestrator import Orchestrator
from tests.integration.stack import ROOT, Stack
from tests.tiny_model import tiny_checkpoint_dir, tiny_config

Samples = dict[tuple[str, ...], float]


def scrape(port: int) -> Samples:
    """Every sample by name and label values, in the labels' alphabetical order."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture
def exported(tmp_path: Path) -> Stack:
    tiny_checkpoint_dir(tmp_path / "model", tiny_config())
    return Stack(tmp_path)


async def test_a_hit_a_miss_a_bad_field_and_an_encode_are_counted(
    exported: Stack, tmp_path: Path
) -> None:
    orchestrator = Orchestrator(tmp_path / "model")
    actions = orchestrator.add_user("ada", 40)
    ports = {"context": free_port(), "crossing": free_port()}
    with exported as stack:
        pods = {
            service: stack.pod(service, tmp_path / "model", SERVER_METRICS_PORT=port)
            for service, port in ports.items()
        }
        stack.wait_until_serving()
        addresses = [pods["context"].address], [pods["crossing"].address]
        async with RankingClient(*addresses, timeout_s=20.0) as client:
            with pytest.raises(KVMissError):
                await client.score("ada", [1, 2])
            receipt = await client.encode("ada", actions)
            for _ in range(2):
                await client.score("ada", [1, 2])
            with pytest.raises(InvalidFieldError):
                await client.score("ada", [1, 2], tasks=["no such task"])
        context, crossing = scrape(ports["context"]), scrape(ports["crossing"])

    assert crossing["crosskv_requests_total", "NOT_FOUND", "ScoreCandidates"] == 1
    assert crossing["crosskv_requests_total", "INVALID_ARGUMENT", "ScoreCandidates"] == 1
    assert crossing["crosskv_requests_total", "OK", "ScoreCandidates"] == 2
    assert crossing["crosskv_request_seconds_count", "ScoreCandidates"] == 4
    assert crossing["crosskv_entry_misses_total", "absent", "ScoreCandidates"] == 1
    assert crossing["crosskv_entry_misses_total", "bad_digest", "ScoreCandidates"] == 0
    assert crossing["crosskv_batch_size_count", "crossing"] == 2
    assert crossing["crosskv_queue_depth", "crossing"] == 0
    assert crossing["crosskv_stage_seconds_count", "crossing_run"] == 2
    assert crossing["crosskv_stage_seconds_count", "crossing_queue"] == 2
    assert crossing["crosskv_stage_seconds_count", "store_get"] == 2
    assert crossing[("crosskv_crossing_resident_entries",)] == 1
    assert crossing[("crosskv_crossing_resident_bytes",)] > 0
    assert crossing[("crosskv_unknown_items_total",)] == 4

    assert context["crosskv_requests_total", "OK", "EncodeContext"] == 1
    assert context["crosskv_context_puts_total", "stored"] == 1
    assert context[("crosskv_context_entry_bytes_sum",)] == receipt.stored_bytes
    assert context[("crosskv_context_tokens_encoded_total",)] == 40

    listed = set(re.findall(r"`(crosskv_\w+)`", (ROOT / "docs" / "metrics.md").read_text()))
    suffix = r"_(bucket|count|sum|created)$"
    seen = {
        re.sub(suffix, "", name)
        for name, *_ in (*context, *crossing)
        if name.startswith("crosskv_")
    }
    assert {name.removesuffix("_total") for name in seen} == {
        name.removesuffix("_total") for name in listed
    }
