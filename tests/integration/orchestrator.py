"""The fake orchestrator: it knows users' histories, retrieves by stub, ranks by the services."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray
from safetensors.numpy import load_file

from ranking_client import Actions, RankingClient, Scores
from shared.model.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from shared.model.config import ModelConfig

NOW_S = 1_700_000_000
UNKNOWN_ITEM = np.uint64(12345)


@dataclass(frozen=True, eq=False)
class Candidates:
    """What retrieval found for one request."""

    item_ids: NDArray[np.uint64]
    request_time_s: int
    surfaces: NDArray[np.uint32] | None = None
    features: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Ranked:
    """One answered request."""

    user: str
    actions: Actions
    candidates: Candidates
    scores: Scores


class Orchestrator:
    """Users with histories of their own; everything follows from the user's name and the turn."""

    def __init__(self, checkpoint: Path) -> None:
        """Users of the catalogue of `checkpoint`, an item list."""
        self._config = ModelConfig.model_validate_json((checkpoint / CONFIG_FILE).read_bytes())
        self._items = load_file(checkpoint / WEIGHTS_FILE)["item_ids"]
        self.histories: dict[str, Actions] = {}

    def add_user(self, user: str, actions: int) -> Actions:
        """Invent a history of so many actions."""
        rng = _rng(user, -1)
        self.histories[user] = Actions(
            self._some_items(rng, actions),
            rng.integers(0, len(self._config.action_types), actions),
            NOW_S - np.sort(rng.integers(0, 10**7, actions))[::-1],
            rng.integers(0, len(self._config.surfaces), actions),
        )
        return self.histories[user]

    async def load_history(self, user: str) -> Actions:
        """What the client asks on a miss."""
        return self.histories[user]

    def retrieve(self, user: str, turn: int = 0, count: int | None = None) -> Candidates:
        """The stub of retrieval; some requests carry features and surfaces, some do not."""
        rng = _rng(user, turn)
        count = int(rng.integers(1, 40)) if count is None else count
        bare = turn % 3 == 2
        width = 0 if bare else self._config.feature_dim
        features = rng.normal(size=(count, width)).astype(np.float32)
        return Candidates(
            self._some_items(rng, count),
            NOW_S + turn * 60,
            None if bare else rng.integers(0, len(self._config.surfaces), count).astype(np.uint32),
            features if width else None,
        )

    async def rank(
        self,
        client: RankingClient,
        user: str,
        turn: int = 0,
        *,
        count: int | None = None,
        timeout_s: float = 20.0,
    ) -> Ranked:
        """Retrieve, then have the candidates scored."""
        actions, candidates = self.histories[user], self.retrieve(user, turn, count)
        scores = await client.score(
            user,
            candidates.item_ids,
            surfaces=candidates.surfaces,
            features=candidates.features,
            request_time_s=candidates.request_time_s,
            timeout_s=timeout_s,
        )
        return Ranked(user, actions, candidates, scores)

    def _some_items(self, rng: np.random.Generator, count: int) -> NDArray[np.uint64]:
        """Known ids mostly, now and then one that the model has never seen."""
        items = rng.choice(self._items, count)
        return np.where(rng.random(count) < 0.1, UNKNOWN_ITEM, items)


class Traffic:
    """Requests of many users, as long as the body of the `async with` lasts."""

    def __init__(
        self, orchestrator: Orchestrator, client: RankingClient, users: Sequence[str]
    ) -> None:
        self._orchestrator = orchestrator
        self._client = client
        self._users = users
        self.ranked: list[Ranked] = []

    async def __aenter__(self) -> Traffic:
        self._stopping = False
        self._workers = [asyncio.create_task(self._work(n)) for n in range(6)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends the traffic; raises what any request has raised."""
        self._stopping = True
        await asyncio.gather(*self._workers)

    async def more(self, count: int) -> None:
        """Return once `count` more requests have been answered, or one has failed."""
        wanted = len(self.ranked) + count
        while len(self.ranked) < wanted:
            for worker in self._workers:
                if worker.done():
                    worker.result()
            await asyncio.sleep(0.01)

    async def _work(self, number: int) -> None:
        turn = 0
        while not self._stopping:
            for user in self._users[number::6]:
                self.ranked.append(await self._orchestrator.rank(self._client, user, turn % 6))
                await asyncio.sleep(0.03)  # leaves the cores to processes that start
            turn += 1


def _rng(user: str, turn: int) -> np.random.Generator:
    return np.random.default_rng([xxhash.xxh3_64_intdigest(user.encode()), turn + 1])
