"""Runs side by side, to stdout: a table, what was asked differently, and their curves over each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from orchestrator.history import Known
from orchestrator.progress import METRIC
from orchestrator.view import figures
from orchestrator.view.chart import Chart, Line
from orchestrator.view.tables import Column, laid_out
from orchestrator.view.terminal import paper, put
from orchestrator.view.text import clip, words

ROWS = 12
WIDEST = 110
NAME = 16  # cells of a name in the legend
# Told apart by the digit of the mark; the colours only help. None that half the themes hide.
STYLES = (
    "cyan",
    "magenta",
    "green",
    "blue",
    "red",
    "bright_cyan",
    "bright_magenta",
    "bright_green",
    "bright_blue",
)

Differed = Mapping[str, Sequence[Any]]


def compared(runs: Sequence[Known], differed: Differed) -> None:
    """The best first, as they come."""
    target = paper()
    put(target, lines(runs, differed, target.width, min(target.width, WIDEST)))


def lines(runs: Sequence[Known], differed: Differed, room: int, chart: int) -> list[Text]:
    """The tables in so many cells, and the curves in so many."""
    made = []
    if any(one.run.spec.synthetic for one in runs):
        made += [words(("SYNTHETIC", "bold reverse"), " data: the figures say nothing about real speech")]
    return [*made, *_scores(runs, room), words(), *_differences(runs, differed, room), *_curves(runs, chart)]


def _scores(runs: Sequence[Known], room: int) -> list[Text]:
    columns = [
        Column("#"),
        Column("run"),
        Column("best", right=True),
        Column("at", 2, right=True),
        Column("epochs", 3, right=True),
        Column("gap", 4, right=True),
        Column("per epoch", 5, right=True),
        Column("state", 4),
        Column("recipe", 6),
    ]
    return laid_out(columns, [_score(i, one) for i, one in enumerate(runs, 1)], room)


def _score(i: int, one: Known) -> list[str]:
    progress = one.progress
    best, last, each = progress.best, progress.last, progress.seconds_per_epoch
    return [
        str(i),
        one.run.id,
        figures.number(best.metrics[METRIC]) if best else "-",
        str(best.epoch) if best else "-",
        f"{last.epoch if last else 0} of {progress.epochs or one.run.spec.epochs}",
        "-" if progress.gap is None else figures.number(progress.gap),
        "-" if each is None else figures.duration(each),
        one.state,
        one.run.spec.recipe,
    ]


def _differences(runs: Sequence[Known], differed: Differed, room: int) -> list[Text]:
    if not differed:
        return [words("asked alike: they differ in nothing but their names")]
    columns = [Column("differs"), *(Column(f"#{i}") for i, _ in enumerate(runs, 1))]
    rows = [[name, *("-" if v is None else _short(v) for v in values)] for name, values in differed.items()]
    return laid_out(columns, rows, room)


def _short(value: Any) -> str:
    return clip(figures.said(value), 24)


def _curves(runs: Sequence[Known], width: int) -> Iterator[Text]:
    courses = [one.progress.course(METRIC) for one in runs]
    longest = max(map(len, courses))
    if longest < 2:
        return
    drawn = []
    for i, (one, course) in enumerate(zip(runs, courses, strict=True)):
        best = one.progress.best
        mark = (best.epoch - 1, str(i + 1)) if best else None
        padded = course + [None] * (longest - len(course))
        drawn.append(Line(clip(one.run.id, NAME), padded, STYLES[i], mark=mark))
    yield words()
    yield from Chart(METRIC, tuple(drawn)).drawn(width, ROWS)
    right = f"epoch {longest}"
    yield words(f"{'':7}1{right:>{max(0, width - 8)}}")
