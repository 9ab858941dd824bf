"""What is ranked: one user's history at a moment, and candidates with labels for both tasks.

`watch`: is this one of the user's next items, or an item drawn by popularity that the user has not
rated? `like`: is the rating 4 or 5? That is known for the watched alone. Every candidate of a case
is asked at the same time, that of the first event after the cut, so no candidate's own time leaks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.movielens import MovieLens, UserActions

TASKS = ("watch", "like")
ACTION_TYPES = ("1", "2", "3", "4", "5")
LIKED = 4
"""The lowest rating that counts as liked."""

_VALIDATION, _TEST = 1, 2  # separate streams of random numbers


@dataclass(frozen=True)
class RankingCase:
    """One request: a history of T actions before the cut and n candidates after it."""

    user: str
    item_ids: NDArray[np.uint64]
    """[T] history, oldest first."""
    action_types: NDArray[np.int64]
    """[T] rating - 1."""
    times_s: NDArray[np.int64]
    """[T]."""
    candidate_ids: NDArray[np.uint64]
    """[n]."""
    request_time_s: int
    watch: NDArray[np.bool_]
    """[n]."""
    like: NDArray[np.bool_]
    """[n]; means something only where `watch` holds."""

    def without_history(self) -> RankingCase:
        """The same question about a user of whom nothing is known."""
        return replace(
            self,
            item_ids=self.item_ids[:0],
            action_types=self.action_types[:0],
            times_s=self.times_s[:0],
        )


class CaseSampler:
    """Cuts cases out of the data; negatives follow the items' popularity in the training parts."""

    def __init__(self, data: MovieLens, decoys: Sequence[NDArray[np.uint64]] | None = None) -> None:
        """
        Args:
            data: what cases are cut out of.
            decoys: if given, the negatives of each user's held-out parts: as many ids as these
                parts have actions, the n-th beside the n-th. None: drawn by popularity.
        """
        counts = np.zeros(len(data.item_ids), np.int64)
        for actions in data.users:
            np.add.at(
                counts, np.searchsorted(data.item_ids, actions.item_ids[: actions.train_end]), 1
            )
        self._data = data
        self._decoys = decoys
        self.popularity = counts
        """[items] ratings of each of `data.item_ids` in the training parts."""
        with np.errstate(divide="ignore"):
            self._log_popularity = np.log(counts)

    def training_cases(
        self, rng: np.random.Generator, first_cut: float, horizon: float
    ) -> list[RankingCase]:
        """A random cut in every user's training part, at `first_cut` of it or later.

        Candidates are the next actions of that part, at most the share `horizon` of it. Negatives
        are unseen in the training part: were the user's later items spared as well, that they never
        come as negatives would give them away.
        """
        cases = []
        for actions in self._data.users:
            end = actions.train_end
            if end > 1:
                cut = int(rng.integers(max(1, int(first_cut * end)), end))
                last = min(end, cut + math.ceil(horizon * end))
                negatives = self._unseen(actions.item_ids[:end], last - cut, rng)
                cases.append(self._case(actions, cut, last, negatives, rng))
        return cases

    def validation_cases(self, seed: int = 0) -> list[RankingCase]:
        """History: the training part; candidates: the validation part."""
        return self._held_out(
            [(actions.train_end, actions.validation_end) for actions in self._data.users],
            [seed, _VALIDATION],
        )

    def test_cases(self, seed: int = 0) -> list[RankingCase]:
        """History: training and validation part; candidates: the test part."""
        return self._held_out(
            [(actions.validation_end, len(actions.item_ids)) for actions in self._data.users],
            [seed, _TEST],
        )

    def _held_out(self, bounds: list[tuple[int, int]], seed: list[int]) -> list[RankingCase]:
        """A case for each user with a history and something to rank; a stream of numbers a user."""
        cases = []
        for number, (actions, (cut, end)) in enumerate(zip(self._data.users, bounds, strict=True)):
            if 0 < cut < end:
                rng = np.random.default_rng([*seed, number])
                if self._decoys is None:
                    negatives = self._unseen(actions.item_ids, end - cut, rng)
                else:
                    first = actions.train_end
                    negatives = self._decoys[number][cut - first : end - first]
                cases.append(self._case(actions, cut, end, negatives, rng))
        return cases

    def _case(
        self,
        actions: UserActions,
        cut: int,
        end: int,
        negatives: NDArray[np.uint64],
        rng: np.random.Generator,
    ) -> RankingCase:
        """The actions before `cut`; the items from `cut` to `end` against `negatives`."""
        positives = actions.item_ids[cut:end]
        order = rng.permutation(len(positives) + len(negatives))  # places tell nothing
        liked = actions.ratings[cut:end] >= LIKED
        return RankingCase(
            actions.user,
            actions.item_ids[:cut],
            actions.ratings[:cut] - 1,
            actions.times_s[:cut],
            np.concatenate((positives, negatives))[order],
            int(actions.times_s[cut]),
            (np.arange(len(order)) < len(positives))[order],
            np.concatenate((liked, np.zeros(len(negatives), np.bool_)))[order],
        )

    def _unseen(
        self, seen: NDArray[np.uint64], count: int, rng: np.random.Generator
    ) -> NDArray[np.uint64]:
        """At most `count` distinct items outside `seen`, by popularity (Gumbel top-k)."""
        keys = self._log_popularity + rng.gumbel(size=len(self.popularity))
        keys[np.searchsorted(self._data.item_ids, seen)] = -np.inf
        count = min(count, int(np.isfinite(keys).sum()))
        best = np.argpartition(-keys, count - 1)[:count] if count else np.empty(0, np.int64)
        return self._data.item_ids[best]
