"""A new model takes over while traffic runs: every score is the old pair's or the new pair's."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from ranking_client import RankingClient
from shared.rpc.ports import free_port
from tests.integration.oracle import Oracle, assert_right
from tests.integration.orchestrator import Orchestrator, Traffic
from tests.integration.stack import Stack
from tests.tiny_model import tiny_checkpoint_dir, tiny_config

USERS = [f"user-{number}" for number in range(12)]


async def test_no_score_from_a_mixed_pair(tmp_path: Path) -> None:
    checkpoints = {}
    for seed, name in enumerate(("old", "new")):
        checkpoint = tmp_path / name
        # the same shapes: nothing but the fingerprint tells the two models' entries apart
        fingerprint = tiny_checkpoint_dir(checkpoint, tiny_config(router="tied"), seed=seed)
        checkpoints[name] = checkpoint, fingerprint
    orchestrator = Orchestrator(tmp_path / "old")
    for number, user in enumerate(USERS):
        orchestrator.add_user(user, 10 + 5 * number)
    with Stack(tmp_path) as stack:
        old = [stack.pod(service, checkpoints["old"][0]) for service in ("context", "crossing")]
        ports = [free_port(), free_port()]
        oracles = {fingerprint: Oracle(path) for path, fingerprint in checkpoints.values()}
        await asyncio.to_thread(stack.wait_until_serving)
        async with RankingClient(
            [old[0].address, f"127.0.0.1:{ports[0]}"],
            [old[1].address, f"127.0.0.1:{ports[1]}"],
            timeout_s=20.0,
            load_history=orchestrator.load_history,
        ) as client:
            async with Traffic(orchestrator, client, USERS) as traffic:
                await traffic.more(100)
                new = [
                    stack.pod(service, checkpoints["new"][0], port)
                    for service, port in zip(("context", "crossing"), ports, strict=True)
                ]
                await asyncio.to_thread(stack.wait_until_serving)
                await traffic.more(120)  # both pairs serve
                for pod in old:
                    pod.drain()
                    assert await asyncio.to_thread(pod.wait) == 0
                    await traffic.more(100)
            last = [await orchestrator.rank(client, user) for user in USERS]
        assert all(pod.running() for pod in new)
    seen = Counter(ranked.scores.model_fingerprint for ranked in traffic.ranked)
    assert min(seen[fingerprint] for _, fingerprint in checkpoints.values()) > 30, seen
    for ranked in (*traffic.ranked, *last):
        assert_right(ranked, oracles[ranked.scores.model_fingerprint], exactly=False)
    assert {r.scores.model_fingerprint for r in last} == {checkpoints["new"][1]}
