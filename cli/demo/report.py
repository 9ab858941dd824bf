"""`report.html`: the demo as one page that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cli.counted import counted
from cli.demo.charts import (
    TimelinePoint,
    comparison,
    histogram,
    kilobytes,
    size_bars,
    timeline,
)
from cli.demo.story import (
    LEAST_HELD_OUT,
    PastAction,
    RankedItem,
    Story,
    hits_sentence,
    pool_sentence,
    recent_title,
    stars,
    top_title,
)
from cli.demo.study import Study
from cli.demo.style import STYLE
from cli.demo.summary import Summary
from cli.demo.svg import WIDTH, bar, dot, element
from training.cases import LIKED

_SESSION_GAP_S = 6 * 3600
_TASK_QUESTIONS = {
    "watch": "Which films does the user watch next? Held-out films against as many unseen ones, "
    "drawn by popularity.",
    "like": "Which of the watched films does the user rate 4 or 5?",
}


@dataclass(frozen=True)
class ReportInput:
    """Everything the page shows."""

    summary: Summary
    story: Story
    stored_share: NDArray[np.float64]
    """[users] stored bytes of each, over those of the same history as dense bf16."""
    encode_ms: NDArray[np.float64]
    score_ms: NDArray[np.float64]
    study: Study | None
    """None: the checkpoint came without one of its own."""
    concurrency: int
    facts: Mapping[str, str]
    """What it ran on."""


def render_report(source: ReportInput) -> str:
    """The page as HTML."""
    summary = source.summary
    body = "\n".join(
        (
            _header(summary),
            _story_section(source.story),
            _quality_section(source),
            _size_section(source),
            _latency_section(source),
            _facts_section(source.facts),
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>CrossKV demo</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _header(summary: Summary) -> str:
    share = summary.stored_bytes_per_user / summary.dense_bytes_per_user
    tiles = (
        (f"{summary.users:,}", "users encoded and ranked"),
        (f"{summary.candidates:,}", "candidates scored"),
        (f"{summary.tasks['watch'].auc:.3f}", "AUC of watch, through the services"),
        (_percent(share), "of the bytes of dense bf16 keys and values, all users together"),
        (f"{summary.score_ms_p50:.1f} ms", "median score request"),
        (f"{summary.requests_per_s:,.0f} / s", "requests, encodes and scores"),
    )
    items = "".join(
        f"<li><strong>{escape(value)}</strong><span>{escape(what)}</span></li>"
        for value, what in tiles
    )
    return (
        "<header>\n<h1>Histories encoded once, candidates crossed with what was stored</h1>\n"
        '<p class="lead">MovieLens 100K through a context service, a Valkey store and a crossing '
        "service: two services that share only the store and the checkpoint. Every figure on this "
        "page was measured in one run of <code>crosskv demo</code>, except the offline study that "
        f'is marked as one.</p>\n<ul class="tiles">{items}</ul>\n</header>'
    )


def _story_section(story: Story) -> str:
    history = "".join(_history_row(action) for action in story.recent)
    ranking = "".join(_ranking_row(number, item) for number, item in enumerate(story.top, start=1))
    return _section(
        f"User {story.actions.user}",
        "The user of this run whose own watch AUC is the median, among those with at least "
        f"{LEAST_HELD_OUT} films held out if there are any. Each dot is a rating in time order; "
        "dashed lines are breaks of more than six hours.",
        _figure(timeline("Ratings in time order", _points(story), _sessions(story), story.cut)),
        _key(
            (
                ("quiet", "encoded history"),
                ("warm", "held out, rated 1 to 3"),
                ("good", "held out, rated 4 or 5"),
            )
        ),
        f"<h3>{top_title(story)}</h3>",
        f"<p>{escape(pool_sentence(story))} {escape(hits_sentence(story))}</p>",
        _table(("#", "film", "watch", "#like", "afterwards"), ranking),
        f"<h3>Before that: {recent_title(story)}</h3>",
        _table(("day", "film", "rating"), history),
    )


def _points(story: Story) -> list[TimelinePoint]:
    points = []
    for number, rating in enumerate(story.actions.ratings.tolist()):
        held_out = "good" if rating >= LIKED else "warm"
        kind = "quiet" if number < story.cut else held_out
        points.append(TimelinePoint(rating, kind, f"action {number + 1}: {rating} of 5"))
    return points


def _sessions(story: Story) -> list[tuple[int, str]]:
    times = story.actions.times_s
    starts = [0, *(np.flatnonzero(np.diff(times) > _SESSION_GAP_S) + 1).tolist()]
    return [
        (start, datetime.fromtimestamp(int(times[start]), UTC).strftime("%d %b %Y"))
        for start in starts
    ]


def _history_row(action: PastAction) -> str:
    return (
        f'<tr><td class="watched">{escape(action.day)}</td><td>{escape(action.title)}</td>'
        f"<td>{_stars(action.rating)}</td></tr>"
    )


def _ranking_row(number: int, item: RankedItem) -> str:
    outcome = f'<span class="hint">{item.outcome}</span>'
    if item.rating is not None:
        kind = "liked" if item.rating >= LIKED else "watched"
        outcome = f'<span class="{kind}">{item.outcome}</span> {_stars(item.rating)}'
    return (
        f'<tr><td class="number">{number}</td><td>{escape(item.title)}</td>'
        f'<td class="meter">{item.watch:.3f} {_meter(item.watch)}</td>'
        f'<td class="number">{item.like:.3f}</td><td class="outcome">{outcome}</td></tr>'
    )


def _stars(rating: int) -> str:
    return f'<span class="stars" role="img" aria-label="{rating} of 5">{stars(rating)}</span>'


def _meter(share: float) -> str:
    """A bar beside its number; readers of the page's text have the number."""
    drawn = bar(0, 0, WIDTH, 40, "future") + bar(0, 0, WIDTH * share, 40, "brand")
    return element(
        "svg", drawn, viewBox=f"0 0 {WIDTH} 40", aria_hidden="true", preserveAspectRatio="none"
    )


def _quality_section(source: ReportInput) -> str:
    summary = source.summary
    rows = "".join(
        f'<tr><td>{task}</td><td class="number">{figures.auc:.5f}</td>'
        f'<td class="number">{figures.offline_auc:.5f}</td>'
        f'<td class="number">{figures.gauc:.5f}</td>'
        f'<td class="number">{figures.offline_gauc:.5f}</td></tr>'
        for task, figures in summary.tasks.items()
    )
    return _section(
        "Ranking quality",
        "Scores that came over the wire must rank exactly as scores computed in one process; the "
        "demo fails if a metric differs by more than 0.0001.",
        _table(("task", "#AUC, services", "#offline", "#GAUC, services", "#offline"), rows),
        *_study_parts(source.study, summary),
    )


def _study_parts(study: Study | None, summary: Summary) -> list[str]:
    if study is None:
        return ["<p>The checkpoint came without a study of its own to compare with.</p>"]
    shuffled = ", ".join(f"{task} {auc:.3f}" for task, auc in study.shuffled_auc.items())
    parts = [
        "<h3>Compared with other models</h3>",
        "<p>Dots are the offline study that came with the checkpoint: mean over "
        f"{study.seeds} seeds on all users, bars one standard deviation. Trained in the same way: "
        "collective is the kind of model served here; dense keeps plain keys and values, so the "
        "distance to it is what the compression costs; no context sees no history. Item popularity "
        "and item mean rating are baselines that know nothing of the user.</p>",
        f"<p>The dashed line is this run: one seed, {counted(summary.users, 'user')}. Where it "
        "lies left or right of a dot, seed and users differ; how the services do on the same users "
        "is in the table above.</p>",
        "<p>A control "
        "for leaks: on items and ratings dealt out anew before the cases were cut, where there is "
        f"nothing to learn, the same model reaches an AUC of {shuffled}; 0.5 is chance.</p>",
    ]
    for task, figures in summary.tasks.items():
        parts.append(f"<h3>{task}</h3><p class='hint'>{escape(_TASK_QUESTIONS[task])}</p>")
        for metric, served in (("auc", figures.auc), ("gauc", figures.gauc)):
            estimates = study.estimates[task, metric]
            chart = comparison(
                f"Compared: {task}",
                metric.upper(),
                estimates,
                served,
                f"this run, {counted(summary.users, 'user')}",
            )
            parts.append(_figure(chart))
    return parts


def _size_section(source: ReportInput) -> str:
    summary = source.summary
    stored, dense = summary.stored_bytes_per_user, summary.dense_bytes_per_user
    bars = (("dense bf16", dense, "quiet"), ("stored", stored, "brand"))
    return _section(
        "Bytes stored for a user",
        f"Mean over {counted(summary.users, 'user')}: the stored value, header and page padding "
        f"included, takes {kilobytes(stored)} instead of the {kilobytes(dense)} of the same "
        f"history as dense bf16 keys and values: {_percent(stored / dense)} of the bytes, all "
        "users together. Header and padding weigh more on a short history: "
        f"worst user {_percent(source.stored_share.max())}, "
        f"median user {_percent(np.median(source.stored_share))}.",
        _figure(size_bars("Bytes a user", bars)),
    )


def _latency_section(source: ReportInput) -> str:
    return _section(
        "Latency",
        "Measured by the client around each call with "
        f"{counted(source.concurrency, 'request')} in flight, "
        "all processes on the machine below; waiting for others in flight and the first, cold "
        "request included. The score requests are the first after the encode, so each fetches its "
        "entry from the store.",
        "<h3>Encode: history in, entry published</h3>",
        _figure(histogram("Encode latency", source.encode_ms, "ms", "brand")),
        "<h3>Score: candidates in, scores of both tasks out</h3>",
        _figure(histogram("Score latency", source.score_ms, "ms", "warm")),
    )


def _facts_section(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in facts.items()
    )
    return _section(
        "What it ran on",
        "Figures of one machine that runs client, services and store together: they tell that "
        "it works and what it costs here, not what a cluster would do.",
        f'<div class="scroll"><table>{rows}</table></div>',
    )


def _percent(share: float | np.floating[Any]) -> str:
    return f"{100 * share:.2f} %"


def _section(title: str, lead: str, *parts: str) -> str:
    inside = "\n".join(parts)
    head = f'<h2>{escape(title)}</h2>\n<p class="lead">{escape(lead)}</p>'
    return f"<section>\n{head}\n{inside}\n</section>"


def _figure(chart: str) -> str:
    """A picture that is scrolled rather than shrunk on a narrow screen."""
    return f'<figure class="scroll">{chart}</figure>'


def _table(heads: Sequence[str], rows: str) -> str:
    """A table whose heads beginning with "#" stand over numbers."""
    cells = "".join(
        f'<th scope="col" class="number">{escape(head[1:])}</th>'
        if head.startswith("#")
        else f'<th scope="col">{escape(head)}</th>'
        for head in heads
    )
    return (
        f'<div class="scroll"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _key(entries: Sequence[tuple[str, str]]) -> str:
    items = "".join(
        "<li>"
        + element("svg", dot(6, 6, 5, kind, meaning), viewBox="0 0 12 12", aria_hidden="true")
        + f"{escape(meaning)}</li>"
        for kind, meaning in entries
    )
    return f'<ul class="key">{items}</ul>'
