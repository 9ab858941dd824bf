"""A world without anything to learn: the data of the control that finds leaks.

Items and ratings are dealt out anew *before* cases are cut, and training and evaluation then run as
always. So a scorer beats an AUC of 0.5 only by what the cases themselves give away; one that sees
the held-out actions does beat it.

Negatives drawn by popularity would not do here: they are drawn from what the user's own actions
leave over, so these are the more popular ones even where chance alone dealt them (popularity alone
then has an AUC of 0.51). A user's cards are therefore actions and decoys by lot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.movielens import DataError, MovieLens

_TRIES = 1000  # cards looked at for a swap


@dataclass(frozen=True)
class Deal:
    """Users with dealt actions, and items dealt to them that they never acted on."""

    data: MovieLens
    decoys: list[NDArray[np.uint64]]
    """For each user as many items as the held-out parts have actions; none is in the actions."""


def deal_anew(data: MovieLens, seed: int) -> Deal:
    """Deal all items and, on their own, all ratings among all actions.

    No user gets an item twice and every item is dealt as often as it was rated. The share of a
    user's cards that makes decoys is taken from the end of the actions, which become fewer by it.

    Raises:
        DataError: the actions leave no room to deal, as where every user rated every item.
    """
    rng = np.random.default_rng(seed)
    counts = [len(actions.item_ids) for actions in data.users]
    ends = np.cumsum(counts)[:-1]
    ratings = rng.permutation(np.concatenate([actions.ratings for actions in data.users]))
    hands = np.split(_dealt_items(data, rng), ends)
    users, decoys = [], []
    for actions, dealt_hand, marks in zip(data.users, hands, np.split(ratings, ends), strict=True):
        hand = rng.permutation(dealt_hand)
        kept = len(hand)
        while True:
            dealt = replace(
                actions,
                item_ids=hand[:kept],
                ratings=marks[:kept],
                times_s=actions.times_s[:kept],
            )
            held_out = kept - dealt.train_end
            if kept + held_out <= len(hand):
                break
            kept -= 1
        users.append(dealt)
        decoys.append(hand[kept : kept + held_out])
    return Deal(replace(data, users=users), decoys)


def _dealt_items(data: MovieLens, rng: np.random.Generator) -> NDArray[np.uint64]:
    """All actions' items shuffled; whoever holds one twice swaps it where both cards are new."""
    owners = np.repeat(np.arange(len(data.users)), [len(user.item_ids) for user in data.users])
    rated = np.concatenate([actions.item_ids for actions in data.users])
    cards = rng.permutation(np.searchsorted(data.item_ids, rated))
    held = np.zeros((len(data.users), len(data.item_ids)), np.int64)
    np.add.at(held, (owners, cards), 1)
    for place in rng.permutation(len(cards)):
        owner, card = owners[place], cards[place]
        if held[owner, card] == 1:
            continue
        others = rng.integers(len(cards), size=_TRIES)
        suits = (held[owner, cards[others]] == 0) & (held[owners[others], card] == 0)
        if not suits.any():
            raise DataError(
                f"ratings: {len(rated)} of {len(data.users)} users on {len(data.item_ids)} items "
                "are too dense to deal out anew; use data of users who left most items unrated"
            )
        other = others[suits.argmax()]
        for user, gone, come in (
            (owner, card, cards[other]),
            (owners[other], cards[other], card),
        ):
            held[user, gone] -= 1
            held[user, come] += 1
        cards[[place, other]] = cards[[other, place]]
    return data.item_ids[cards]
