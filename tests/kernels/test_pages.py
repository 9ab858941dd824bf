"""Where tokens lie in pages."""

from __future__ import annotations

import pytest
import torch

from kernels.histories import Pages
from tests.kernels.histories import bounds

TABLE = torch.tensor([[7, 2, -1], [-1, -1, -1], [4, 0, 9]], dtype=torch.int32)


def _naive(lengths: list[int], newest: list[int]) -> list[tuple[int, int]]:
    return [
        (int(TABLE[user, t // 4]), t % 4)
        for user, (length, new) in enumerate(zip(lengths, newest, strict=True))
        for t in range(length - new, length)
    ]


@pytest.mark.parametrize("lengths", [[8, 0, 9], [1, 0, 4], [5, 0, 12], [0, 0, 0]])
def test_every_token_has_its_slot(lengths: list[int]) -> None:
    pages = Pages.of(TABLE, lengths, 4)
    page, slot = pages.token_slots()
    assert list(zip(page.tolist(), slot.tolist(), strict=True)) == _naive(lengths, lengths)


@pytest.mark.parametrize("newest", [[8, 0, 9], [1, 0, 1], [3, 0, 5], [0, 0, 2], [0, 0, 0]])
def test_the_newest_tokens_are_the_last(newest: list[int]) -> None:
    pages = Pages.of(TABLE, [8, 0, 9], 4)
    page, slot = pages.newest_slots(bounds(newest), sum(newest))
    assert list(zip(page.tolist(), slot.tolist(), strict=True)) == _naive([8, 0, 9], newest)
    assert page.dtype == slot.dtype == torch.int64


@pytest.mark.parametrize("lengths", [[8, 0, 9], [1], [0, 0, 0], [16, 17]])
def test_contiguous_users_lie_behind_each_other(lengths: list[int]) -> None:
    pages = Pages.contiguous(lengths, 4, "cpu")
    expected, first = [], 0
    for length in lengths:
        expected += [(first + t // 4, t % 4) for t in range(length)]
        first += -(-length // 4)
    page, slot = pages.token_slots()
    assert list(zip(page.tolist(), slot.tolist(), strict=True)) == expected
    assert pages.block_table.dtype == pages.cu_history.dtype == torch.int32


@pytest.mark.parametrize("lengths", [[8, 0, 9], [1], [0, 0], []])
def test_counts_are_known_on_the_host(lengths: list[int]) -> None:
    for pages in (Pages.contiguous(lengths, 4, "cpu"), Pages.of(TABLE, lengths, 4)):
        assert pages.cu_history.tolist() == bounds(lengths).tolist()
        assert (pages.tokens, pages.longest) == (sum(lengths), max([0, *lengths]))
