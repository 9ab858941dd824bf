"""Appending to a history writes the same bytes as encoding all of it."""

from __future__ import annotations

from typing import Any

import pytest

from shared.model.ranker import Ranker
from tests.model.paged import (
    Actions,
    random_actions,
    scattered_pages,
    tokens_of,
    up_to,
    written_bytes,
)
from tests.tiny_model import FORMS, tiny_config, tiny_ranker

TOTAL = 130
SPLITS = [
    (1,), (15,), (16,), (17,), (32,), (64,), (113,), (127,), (128,), (129,),
    (1, 2), (15, 31), (16, 32), (33, 34), (5, 6, 7, 8, 60), tuple(range(10, 130, 10)),
]  # fmt: skip


def _encode_in_steps(
    ranker: Ranker, user: Actions, cuts: tuple[int, ...], seed: int
) -> list[bytes]:
    """The written bytes after an encode to the first cut and an append to each further one."""
    kv = scattered_pages(ranker.layout, [len(user)], seed)
    done = 0
    for cut in (*cuts, len(user)):
        before = int(user.times_s[done - 1]) if done else None
        ranker.context_pass(tokens_of([user.part(done, cut)], [before]), up_to(kv, [cut]))
        done = cut
    return written_bytes(ranker.layout, kv)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_appends_write_what_one_encode_writes(form: dict[str, Any]) -> None:
    config = tiny_config(**form)
    ranker = tiny_ranker(config, seed=3).double()
    user = random_actions(config, TOTAL, seed=4)
    whole = _encode_in_steps(ranker, user, (), seed=5)
    for cuts in SPLITS:
        assert _encode_in_steps(ranker, user, cuts, seed=sum(cuts)) == whole, cuts


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_appends_of_several_users_in_one_pass(form: dict[str, Any]) -> None:
    """Users that append, encode, and add nothing, side by side in one batch."""
    config = tiny_config(**form)
    ranker = tiny_ranker(config, seed=3).double()
    lengths, stored = [40, 17, 33, 16, 1], [39, 0, 16, 16, 0]
    users = [random_actions(config, length, seed) for seed, length in enumerate(lengths)]
    whole = scattered_pages(ranker.layout, lengths)
    ranker.context_pass(tokens_of(users, [None] * len(users)), whole)

    kv = scattered_pages(ranker.layout, lengths)
    parts = [user.part(0, count) for user, count in zip(users, stored, strict=True)]
    ranker.context_pass(tokens_of(parts, [None] * len(users)), up_to(kv, stored))
    rest = [user.part(count, len(user)) for user, count in zip(users, stored, strict=True)]
    last = [int(part.times_s[-1]) if len(part) else None for part in parts]
    ranker.context_pass(tokens_of(rest, last), kv)
    assert written_bytes(ranker.layout, kv) == written_bytes(ranker.layout, whole)


def test_the_gap_to_the_stored_actions_counts() -> None:
    """Appending as if nothing came before must differ, or the test above is blind to it."""
    config = tiny_config()
    ranker = tiny_ranker(config, seed=3).double()
    user = random_actions(config, 40, seed=4)
    written = []
    for before in (int(user.times_s[19]), None):
        kv = scattered_pages(ranker.layout, [40])
        ranker.context_pass(tokens_of([user.part(0, 20)], [None]), up_to(kv, [20]))
        ranker.context_pass(tokens_of([user.part(20, 40)], [before]), kv)
        written.append(written_bytes(ranker.layout, kv))
    assert written[0] != written[1]
