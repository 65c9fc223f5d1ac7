"""docs/results.md from rows of results: one JSON object a line, in; tables between two marks, out."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer import recipes
from trainer.scores import intervals
from trainer.scores.intervals import Intervals

BEGIN, END = "<!-- results: what follows is written by benchmarks.results -->", "<!-- end of results -->"
SPLITS = {"speaker": "speakers never heard", "clip": "clips of speakers who were heard"}
COLUMNS = (
    "recipe",
    "accuracy",
    "95 % interval",
    "UAR",
    "95 % interval",
    "folds held out",
    "spread",
    "epochs",
    "best",
    "seconds",
    "of the processor",
)
CAP = "†"

Row = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """The held-out clips of the folds that were trained, taken together."""

    n: int
    accuracy: float
    uar: float
    sure: Intervals
    each: tuple[float, ...]


def read(file: Path) -> list[Row]:
    """The rows of a file; none where there is no file."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def line(row: Row) -> str:
    """A row for people who watch."""
    found = pooled([row])
    epochs = f"{row['epochs']} epochs, " if row["epochs"] else ""
    return (
        f"{row['data']}, {row['recipe']}, by {row['split']}, fold {row['fold']} of {row['folds']}: "
        f"{found.accuracy:.3f} of {found.n} ({epochs}{row['seconds']:.0f} s)"
    )


def pooled(rows: Sequence[Row]) -> Found:
    """All held-out clips of these rows as one evaluation."""
    classes = rows[0]["classes"]
    labels, guesses, speakers = [], [], []
    for row in rows:
        for speaker, table in row["by_speaker"].items():
            for (label, guess), n in np.ndenumerate(np.array(table)):
                labels += [label] * n
                guesses += [guess] * n
                speakers += [speaker or None] * n
    said, taken = np.array(labels), np.array(guesses)
    recalls = [(taken[said == i] == i).mean() for i in np.unique(said)]
    return Found(
        n=len(said),
        accuracy=float((said == taken).mean()),
        uar=float(np.mean(recalls)),
        sure=intervals.estimate(said, taken, classes=len(classes), speakers=speakers),
        each=tuple(_accuracy(row) for row in rows),
    )


def write(page: Path, rows: list[Row]) -> None:
    """Write the tables into the page. Raises SystemExit for a page without the marks."""
    if not page.exists():
        page.write_text(f"# Results\n\n{BEGIN}\n{END}\n", encoding="utf-8")
    put_between(page, BEGIN, END, tables(rows))


def put_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what is between two marks. Raises SystemExit for a page without them."""
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ends, after = rest.partition(end)
    if not (found and ends):
        raise SystemExit(f"{page} has no line {begin!r} before a line {end!r}: there is no place to write to")
    page.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")


def tables(rows: list[Row]) -> str:
    """Each data set with its table; then what parameters that were set have changed."""
    by_data: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if not asked(row):
            by_data[row["data"], row["fingerprint"]].append(row)
    parts = [_section(those) for _, those in sorted(by_data.items())]
    return "\n".join([*parts, *_changes(rows)]) or "Nothing has been run.\n"


def asked(row: Row) -> tuple[str, ...]:
    """The parameters that were set."""
    return tuple(row.get("set", ()))


def _changes(rows: list[Row]) -> list[str]:
    """A table of every training with parameters set, below those of the same seeds without."""
    alike: dict[tuple[Any, ...], dict[tuple[str, ...], dict[int, Row]]] = defaultdict(dict)
    for row in rows:
        question = tuple(row[x] for x in ("data", "recipe", "split", "fold", "folds", "cap"))
        alike[question].setdefault(asked(row), {})[row["seed"]] = row
    lines = []
    for (data, recipe, split, fold, folds, cap), ways in sorted(alike.items()):
        if set(ways) - {()}:
            seeds = set.intersection(*(set(of) for of in ways.values()))
            for way, of in sorted(ways.items()):
                those = [of[seed] for seed in sorted(seeds)]
                told = [_mean([x["val_accuracy"] for x in those]), _mean([_accuracy(x) for x in those])]
                about = [f"`{recipe}`", data, split, f"{fold} of {folds}", f"{cap}", ", ".join(way) or "–"]
                lines.append(f"| {' | '.join([*about, str(len(those)), *told])} |")
    if not lines:
        return []
    columns = ["recipe", "data", "split", "fold", "cap", "`--set`", "seeds", "validation", "held out"]
    said = (
        "Mean accuracy over seeds, and ± its standard error: on the clips that chose the epoch, and on those "
        "that were held out. `plain Keras` pads every clip to one length, with Keras' own layers in place of "
        "ours."
    )
    head = ["## What shortcuts change", "", said, ""]
    return ["\n".join([*head, f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *lines, ""])]


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "not run"
    error = f" ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{error}"


def _section(rows: list[Row]) -> str:
    first = rows[0]
    head = [
        f"## {first['data']}",
        "",
        _sentence(rows),
        "",
    ]
    names = [r for r in dict.fromkeys(row["recipe"] for row in rows) if r not in recipes.names()]
    for split, meaning in SPLITS.items():
        those = [row for row in rows if row["split"] == split]
        head += _table(meaning, those, [*names, *recipes.names()])
    return "\n".join(head)


def _sentence(rows: list[Row]) -> str:
    first = rows[0]
    speakers = f" of {first['speakers']} speakers" if first["speakers"] else ""
    classes = f"{len(first['classes'])} classes ({', '.join(first['classes'])})"
    content = f"content `{first['fingerprint'][:12]}`"
    return f"{first['clips']:,} clips{speakers}, {classes}; {content}. Trained on {_machines(rows)}."


def _table(meaning: str, rows: list[Row], names: Sequence[str]) -> list[str]:
    if not rows:
        return [f"### On {meaning}", "", "Not run.", ""]
    lines = [
        f"### On {meaning}",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    for name in names:
        lines.append(f"| {_called(name)} | {_cells(_longest(rows, name))} |")
    rows = [row for name in names for row in _longest(rows, name)]
    trained = [row for row in rows if row["epochs"]] or rows
    drawn = {pooled([r]).sure.resampled for r in rows}
    lines += ["", _caption(trained, drawn), ""]
    return lines


def _longest(rows: list[Row], recipe: str) -> list[Row]:
    """Those of a recipe that were let train longest: shorter ones are for what shortcuts change."""
    those = [row for row in rows if row["recipe"] == recipe]
    longest = max((row["cap"] or 0 for row in those), default=0)
    return [row for row in those if (row["cap"] or 0) == longest]


def _cells(rows: list[Row]) -> str:
    if not rows:
        return " | ".join(["not run"] + ["–"] * (len(COLUMNS) - 2))
    found = pooled(rows)
    sure = found.sure.believed
    capped = CAP if any(row["capped"] for row in rows) else ""
    spread = f"±{np.std(found.each, ddof=1):.3f}" if len(rows) > 1 else "–"
    return " | ".join(
        [
            f"**{found.accuracy:.3f}**",
            _interval(sure.accuracy),
            f"{found.uar:.3f}",
            _interval(sure.uar),
            f"{_folds(rows)}, n = {found.n}",
            spread,
            _range(row["epochs"] for row in rows) + capped,
            _range(row["best_epoch"] for row in rows),
            f"{np.mean([row['seconds'] for row in rows]):.0f}",
            _processor(rows),
        ]
    )


def _processor(rows: list[Row]) -> str:
    """The mean of those of which it is known: a run that was cut short and went on is not."""
    known = [row["processor"] for row in rows if row.get("processor")]
    return f"{np.mean(known):.0f}" if known else "–"


def _folds(rows: list[Row]) -> str:
    seeds = {row["seed"] for row in rows}
    folds = sorted({row["fold"] for row in rows})
    told = f"{len(folds)} of {rows[0]['folds']}"
    return told if len(seeds) == 1 else f"{told}, {len(seeds)} seeds"


def _caption(rows: list[Row], drawn: set[str]) -> str:
    """How the clips were divided, what the intervals are of, and what the cap did."""
    caps = sorted({row["cap"] for row in rows if row["capped"]})
    trained, chose = (_range(row[side] for row in rows) for side in ("train", "val"))
    said = [f"In each run {trained} clips were trained on, {chose} chose the epoch."]
    said.append("Intervals are of whole speakers, drawn anew, where five or more were held out.")
    if "clips" in drawn and rows[0]["split"] == "speaker":
        said.append("Where fewer were, clips were drawn, and the interval is too narrow.")
    if caps:
        said.append(
            f"{CAP} cut off after {' or '.join(map(str, caps))} epochs, fewer than the recipe asks for."
        )
    return " ".join(said)


def _accuracy(row: Row) -> float:
    total = np.sum([np.array(t) for t in row["by_speaker"].values()], axis=0)
    return float(np.trace(total) / total.sum())


def _called(name: str) -> str:
    return f"`{name}`" if name in recipes.names() else name


def _machines(rows: list[Row]) -> str:
    threads = sorted({row["threads"] for row in rows if row["threads"]})
    told = (
        f", {' or '.join(map(str, threads))} {'thread' if threads == [1] else 'threads'}" if threads else ""
    )
    return " and ".join(sorted({row["machine"] for row in rows})) + told


def _interval(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.3f} to {pair[1]:.3f}"


def _range(values: Iterable[int | None]) -> str:
    found = sorted({v for v in values if v is not None})
    if not found:
        return "–"
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"
