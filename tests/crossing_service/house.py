"""One tiny model with everything between a stored value and a score."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossing_service.arena import Arena, ResidentEntry
from crossing_service.candidates import CandidateReader, Candidates
from crossing_service.residency import Residency
from crossing_service.scorer import CrossingScorer
from crosskv.v1 import crossing_pb2
from kernels.histories import Pages
from shared.kv.codec import EntryCodec, EntryHeader
from shared.kv.memory import MemoryStore
from shared.model.batch import (
    CandidateTokens,
    HistoryTokens,
    PagedKV,
    action_gaps,
    bounds,
    gap_buckets,
)
from shared.model.checkpoint import Checkpoint
from shared.model.config import ItemHashConfig, ModelConfig
from shared.model.items import ItemHash, ItemList
from shared.rpc.wire import parse
from tests.tiny_model import tiny_config, tiny_item_ids, tiny_ranker

FINGERPRINT = "00112233445566778899aabbccddeeff"
FIRST_EVENT_S = 1_700_000_000


class CountedStore(MemoryStore):
    """Counts what is asked; `gate` holds answers back, `failure` takes their place.

    What is answered is read before the gate: a slow answer is an old one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gets = 0
        self.checks = 0
        self.longest = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def get(self, user: str, fingerprint: str, *, limit: int | None = None) -> bytes | None:
        self.gets += 1
        value = await self._answer(await super().get(user, fingerprint, limit=limit))
        self.longest = max(self.longest, len(value or b""))
        return value

    async def get_header(self, user: str, fingerprint: str) -> bytes | None:
        self.checks += 1
        return await self._answer(await super().get_header(user, fingerprint))

    async def _answer(self, value: bytes | None) -> bytes | None:
        failure = self.failure
        await self.gate.wait()
        if failure is not None:
            raise failure
        return value

    def corrupt(self, user: str, value: bytes) -> None:
        """Lay `value`, whatever it is, where the user's entry belongs."""
        self._values[user, FINGERPRINT] = value, float("inf")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class House:
    """`cache_pages` pages of room; every page starts as poison that no reader may see."""

    def __init__(self, *, cache_pages: int = 64, revalidate_s: float = 30.0, **form: Any) -> None:
        self.config: ModelConfig = tiny_config(**form)
        ranker = tiny_ranker(self.config)
        items = self.config.items
        index = ItemHash(items) if isinstance(items, ItemHashConfig) else ItemList(tiny_item_ids())
        self.checkpoint = Checkpoint(ranker, index, FINGERPRINT)
        self.layout = ranker.layout
        self.codec = EntryCodec(self.layout, FINGERPRINT, max_tokens=self.config.max_history)
        self.arena = Arena(
            self.layout,
            cache_bytes=cache_pages * self.layout.page_bytes,
            max_tokens=min(self.config.max_history, cache_pages * self.config.page_tokens),
            device="cpu",
        )
        self.arena.tensor.fill_(0xFF)  # rows and codes beyond their tables, slices of NaN
        self.scorer = CrossingScorer(ranker, index, self.arena)
        self.store = CountedStore()
        self.clock = Clock()
        self.residency = Residency(
            self.arena,
            self.store,
            self.codec,
            FINGERPRINT,
            revalidate_s=revalidate_s,
            clock=self.clock,
        )
        self.reader = CandidateReader(
            self.config, FINGERPRINT, max_candidates=64, now=lambda: FIRST_EVENT_S + 10**6
        )

    def value(self, user: str, tokens: int = 21, version: int = 7) -> bytes:
        """A stored value made by the model's context pass; another user, another history."""
        random = np.random.default_rng([tokens, version, *user.encode()])
        times_s = FIRST_EVENT_S + np.sort(random.integers(0, 10**6, tokens))
        rows, _ = self.checkpoint.items.rows(random.choice(tiny_item_ids(), tokens))
        history = HistoryTokens(
            torch.from_numpy(rows),
            torch.from_numpy(random.integers(0, len(self.config.action_types), tokens)),
            torch.from_numpy(random.integers(0, len(self.config.surfaces), tokens)),
            torch.from_numpy(action_gaps(times_s, None)),
            bounds([tokens]),
        )
        count = self.layout.page_count(tokens)
        payload = torch.zeros(count, self.layout.page_bytes, dtype=torch.uint8)
        pages = Pages.of(
            torch.arange(count, dtype=torch.int32)[None], [tokens], self.config.page_tokens
        )
        self.checkpoint.ranker.context_pass(history, PagedKV(payload, pages))
        header = EntryHeader(FINGERPRINT, user, tokens, int(times_s[-1]), version, 0)
        return self.codec.encode(header, payload.numpy())

    async def publish(self, user: str, tokens: int = 21, version: int = 7) -> bytes:
        value = self.value(user, tokens, version)
        entry = self.codec.decode(user, value)
        await self.store.put(entry.header, value)
        return value

    def reside(self, user: str, tokens: int = 21, version: int = 7) -> ResidentEntry:
        """Straight into the arena, without a store."""
        entry = self.codec.decode(user, self.value(user, tokens, version))
        resident = self.arena.insert(entry, self.clock())
        self.arena.unpin(resident)
        return resident

    def direct(self, value: bytes, user: str, candidates: Candidates) -> NDArray[np.float32]:
        """The model's own crossing pass over the value's payload alone, [tasks, n]."""
        entry = self.codec.decode(user, value)
        rows, _ = self.checkpoint.items.rows(candidates.item_ids)
        count = len(rows)
        gap = gap_buckets(np.array([candidates.request_time_s - entry.header.last_event_time_s]))
        surfaces = candidates.surfaces
        features = candidates.features
        tokens = CandidateTokens(
            torch.from_numpy(rows),
            torch.zeros(count, dtype=torch.int64)
            if surfaces is None
            else torch.from_numpy(surfaces.astype(np.int64)),
            torch.from_numpy(gap.repeat(count)),
            None if features is None else torch.from_numpy(features.copy()),
            bounds([count]),
        )
        pages = Pages.of(
            torch.arange(len(entry.payload), dtype=torch.int32)[None],
            [entry.header.tokens],
            self.config.page_tokens,
        )
        payload = torch.from_numpy(entry.payload.copy())
        scores = self.checkpoint.ranker.crossing_pass(tokens, PagedKV(payload, pages))
        return scores[:, list(candidates.tasks)].T.numpy()

    def candidates(self, count: int, seed: int = 0, **changes: Any) -> Candidates:
        """Every field in use; `changes` replace request fields."""
        return self.reader.read(self.request("u", count, seed, **changes))

    def request(
        self, user: str, count: int, seed: int = 0, **changes: Any
    ) -> crossing_pb2.ScoreCandidatesRequest:
        """A parsed request of random candidates, some of them unknown."""
        random = np.random.default_rng(seed)
        ids: NDArray[np.uint64] = random.choice(tiny_item_ids(), count)
        ids[1::7] ^= np.uint64(0x5555)
        fields: dict[str, Any] = {
            "user_id": user,
            "item_ids": ids,
            "surfaces": random.integers(0, len(self.config.surfaces), count),
            "features": random.normal(size=count * self.config.feature_dim),
            "request_time_s": FIRST_EVENT_S + 10**6 + 5000 * seed,
        }
        return as_parsed(crossing_pb2.ScoreCandidatesRequest(**{**fields, **changes}))


def as_parsed(
    request: crossing_pb2.ScoreCandidatesRequest,
) -> crossing_pb2.ScoreCandidatesRequest:
    """The request as a servicer receives it."""
    return parse(crossing_pb2.ScoreCandidatesRequest, request.SerializeToString())
