"""Requests as the servicer gets them, and a servicer without a network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from context_service.encoder import ContextEncoder, Encoded, EncodeWork
from context_service.service import ContextServicer
from context_service.settings import ContextSettings
from crosskv.v1 import context_pb2
from shared.kv.codec import EntryCodec
from shared.kv.memory import MemoryStore
from shared.kv.store import KVStore
from shared.model.checkpoint import Checkpoint, load_checkpoint
from shared.model.config import ModelConfig
from shared.rpc.batcher import Batcher
from shared.rpc.deadline import Deadline
from shared.rpc.wire import parse
from tests.tiny_model import tiny_checkpoint_dir, tiny_item_ids

UNHURRIED = Deadline.after(None)
NOW_S = 1_700_000_123.456


@dataclass
class Service:
    """A servicer with its parts in reach; `call` goes through the wire form of requests."""

    servicer: ContextServicer
    checkpoint: Checkpoint
    codec: EntryCodec
    store: Any
    encoder: ContextEncoder

    async def call(self, rpc: str, deadline: Deadline = UNHURRIED, **fields: Any) -> Any:
        prefix = "ContextService" if rpc == "DescribeModel" else ""
        request = getattr(context_pb2, f"{prefix}{rpc}Request")(**fields)
        parsed = parse(type(request), request.SerializeToString())
        response = await getattr(self.servicer, rpc)(parsed, deadline)
        answer = getattr(context_pb2, f"{prefix}{rpc}Response")
        return answer.FromString(response.SerializeToString())

    async def stored(self, user: str = "ada") -> bytes | None:
        value: bytes | None = await self.store.get(user, self.checkpoint.fingerprint)
        return value

    async def payload(self, user: str = "ada") -> bytes:
        value = await self.stored(user)
        assert value is not None
        return self.codec.decode(user, value).payload.tobytes()


@asynccontextmanager
async def running_service(
    path: Path,
    config: ModelConfig,
    *,
    seed: int = 0,
    store: KVStore | None = None,
    **settings: Any,
) -> AsyncIterator[Service]:
    """A service on a tiny checkpoint and, unless told otherwise, a store of its own."""
    tiny_checkpoint_dir(path, config, seed)
    checkpoint = load_checkpoint(path, dtype=torch.float64)
    encoder = ContextEncoder(checkpoint, "cpu")
    batcher: Batcher[EncodeWork, Encoded] = Batcher(
        "context",
        encoder.encode,
        cost=lambda work: work.tokens,
        max_batch_cost=4096,
        max_queue=64,
    )
    codec = EntryCodec(
        checkpoint.ranker.layout, checkpoint.fingerprint, max_tokens=config.max_history
    )
    used = MemoryStore() if store is None else store
    servicer = ContextServicer(
        checkpoint, codec, used, batcher, ContextSettings(**settings), clock=lambda: NOW_S
    )
    try:
        yield Service(servicer, checkpoint, codec, used, encoder)
    finally:
        await batcher.close()


def actions(count: int, seed: int = 1, **fields: Any) -> context_pb2.Actions:
    """`count` random actions of the tiny model; `fields` replace whole arrays."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Sequence[int]] = {
        "item_ids": rng.choice(tiny_item_ids(), count).tolist(),
        "action_types": rng.integers(0, 3, count).tolist(),
        "surfaces": rng.integers(0, 2, count).tolist(),
        "times_s": (1000 + np.cumsum(rng.integers(0, 5000, count))).tolist(),
    }
    return context_pb2.Actions(**{**arrays, **fields})


def part(of: context_pb2.Actions, first: int, last: int | None = None) -> context_pb2.Actions:
    """Some of these actions."""
    return context_pb2.Actions(
        **{field.name: getattr(of, field.name)[first:last] for field in of.DESCRIPTOR.fields}
    )
