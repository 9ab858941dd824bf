"""Train a ranker on events of your own and save a checkpoint (here the events are invented).

For your data replace CONFIG, `invent_log` and `features`; docs/own-model.md says more.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from shared.model.batch import CandidateTokens, HistoryTokens, action_gaps, bounds, gap_buckets
from shared.model.checkpoint import save_checkpoint
from shared.model.config import ItemHashConfig, ModelConfig
from shared.model.items import Ids, ItemHash
from shared.model.ranker import Ranker
from training.losses import router_loss

ITEMS = ItemHashConfig(rows=1_000)  # decide: hashed, or ItemListConfig where all ids are known
INDEX = ItemHash(ITEMS)
CONFIG = ModelConfig(  # decide: docs/model-config.md has every field; real data want more of most
    embed_dim=32, layers=1, heads=2, kv_heads=2, head_dim=16, ffn_dim=64,
    action_types=("view", "click", "buy"), tasks=("click", "buy"), feature_dim=1,
    items=ITEMS, max_history=256, router="tied", pool_rows=64, page_tokens=16,
)  # fmt: skip
VIEW, CLICK, BUY = range(3)
EVENTS, CANDIDATES = 60, 12  # a user's events; how many after the cut become candidates
ITEM_IDS = 7_000_000_000 + 13 * np.arange(24, dtype=np.uint64)  # any unsigned 64-bit numbers
PRICE = np.random.default_rng(1).lognormal(3.0, 1.0, 24)


class UserLog(NamedTuple):
    """What one user was shown and the strongest action on it, oldest first; arrays [events]."""

    item_ids: NDArray[Any]  # uint64
    actions: NDArray[Any]  # int64, index in CONFIG.action_types
    times_s: NDArray[Any]  # int64


def invent_log(rng: np.random.Generator) -> UserLog:
    """A user's events; read yours here."""
    shown = rng.integers(0, len(ITEM_IDS), EVENTS)
    clicked = rng.random(EVENTS) < np.where(shown % 4 == rng.integers(4), 0.8, 0.05)  # a taste
    actions = np.where(clicked & (PRICE[shown] < 20), BUY, np.where(clicked, CLICK, VIEW))
    ages_s = rng.exponential(3600, EVENTS).cumsum()[::-1].astype(np.int64)
    return UserLog(ITEM_IDS[shown], actions, int(time.time()) - ages_s)


def features(item_ids: Ids) -> NDArray[np.float32]:
    """[n, feature_dim]; centred, since a request that sends none is scored with zeros."""
    return (np.log(PRICE[np.searchsorted(ITEM_IDS, item_ids), None]) - 3).astype(np.float32)


def training_loss(ranker: Ranker, logs: list[UserLog], rng: np.random.Generator) -> torch.Tensor:
    """Cut each log: the history lies before, and nothing from after the cut may get into it."""
    cuts = rng.integers(5, EVENTS - CANDIDATES, len(logs)).tolist()  # decide: shortest history
    pairs = list(zip(logs, cuts, strict=True))
    past = [UserLog(*(column[:cut] for column in log)) for log, cut in pairs]
    shown = [UserLog(*(column[cut : cut + CANDIDATES] for column in log)) for log, cut in pairs]
    past_ids, shown_ids = (np.concatenate([log.item_ids for log in part]) for part in (past, shown))
    waited_s = np.array([b.times_s[0] - a.times_s[-1] for a, b in zip(past, shown, strict=True)])
    output = ranker(
        HistoryTokens(
            torch.from_numpy(INDEX.rows(past_ids)[0]),
            torch.from_numpy(np.concatenate([log.actions for log in past])),
            torch.zeros(len(past_ids), dtype=torch.int64),  # the only surface
            torch.from_numpy(np.concatenate([action_gaps(log.times_s, None) for log in past])),
            bounds(cuts),
        ),
        CandidateTokens(
            torch.from_numpy(INDEX.rows(shown_ids)[0]),
            torch.zeros(len(shown_ids), dtype=torch.int64),
            torch.from_numpy(np.repeat(gap_buckets(waited_s), CANDIDATES)),
            torch.from_numpy(features(shown_ids)),
            bounds([CANDIDATES] * len(logs)),
        ),
    )
    action = torch.from_numpy(np.concatenate([log.actions for log in shown]))
    labels = torch.stack([action >= CLICK, action == BUY], dim=1).float()  # decide: what counts
    loss = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, labels)
    return loss + router_loss(output.router_losses, peak_weight=0.01, balance_weight=0.01)


def main() -> None:
    """Train, save, and say what to do next."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("directory", type=Path, help="where the checkpoint goes")
    parser.add_argument("--steps", type=int, default=200, help="training steps (default 200)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    anna, *logs = [invent_log(rng) for _ in range(301)]  # anna is new to the model
    ranker = Ranker(CONFIG)
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in track(range(arguments.steps), "training"):
        optimizer.zero_grad()
        training_loss(ranker, [logs[user] for user in rng.choice(300, 32)], rng).backward()
        optimizer.step()
    fingerprint = save_checkpoint(arguments.directory, ranker.eval(), item_ids=None)
    history = arguments.directory / "history.csv"
    rows = (f"{i},{CONFIG.action_types[a]},{t}\n" for i, a, t in zip(*anna, strict=True))
    history.write_text("item_id,action,time_s\n" + "".join(rows))
    Console(highlight=False, soft_wrap=True).print(
        f"checkpoint {fingerprint}; serve it, and ask from another terminal:\n"
        f"  .venv/bin/crosskv up --checkpoint {arguments.directory}\n"
        f"  .venv/bin/crosskv encode --user anna --actions {history}\n"
        f"  .venv/bin/crosskv rank --user anna --items {','.join(map(str, ITEM_IDS[:12]))}"
    )


if __name__ == "__main__":
    main()
