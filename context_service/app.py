"""The context service put together: the one place that names concrete classes."""

from __future__ import annotations

import numpy as np
import torch

from context_service.encoder import ContextEncoder, Encoded, EncodeWork
from context_service.history import History
from context_service.service import ContextServicer
from context_service.settings import ContextSettings
from crosskv.v1 import context_pb2
from shared.kv.codec import EntryCodec
from shared.kv.store import greet
from shared.kv.valkey import ValkeyStore
from shared.logs import configure_logs
from shared.model.checkpoint import load_checkpoint
from shared.rpc.batcher import Batcher
from shared.rpc.deadline import Deadline
from shared.rpc.server import run_service, serve
from shared.settings import read_settings


async def serve_context() -> None:
    """Serve until SIGTERM."""
    server, store_settings, model, settings = read_settings(ContextSettings)
    configure_logs("context", server.log_level)
    # float64: see ContextEncoder
    checkpoint = load_checkpoint(model.checkpoint, device=model.device, dtype=torch.float64)
    config = checkpoint.config
    encoder = ContextEncoder(checkpoint, model.device)
    batcher: Batcher[EncodeWork, Encoded] = Batcher(
        "context",
        encoder.encode,
        cost=lambda work: work.tokens,
        max_batch_cost=settings.max_batch_tokens,
        max_queue=settings.max_queue,
    )
    store = ValkeyStore.connect(store_settings)
    codec = EntryCodec(
        checkpoint.ranker.layout, checkpoint.fingerprint, max_tokens=config.max_history
    )
    servicer = ContextServicer(checkpoint, codec, store, batcher, settings)

    async def warm_up() -> None:
        """One full page and one token more: torch's first calls cost far more than later ones."""
        await greet(store)
        tokens = min(config.page_tokens + 1, config.max_history)
        zeros = np.zeros(tokens, np.int64)
        history = History(zeros.astype(np.uint64), zeros, zeros, zeros)
        await batcher.submit(EncodeWork(history), Deadline.after(None))

    async def stop() -> None:
        await batcher.close()
        await store.close()

    service = context_pb2.DESCRIPTOR.services_by_name["ContextService"]
    await serve(servicer, service, server, ready=warm_up, stop=stop)


def main() -> None:
    """Entry point of `python -m context_service`."""
    run_service(serve_context)
