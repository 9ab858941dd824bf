from __future__ import annotations

import numpy as np

from shared.model.items import ItemList
from training.cases import RankingCase
from training.tokens import candidate_tokens, history_tokens

ITEMS = ItemList(np.array([10, 20, 30], np.uint64))


def asked(item_ids: list[int], times_s: list[int], candidates: list[int]) -> RankingCase:
    return RankingCase(
        "u",
        np.array(item_ids, np.uint64),
        np.array([4, 0, 2][: len(item_ids)], np.int64),
        np.array(times_s, np.int64),
        np.array(candidates, np.uint64),
        1000,
        np.ones(len(candidates), np.bool_),
        np.ones(len(candidates), np.bool_),
    )


CASES = [asked([10, 30], [100, 800], [20, 99]), asked([], [], [30]), asked([20], [1000], [10, 20])]


def test_histories_lie_behind_each_other() -> None:
    tokens = history_tokens(CASES, ITEMS)
    assert tokens.item_rows.tolist() == [[1], [3], [2]]
    assert tokens.action_types.tolist() == [4, 0, 4]
    assert tokens.gaps.tolist() == [0, 9, 0]  # 700 s: floor(log2(701))
    assert tokens.cu_tokens.tolist() == [0, 2, 2, 3]


def test_candidates_share_their_requests_gap() -> None:
    tokens = candidate_tokens(CASES, ITEMS)
    assert tokens.item_rows.tolist() == [[2], [0], [3], [1], [2]]
    assert tokens.gaps.tolist() == [7, 7, 0, 0, 0]  # 200 s; no history; 0 s
    assert tokens.cu_candidates.tolist() == [0, 2, 3, 5]
    assert tokens.features is None
