"""The crossing service put together: the one place that names concrete classes."""

from __future__ import annotations

import asyncio

from crossing_service.arena import Arena
from crossing_service.candidates import CandidateReader
from crossing_service.residency import Residency
from crossing_service.scorer import CrossingScorer, Scored, ScoreWork
from crossing_service.service import CrossingServicer
from crossing_service.settings import CrossingSettings
from crosskv.v1 import crossing_pb2
from shared.kv.codec import EntryCodec
from shared.kv.store import greet
from shared.kv.valkey import ValkeyStore
from shared.logs import configure_logs
from shared.model.checkpoint import load_checkpoint
from shared.model.config import DTYPES
from shared.rpc.batcher import Batcher
from shared.rpc.server import run_service, serve
from shared.settings import SettingsError, read_settings


async def serve_crossing() -> None:
    """Serve until SIGTERM."""
    server, store_settings, model, settings = read_settings(CrossingSettings)
    configure_logs("crossing", server.log_level)
    checkpoint = load_checkpoint(
        model.checkpoint, device=model.device, dtype=DTYPES[settings.dtype]
    )
    config, fingerprint = checkpoint.config, checkpoint.fingerprint
    require_room(server.max_message_bytes, settings.max_candidates, config.feature_dim)
    layout = checkpoint.ranker.layout
    arena = Arena(
        layout,
        cache_bytes=settings.cache_bytes,
        max_tokens=config.max_history,
        device=model.device,
    )
    scorer = CrossingScorer(checkpoint.ranker, checkpoint.items, arena)
    batcher: Batcher[ScoreWork, Scored] = Batcher(
        "crossing",
        scorer.score,
        cost=lambda work: work.tokens,
        max_batch_cost=settings.max_batch_tokens,
        max_queue=settings.max_queue,
    )
    store = ValkeyStore.connect(store_settings)
    codec = EntryCodec(layout, fingerprint, max_tokens=config.max_history)
    residency = Residency(arena, store, codec, fingerprint, revalidate_s=settings.revalidate_s)
    reader = CandidateReader(config, fingerprint, max_candidates=settings.max_candidates)
    servicer = CrossingServicer(checkpoint, reader, residency, batcher, settings.max_candidates)

    async def warm_up() -> None:
        await greet(store)
        await asyncio.to_thread(scorer.warm_up)

    async def stop() -> None:
        await batcher.close()
        await residency.close()
        await store.close()

    service = crossing_pb2.DESCRIPTOR.services_by_name["CrossingService"]
    await serve(servicer, service, server, ready=warm_up, stop=stop)


def require_room(max_message_bytes: int, max_candidates: int, feature_dim: int) -> None:
    """Raise SettingsError if a request of the most candidates exceeds the largest message."""
    largest = max_candidates * (8 + 4 + 4 * feature_dim) + 4096  # id, surface, features; the rest
    if largest > max_message_bytes:
        raise SettingsError(
            f"CROSSKV_SERVER_MAX_MESSAGE_BYTES: {max_message_bytes} is less than the {largest} of "
            f"{max_candidates} candidates with {feature_dim} features; raise it, or lower "
            "CROSSKV_CROSSING_MAX_CANDIDATES"
        )


def main() -> None:
    """Entry point of `python -m crossing_service`."""
    run_service(serve_crossing)
