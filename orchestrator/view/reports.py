"""Reports to stdout: data, checks, one recipe, a plan."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len

from orchestrator.view import figures
from orchestrator.view.layout import BLANK, Item, Page
from orchestrator.view.tables import Column, classes_table, folds_table, laid_out
from orchestrator.view.terminal import paper, put
from orchestrator.view.text import clip, plain, plain_lines, words

NAMES = 5  # paths shown of each problem
ALL = 1000  # lines; a report leaves nothing out
SCORES = (("accuracy", "accuracy"), ("uar", "uar"), ("macro f1", "macro_f1"))

_CHECKS: dict[str, tuple[str, str]] = {
    "ok": ("✓ ", "bold green"),
    "warn": ("! ", "bold magenta"),
    "fail": ("✗ ", "bold red"),
}


def recipes_table(rows: Sequence[tuple[str, str, str]]) -> None:
    """Recipes: name, tag, what each is in one line."""
    width = max((cell_len(plain(name)) for name, _, _ in rows), default=0) + 2
    _print(
        lambda page: (
            page.field(plain(name), words(f"{about} [{tag}]"), lines=ALL, indent=width)
            for name, tag, about in rows
        )
    )


def recipe_page(name: str, docstring: str, params: Sequence[tuple[str, str, Any, str]]) -> None:
    """One recipe: its docstring, and what `--set` may set (name, type, default, help)."""

    def items(page: Page) -> Iterator[Item]:
        yield page.sentence((name, "bold"))
        yield from (page.sentence(line, lines=ALL) for line in _reflowed(docstring.strip()))
        for param, kind, default, about in params:
            yield BLANK
            yield page.sentence((f"{param}={default}", "bold"), f"  {kind}", lines=ALL)
            yield page.field("", words(about), lines=ALL, indent=4)

    _print(items)


def _reflowed(text: str) -> Iterator[str]:
    """Paragraphs as one line each, to be wrapped anew; what is indented or listed stays as it is."""
    for i, paragraph in enumerate(text.split("\n\n")):
        lines = plain_lines(paragraph)
        yield from [""] * (i > 0)
        yield from lines if any(line.startswith((" ", "*", "-")) for line in lines) else [" ".join(lines)]


def doctor_table(rows: Iterable[tuple[str, str, str, str]]) -> None:
    """Checks: name, ok, warn or fail, what was found, what to do."""
    rows = list(rows)
    width = max((cell_len(plain(name)) for name, _, _, _ in rows), default=0) + 2

    def items(page: Page) -> Iterator[Item]:
        for name, outcome, found, todo in rows:
            sign, style = _CHECKS[outcome]
            word = "" if outcome == "ok" else f"{outcome}: "
            label = words((sign, style), f"{plain(name):<{width}}")
            yield page.hanging(label, words((word, style), found), lines=ALL)
            if todo:
                yield page.field("", words((todo, "bold")), lines=ALL, indent=width + 2)

    _print(items)


def plan(steps: Mapping[str, Any]) -> None:
    """What would be done, by name; nested parts are indented."""
    _print(lambda page: _named(page, steps, ""))


def _named(page: Page, body: Mapping[str, Any], margin: str) -> Iterator[Item]:
    width = max((cell_len(plain(str(key))) for key in body), default=0) + 2
    for key, value in body.items():
        if isinstance(value, Mapping) and value:
            yield page.sentence(f"{margin}{key}")
            part = _alike if _are_alike(value) else _named
            yield from part(page, value, margin + "  ")
        else:
            label = words(f"{margin}{plain(str(key)):<{width}}")
            yield page.hanging(label, words((_figure(str(key), value), "bold")), lines=ALL)


def _figure(key: str, value: Any) -> str:
    """A number of bytes is said in what people count them in."""
    counted = "bytes" in key.split("_") and isinstance(value, (int, float))
    return figures.size(value) if counted else figures.said(value)


def _are_alike(parts: Mapping[str, Any]) -> bool:
    """Whether they are rows of a table: several named values, the same of each."""
    names = {tuple(part) if isinstance(part, Mapping) else () for part in parts.values()}
    return len(names) == 1 and len(names.pop()) > 1


def _alike(page: Page, parts: Mapping[str, Mapping[str, Any]], margin: str) -> Iterator[Item]:
    columns = [Column("", 0), *(Column(name, rank) for rank, name in enumerate(next(iter(parts.values()))))]
    rows = [[plain(str(name)), *map(_in_a_cell, part.values())] for name, part in parts.items()]
    lines = laid_out(columns, rows, page.width - len(margin))
    yield Item(tuple(words(margin).append_text(line) for line in lines))


def _in_a_cell(value: Any) -> str:
    """Names that begin alike, as zones of a region do, are written out once: `us-east-1a b c`."""
    if isinstance(value, (list, tuple)) and len(value) > 1:
        first, *others = map(str, value)
        start = len(os.path.commonprefix([first, *others]))  # noqa: RUF071 - characters are meant
        return " ".join([first, *(other[start:] or other for other in others)])
    return figures.said(value)


def evaluation(body: Mapping[str, Any]) -> None:
    """What `evaluate --json` says."""
    _print(lambda page: _evaluated(page, body))
    classes_table(body["per_class"], body["confusion"])


def folds(body: Mapping[str, Any]) -> None:
    """What `evaluate --folds --json` says."""
    _print(lambda page: _folds_head(page, body))
    folds_table(body["folds"])
    _print(lambda page: _folds_together(page, body))
    classes_table(body["pooled"]["per_class"], body["pooled"]["confusion"])


def _folds_head(page: Page, body: Mapping[str, Any]) -> Iterator[Item]:
    if body["synthetic"]:
        yield page.sentence(("SYNTHETIC", "bold reverse"), ": the figures say nothing about real speech")
    scored = f"{len(body['folds'])} of {body['of']} folds by {body['split']}, of {body['recipe']}"
    yield page.sentence((body["run"], "bold"), f": {scored}", lines=ALL)
    if body["missing"]:
        names = ", ".join(body["missing"])
        yield page.hanging(words(_CHECKS["warn"]), words(f"not evaluated yet: {names}"), lines=ALL)
    yield BLANK


def _folds_together(page: Page, body: Mapping[str, Any]) -> Iterator[Item]:
    pooled, sure = body["pooled"], body["pooled"]["intervals"]
    yield BLANK
    for label, key in SCORES:
        low, high = map(figures.number, sure[key])
        mean, spread = figures.number(body["mean"][key]), body["deviation"][key]
        told = f"  {low} to {high}   folds {mean}" + (f" ± {figures.number(spread)}" if spread else "")
        yield page.field(label, words((figures.number(pooled[key]), "bold"), told), lines=ALL)
    yield page.field("intervals", words(_drawn(sure)))
    yield page.field("clips", words(f"{pooled['n']:,} held out, which chose nothing"))
    yield page.field("best", words(f"{body['best']}, if only because its clips are easy"), lines=ALL)
    yield BLANK


def _drawn(sure: Mapping[str, Any]) -> str:
    what = f"{sure['speakers']} speakers" if sure["resampled"] == "speakers" else "clips"
    return f"{sure['level']:.0%}, {sure['resamples']} resamples of {what}"


def _evaluated(page: Page, body: Mapping[str, Any]) -> Iterator[Item]:
    """From the caution on top to the line above the table of classes."""
    if body["synthetic"]:
        yield page.sentence(("SYNTHETIC", "bold reverse"), ": the figures say nothing about real speech")
    yield page.sentence((body["run"], "bold"), f", epoch {body['epoch']}, on {body['data']}", lines=ALL)
    yield BLANK
    sure = body["intervals"]
    for label, key in SCORES:
        low, high = map(figures.number, sure[key])
        yield page.field(label, words((figures.number(body[key]), "bold"), f"  {low} to {high}"))
    yield page.field("intervals", words(_drawn(sure)))
    yield page.field("clips", words(_counted(body)), lines=ALL)
    if body["absent"]:
        yield page.field("absent", words(", ".join(body["absent"])), lines=ALL)
    yield page.field("speakers", words(_heard_before(body)), lines=ALL)
    # A run that was begun by an earlier ec2emo evaluates with the code of that time.
    if heard := body.get("heard_together"):
        told = f"adapted to, each heard in {heard} clips; in one alone it is understood less well"
        yield page.field(
            "voices", words(told if heard > 1 else "one clip each, too little to adapt to"), lines=ALL
        )
    yield BLANK


def _counted(body: Mapping[str, Any]) -> str:
    told = [f"{body['n']:,} evaluated"]
    told += [f"{n} of {name} left out, which the model does not know" for name, n in body["left_out"].items()]
    if body["skipped"]:
        told.append(f"{body['skipped']} files unusable")
    return ", ".join(told)


def _heard_before(body: Mapping[str, Any]) -> str:
    shared = body["speakers_shared_with_training"]
    if body["trained_on_these_data"]:
        return "these are the very data of its training: the figures say little about others"
    if shared is None:
        return "not known, here or in training"
    return f"{shared} shared with training" if shared else "none shared with training"


def data_report(report: Mapping[str, Any], *, names: int = NAMES) -> None:
    """What `data check --json` says; of each list of paths the first `names`."""
    _print(lambda page: _DataReport(page, report, names).items())


class _DataReport:
    """The items of a report on data."""

    def __init__(self, page: Page, report: Mapping[str, Any], names: int) -> None:
        self.page, self.report, self.names = page, report, names
        self.reasons = {one["path"]: one["reason"] for one in report["skipped"]}

    def items(self) -> Iterator[Item]:
        """From top to bottom."""
        report = self.report
        if report["synthetic"]:
            meaning = " data: a model trained on them knows nothing of speech"
            yield self.page.sentence(("SYNTHETIC", "bold reverse"), meaning)
        left_out = f", {len(self.reasons)} left out" if self.reasons else ""
        yield self.entry("files", f"{report['files']} found, {report['used']} used{left_out}")
        if report["used"]:
            yield self.entry("features", f"{report['key'] or 'arrays'}, {report['dim']} numbers a frame")
            yield self.entry("frames", figures.said(report["frames"]))
            if memory := report.get("memory_bytes"):
                batch = f"{figures.size(memory['batch'])} for a batch of {memory['batch_size']}"
                yield self.entry("memory", f"{figures.size(memory['clips'])} for all clips, {batch}")
            yield self.entry("speakers", self.speakers())
            yield from self.classes()
            yield self.entry("content", report["fingerprint"][:12])
            yield from self.folds()
        yield from self.problems()
        yield from self.verdict()

    def entry(self, label: str, value: str) -> Item:
        """A fact."""
        return self.page.field(label, words(value), lines=ALL)

    def speakers(self) -> str:
        """How many, the clips of each, and of how many clips they are known."""
        counts, used = self.report["speakers"], self.report["used"]
        known = sum(counts.values())
        if not known:
            return "not known"
        least, most = min(counts.values()), max(counts.values())
        each = f"{least}" if least == most else f"{least} to {most}"
        unknown = f", known for {known} of {used} clips" if known < used else ""
        return f"{len(counts)}, {each} clips each{unknown}"

    def classes(self) -> Iterator[Item]:
        """Each with its count and a bar."""
        counts = self.report["classes"]
        names = [clip(plain(name), 20) for name in counts]
        width = max(map(cell_len, names), default=0)
        most = max(counts.values(), default=0)
        digits = len(str(most))
        room = min(30, self.page.width - 10 - width - digits - 4)
        for i, (name, count) in enumerate(zip(names, counts.values(), strict=True)):
            padding = " " * (width - cell_len(name))
            drawn = figures.bar(figures.share(count, most), room)[0] if room > 0 else ""
            value = words(f"{name}{padding}  {count:>{digits}}  ", (drawn, "cyan"))
            yield self.page.field("" if i else "classes", value)

    def folds(self) -> Iterator[Item]:
        """What each would hold out, where that was asked."""
        for fold in self.report.get("folds", ()):
            speakers = f", {len(fold['speakers'])} speakers" if fold["speakers"] else ""
            counts = fold["classes"].values()
            classes = f"{len(counts)} classes of {min(counts)} to {max(counts)}"
            yield self.entry(f"fold {fold['fold']}", f"{fold['clips']} clips{speakers}, {classes}")

    def problems(self) -> Iterator[Item]:
        """What was left out and what stands in the way, each with its files."""
        problems = self.report["problems"]
        named = {path for problem in problems for path in problem["paths"]}
        others = [path for path in self.reasons if path not in named]
        if others:
            yield from self.problem(_CHECKS["warn"], (f"{len(others)} left out", ""), others)
        for problem in problems:
            fatal = problem["fatal"]
            mark, style = _CHECKS["fail" if fatal else "warn"], "red" if fatal else ""
            yield from self.problem(mark, (problem["text"], style), problem["paths"])

    def problem(self, mark: tuple[str, str], text: tuple[str, str], paths: Sequence[str]) -> Iterator[Item]:
        """One of them."""
        yield BLANK
        yield self.page.hanging(words(mark), words(text), lines=ALL)
        for path in paths[: self.names]:
            reason = f": {self.reasons[path]}" if path in self.reasons else ""
            yield self.page.field("", words((path, "bold"), reason), lines=ALL, indent=4)
        if len(paths) > self.names:
            yield self.page.field("", words(f"and {len(paths) - self.names} more"), indent=4)

    def verdict(self) -> Iterator[Item]:
        """Whether it can be trained on."""
        fatal = any(problem["fatal"] for problem in self.report["problems"])
        said = "cannot be trained on as it is" if fatal else "ready to train on"
        yield BLANK
        yield self.page.hanging(words(_CHECKS["fail" if fatal else "ok"]), words((said, "bold")), lines=ALL)


def _print(items: Callable[[Page], Iterable[Item]]) -> None:
    target = paper()
    put(target, (line for item in items(Page(target, target.width)) for line in item.lines))
