"""Runs side by side as one page of HTML: no script, no network, every word of a machine escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.history import Known
from orchestrator.progress import METRIC
from orchestrator.view import figures
from orchestrator.view.text import plain

WIDTH, HEIGHT, MARGIN = 640, 280, 44
# Told apart in light and in dark, and by most who see few colours (Okabe and Ito, 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f", "#8c564b", "#17becf")
HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Runs compared</title>
<style>
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #8884; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
svg { max-width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
.synthetic { border: 2px solid; padding: .3rem .6rem; font-weight: bold; }
</style>
"""


def compared_page(runs: Sequence[Known], differed: Mapping[str, Sequence[Any]]) -> str:
    """The whole page."""
    return HEAD + "\n".join(_body(runs, differed)) + "\n</html>\n"


def _body(runs: Sequence[Known], differed: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    yield "<h1>Runs compared</h1>"
    if any(one.run.spec.synthetic for one in runs):
        yield '<p class="synthetic">SYNTHETIC data: the figures say nothing about real speech.</p>'
    yield _table(
        ("", "run", "recipe", "best", "at epoch", "epochs", "gap", "state"), map(_score, runs, COLOURS)
    )
    for metric in (METRIC, "val_loss"):
        yield f"<h2>{metric}</h2>"
        yield _chart([one.progress.course(metric) for one in runs])
    yield "<h2>What was asked differently</h2>"
    if differed:
        rows = ([_said(name), *map(_said, values)] for name, values in differed.items())
        yield _table(("", *(_said(one.run.id) for one in runs)), rows)
    else:
        yield "<p>Nothing.</p>"


def _score(one: Known, colour: str) -> list[str]:
    progress = one.progress
    best, last = progress.best, progress.last
    return [
        f'<svg width="14" height="14"><rect width="14" height="14" fill="{colour}"/></svg>',
        _said(one.run.id),
        _said(one.run.spec.recipe),
        figures.number(best.metrics[METRIC]) if best else "–",
        str(best.epoch) if best else "–",
        f"{last.epoch if last else 0} of {progress.epochs or one.run.spec.epochs}",
        "–" if progress.gap is None else figures.number(progress.gap),
        _said(one.state),
    ]


def _table(heads: Sequence[str], rows: Any) -> str:
    """Cells that are HTML already."""
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"


def _said(value: Any) -> str:
    return html.escape(plain(figures.said(value)))


def _chart(courses: Sequence[Sequence[float | None]]) -> str:
    known = [v for course in courses for v in course if v is not None and math.isfinite(v)]
    longest = max(map(len, courses), default=0)
    if not known or longest < 2:
        return "<p>No numbers yet.</p>"
    low, high = min(known), max(known)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">',
        f'<text x="0" y="16">{figures.number(high)}</text>',
        f'<text x="0" y="{HEIGHT - MARGIN + 4}">{figures.number(low)}</text>',
        f'<text x="{MARGIN + 8}" y="{HEIGHT - 16}">epoch 1</text>',
        f'<text x="{WIDTH}" y="{HEIGHT - 16}" text-anchor="end">{longest}</text>',
    ]
    for course, colour in zip(courses, COLOURS, strict=False):
        for piece in _pieces(course):
            points = " ".join(_point(i, v, longest, low, high) for i, v in piece)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return "\n".join([*parts, "</svg>"])


def _pieces(course: Sequence[float | None]) -> Iterator[list[tuple[int, float]]]:
    """Runs of numbers between the epochs that have none."""
    piece: list[tuple[int, float]] = []
    for i, value in enumerate([*course, None]):
        if value is not None and math.isfinite(value):
            piece.append((i, value))
        elif piece:
            yield piece
            piece = []


def _point(i: int, value: float, longest: int, low: float, high: float) -> str:
    span = high / 2 - low / 2
    share = (value / 2 - low / 2) / span if span > 0 else 0.5
    x = MARGIN + 8 + i / (longest - 1) * (WIDTH - MARGIN - 12)
    y = 12 + (1 - share) * (HEIGHT - MARGIN - 12)
    return f"{x:.1f},{y:.1f}"
