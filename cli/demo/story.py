"""One user's story: what was watched, what is ranked on top, and what was watched next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from cli.counted import counted
from training.cases import LIKED, RankingCase
from training.movielens import MovieLens, UserActions

RECENT, TOP = 10, 10
LEAST_HELD_OUT = 20  # with fewer, ten are half of the candidates


@dataclass(frozen=True)
class PastAction:
    """One action of the history."""

    title: str
    rating: int
    day: str


@dataclass(frozen=True)
class RankedItem:
    """One item of the ranking."""

    title: str
    watch: float
    like: float
    rating: int | None
    """What the user then gave it; None: not watched."""

    @property
    def outcome(self) -> str:
        """What became of it, in words."""
        if self.rating is None:
            return "not watched"
        return "watched and liked" if self.rating >= LIKED else "watched"


@dataclass(frozen=True)
class Story:
    """What is told about one user."""

    actions: UserActions
    cut: int
    """Actions in the encoded history."""
    recent: list[PastAction]
    """The last of them, newest first."""
    top: list[RankedItem]
    ranked: int
    """Candidates of the request."""
    watched: int
    """How many of them the user went on to watch."""


def typical_case(cases: Sequence[RankingCase], scores: Sequence[NDArray[np.float32]]) -> int:
    """Index of the user whose own `watch` AUC is the median; one with enough held out, if any."""
    aucs = {
        number: float(roc_auc_score(case.watch, score[0]))
        for number, (case, score) in enumerate(zip(cases, scores, strict=True))
        if case.watch.any() and not case.watch.all()
    }
    enough = [number for number in aucs if cases[number].watch.sum() >= LEAST_HELD_OUT]
    in_order = sorted(enough or aucs, key=lambda number: aucs[number])
    return in_order[len(in_order) // 2]


def make_story(data: MovieLens, case: RankingCase, scores: NDArray[np.float32]) -> Story:
    """The story of `case`'s user, `scores` [tasks, n] being those of its n candidates."""
    actions = next(one for one in data.users if one.user == case.user)
    cut = len(case.item_ids)
    given = dict(zip(actions.item_ids[cut:].tolist(), actions.ratings[cut:].tolist(), strict=True))
    order = np.argsort(-scores[0], kind="stable")[:TOP]
    return Story(
        actions,
        cut,
        [
            PastAction(data.titles[item], rating, _day(time_s))
            for item, rating, time_s in zip(
                actions.item_ids[:cut][: -RECENT - 1 : -1].tolist(),
                actions.ratings[:cut][: -RECENT - 1 : -1].tolist(),
                actions.times_s[:cut][: -RECENT - 1 : -1].tolist(),
                strict=True,
            )
        ],
        [
            RankedItem(
                data.titles[int(case.candidate_ids[at])],
                float(scores[0, at]),
                float(scores[1, at]),
                given.get(int(case.candidate_ids[at])),
            )
            for at in order
        ],
        len(case.candidate_ids),
        int(case.watch.sum()),
    )


def tell_story(story: Story, console: Console) -> None:
    """Print the story as two tables."""
    history = Table()
    history.add_column("day", style="dim")
    history.add_column("film")
    history.add_column("rating", style="yellow")
    for action in story.recent:
        history.add_row(action.day, action.title, stars(action.rating))
    ranking = Table()
    ranking.add_column("", justify="right", style="dim")
    ranking.add_column("film")
    ranking.add_column("watch", justify="right")
    ranking.add_column("like", justify="right")
    ranking.add_column("what happened then")
    for number, item in enumerate(story.top, start=1):
        outcome = f"{item.outcome} {stars(item.rating)}" if item.rating else item.outcome
        style = "green" if item.rating and item.rating >= LIKED else ""
        ranking.add_row(
            str(number), item.title, f"{item.watch:.3f}", f"{item.like:.3f}", outcome, style=style
        )
    console.print(f"\n[bold]User {story.actions.user}: {recent_title(story)}", highlight=False)
    console.print(history)
    console.print(f"[bold]{top_title(story)}", highlight=False)
    console.print(pool_sentence(story), highlight=False, soft_wrap=True)
    console.print(ranking)
    console.print(f"{hits_sentence(story)}\n", highlight=False, soft_wrap=True)


def recent_title(story: Story) -> str:
    """What stands over the last actions."""
    return f"the last {len(story.recent)} of {counted(story.cut, 'encoded action')}, newest first"


def top_title(story: Story) -> str:
    """What stands over the ranking."""
    return f"Top {len(story.top)}"


def pool_sentence(story: Story) -> str:
    """What was ranked."""
    return (
        f"{counted(story.ranked, 'film')} not rated by then, {story.watched} of them those the "
        "user went on to watch, the others never rated and drawn by popularity."
    )


def hits_sentence(story: Story) -> str:
    """How good the top is beside a blind pick."""
    watched = sum(item.rating is not None for item in story.top)
    liked = sum(item.outcome == "watched and liked" for item in story.top)
    blind = len(story.top) * story.watched / story.ranked
    return (
        f"Of the {len(story.top)} on top, the user then watched {watched} and liked {liked}; "
        f"a blind pick would hit {blind:.1f}."
    )


def stars(rating: int) -> str:
    """A rating of 1 to 5 as text."""
    return "★" * rating


def _day(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d")
