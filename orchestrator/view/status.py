"""A run at one moment, as a page of items: what is shown of it, in which words, and what matters least."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from orchestrator.hints import hints
from orchestrator.progress import METRIC, OVER, Point, Snapshot, next_step
from orchestrator.view import figures
from orchestrator.view.chart import Chart, Line, beside
from orchestrator.view.ground import NARROW, Ground
from orchestrator.view.layout import BLANK, LABEL, Item, Page, fit
from orchestrator.view.looks import LOOKS
from orchestrator.view.text import clip, plain, words

WIDE = 76  # cells; from here on two charts stand next to each other
SLIMMEST = 24  # cells; below, a chart is all label
CHART_ROWS, LOWEST, TALLEST = 6, 3, 12  # of a chart: usual, least and most
GIVES_WAY = 8  # from this rank on, what gives way to a chart
LOG_RANK = 10
NOTES = 3
LOG_LINES = 4  # shown without being asked for more
METRICS = ("loss", "val_loss", "accuracy", METRIC)

_WARNING = ("! ", "bold magenta")


@dataclass(frozen=True)
class Status:
    """A snapshot to be drawn; `followed` tells somebody who stays how to leave."""

    snapshot: Snapshot
    log_lines: int
    followed: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Whole in a pipe, and where more of the log was asked for than a window shows; else in one window.
        whole = not console.is_terminal or self.log_lines > LOG_LINES
        yield self.fitted(console, options.max_width, None if whole else console.size.height - 2)

    def fitted(self, console: Console, width: int, height: int | None) -> Text:
        """Every line within `width` cells, and `height` lines at most: the charts take what is left."""
        items = _Items(self, Page(console, width))
        above, curve, below = list(items.above()), list(items.curve()), list(items.below())
        rows = CHART_ROWS
        if height is not None:
            used = sum(len(item.lines) for item in (*above, *curve, *below) if item.rank < GIVES_WAY)
            rows = min(TALLEST, height - used - 1)  # the title is as high as the line of blocks it replaces
        drawn = rows >= LOWEST and width >= SLIMMEST
        return fit([*above, *(items.charts(rows) if drawn else curve), *below], height)


def status_block(snapshot: Snapshot, *, log_lines: int = LOG_LINES, followed: bool = False) -> Status:
    """What rich can draw: the run at that moment with the last lines of its log."""
    return Status(snapshot, log_lines, followed)


class _Items:
    """The items of a status, each part of the page by its own method."""

    def __init__(self, status: Status, page: Page) -> None:
        self.status, self.page = status, page
        self.snapshot, self.progress = status.snapshot, status.snapshot.progress
        self.state = status.snapshot.verdict.state
        self.sign, self.style = LOOKS[self.state]
        self.narrow = page.width < NARROW
        self.ground = Ground(page, self.snapshot)

    def above(self) -> Iterator[Item]:
        """From the top to the charts; without room for them, to a line of blocks."""
        yield self.head()
        yield from self.warnings()
        yield from self.outcome()
        yield from self.ground.items()
        yield BLANK
        yield from self.waiting()
        yield from self.epochs()
        yield from self.hints()

    def below(self) -> Iterator[Item]:
        """From the charts to the end."""
        yield from self.notes()
        yield from self.log()
        yield BLANK
        yield from self.next()

    def head(self) -> Item:
        """State, run, and how long the attempt has taken."""
        left, right = f"{self.sign} {self.state}  ", self.attempt()
        name = clip(plain(self.snapshot.run.id), self.page.width - len(left))
        room = self.page.width - len(left) - cell_len(name) - len(right)
        end = " " * room + right if right and room >= 2 else ""
        return Item((words((clip(left, self.page.width), self.style), (name, "bold"), end),))

    def attempt(self) -> str:
        """By the machine's clock, which alone knows when the attempt began."""
        begun = self.progress.attempt_started
        if begun is None:
            return ""
        end = self.progress.last_event if self.state in OVER else self.snapshot.now
        number = f"attempt {self.progress.attempt}, " if self.progress.attempt > 1 else ""
        return number + figures.stopwatch((end or begun) - begun)

    def warnings(self) -> Iterator[Item]:
        """What changes the meaning of all that follows."""
        dataset, silence = self.progress.dataset, self.snapshot.silence
        if self.snapshot.run.spec.synthetic or (dataset and dataset.synthetic):
            meaning = "figures mean nothing" if self.narrow else "the figures say nothing about real speech"
            yield self.page.sentence(("SYNTHETIC", "bold reverse"), f" data: {meaning}")
        if silence is not None or self.state == "unreachable":
            since = f" for {figures.duration(silence)}" if silence is not None and silence >= 1 else ""
            yield self.page.sentence(_WARNING, (f"unreachable{since}", "bold"), ", the run may well go on")
            if self.snapshot.verdict.reason:
                yield self.page.field("why", words(self.snapshot.verdict.reason), lines=3, rank=4)

    def outcome(self) -> Iterator[Item]:
        """How it ended and why, once it has."""
        verdict = self.snapshot.verdict
        if self.state not in OVER:
            return
        if verdict.error:
            yield self.page.field("error", words((verdict.error, "red")), lines=4)
        elif verdict.reason:
            yield self.page.field("ended", words(verdict.reason), lines=2 + self.narrow)

    def waiting(self) -> Iterator[Item]:
        """What is waited for: without any epoch, and when a later attempt starts."""
        if self.state in ("starting", "running") and (self.progress.last is None or self.state == "starting"):
            yield self.page.field("waiting", words(f"for {self.awaited()}"), lines=3)

    def awaited(self) -> str:
        """The next thing to be heard of."""
        progress = self.progress
        if progress.attempt == 0 or progress.ended:
            reason = self.snapshot.verdict.reason
            return "the trainer's first word" + (f" ({reason})" if reason else self.ground.silent())
        host = f" on {progress.host}" if progress.host else ""
        if progress.dataset is None:
            turn = ", ".join(self.snapshot.run.spec.after)
            first = f"its turn after {turn}, then " if turn else ""
            return f"{first}the data to be read; the trainer has started{host}"
        return f"the first epoch: {progress.dataset.train} clips{host}"

    def epochs(self) -> Iterator[Item]:
        """What training has come to."""
        last = self.progress.last
        if last is None:
            return
        yield self.done(last)
        yield from self.times(last)
        for train in ("loss", "accuracy"):
            values = f"{_metric(last, train)}  {f'val_{train}':<12}  "
            more = ("", "")
            if train == "accuracy" and self.progress.gap is not None and not self.narrow:
                more = (f"  gap {figures.number(self.progress.gap)}", "")
            if train == "loss" and not self.narrow and last.lr is not None:
                more = (f"  lr  {figures.rate(last.lr)}", "")
            validation = (_metric(last, f"val_{train}"), "bold")
            yield self.page.field(train, words(values, validation, more), rank=1)
        yield self.best(last)
        if self.narrow:
            rate = "" if last.lr is None else f"{figures.rate(last.lr)}, "
            yield self.page.field(
                "lr" if rate else "gap", words(f"{rate}gap {self.gap()}" if rate else self.gap()), rank=3
            )
        more_metrics = [f"{name} {_metric(last, name)}" for name in last.metrics if name not in METRICS]
        if more_metrics:
            yield self.page.field("also", words("  ".join(more_metrics)), rank=8)

    def gap(self) -> str:
        """How far training is ahead of validation."""
        return "none" if self.progress.gap is None else figures.number(self.progress.gap)

    def hints(self) -> Iterator[Item]:
        """What is worth a word about the figures."""
        found = hints(self.progress)
        parts: list[str | tuple[str, str]] = []
        for hint in found:
            parts += ["; " if parts else "", (hint.kind, "bold magenta"), f": {hint.text}"]
        if found:
            yield self.page.field("hint", words(*parts), lines=len(found) * (1 + self.narrow), rank=3)

    def charts(self, rows: int) -> Iterator[Item]:
        """Accuracy and loss over the epochs; where there is no room for both, accuracy."""
        points = self.progress.points
        if len(points) < 2:
            return
        best = self.progress.best
        drawn = []
        for name in ("accuracy", "loss"):
            mark = (points.index(best), "●") if best and name == "accuracy" else None
            values = [p.metrics.get(f"val_{name}") for p in points]
            validation = Line("val", values, "cyan", mark=mark)
            training = Line("train", [p.metrics.get(name) for p in points], "magenta", dotted=True)
            drawn.append(Chart(name, (validation, training)))
        if self.page.width < WIDE:
            lines = drawn[0].drawn(min(self.page.width, 60), rows)
        else:
            width = (min(self.page.width, 132) - 2) // 2
            left, right = (one.drawn(width, rows) for one in drawn)
            lines = beside(left, right, 2)
        yield Item(tuple(lines), GIVES_WAY - 1)

    def done(self, last: Point) -> Item:
        """Epoch N of M with a bar; a log without heads does not say of how many."""
        planned = self.progress.epochs or self.snapshot.run.spec.epochs
        if not planned:
            return self.page.field("epoch", words((str(last.epoch), "bold")), rank=1)
        count, part = f"{last.epoch} of {planned}", figures.share(last.epoch, planned)
        room = min(56, self.page.width - LABEL - len(count) - 7)
        filled, rest = figures.bar(part, room) if room >= 4 else ("", "")
        colour = self.style.removeprefix("bold ")
        drawn = (("  ", ""), (filled, colour), (rest, "dim"), (f" {part:>4.0%}", "")) if room >= 4 else ()
        return self.page.field("epoch", words((count, "bold"), *drawn), rank=1)

    def times(self, last: Point) -> Iterator[Item]:
        """Seconds per epoch and what is left; an epoch that is overdue."""
        each, now = self.progress.seconds_per_epoch, self.snapshot.now
        pace = f"{figures.duration(each or 0.0)} per epoch"
        left = self.progress.eta_seconds(now) if self.state in ("running", "stalled") else None
        if not each:
            pass  # a log tells whole seconds, and a short epoch has none
        elif left is None:
            yield self.page.field("time", words(pace), rank=4)
        elif last.epoch >= self.progress.epochs:
            yield self.page.field("time", words(f"{pace}, the last one is done"), rank=2)
        else:
            here = time.time()
            end = (f"{figures.clock(here + left, here)} at the latest", "bold")
            yield self.page.field("time", words(f"{pace}, {figures.roughly(left)} to go: ", end), rank=2)
        overdue = self.progress.overdue(now) if self.state in ("running", "stalled") else None
        if overdue is not None:
            late = (f"no epoch for {figures.duration(overdue)}", "bold")
            yield self.page.field("", words(_WARNING, late, self.ground.heartbeat()), rank=2)

    def best(self, last: Point) -> Item:
        """The highest val_accuracy, and how long nothing was better."""
        best = self.progress.best
        if best is None:
            return self.page.field("best", words(f"none, {METRIC} was never a number"), rank=1)
        since = last.epoch - best.epoch
        unit = "" if self.narrow else " epoch" if since == 1 else " epochs"
        ago = f"{since}{unit} ago" if since else "just now"
        return self.page.field(
            "best", words((_metric(best, METRIC), "bold green"), f" at epoch {best.epoch}, {ago}"), rank=1
        )

    def curve(self) -> Iterator[Item]:
        """All epochs' val_accuracy."""
        values = [p.metrics.get(METRIC) for p in self.progress.points]
        drawn = figures.curve(values, min(56, self.page.width - LABEL - 13))
        if drawn is not None and len(values) > 1:
            text = words((drawn.blocks, "cyan"), f"  {drawn.low:.3f}–{drawn.high:.3f}")
            yield self.page.field("curve", text, lines=1, rank=2)

    def notes(self) -> Iterator[Item]:
        """What the trainer wants to be seen; the latest stay longest."""
        latest = self.progress.notes[-NOTES:]
        if latest:
            yield BLANK
        for age, note in reversed(list(enumerate(reversed(latest)))):
            mark = _WARNING if note.level == "warning" else "• "
            yield self.page.sentence(mark, note.text, rank=9 + age if age else 5)

    def log(self) -> Iterator[Item]:
        """The log's last lines; the latest stay longest."""
        said = [line for line in map(_as_printed, self.snapshot.log) if line.strip()]
        latest = said[-self.status.log_lines :] if self.status.log_lines > 0 else []
        if latest:
            yield BLANK
        for age, line in reversed(list(enumerate(reversed(latest)))):
            rank = LOG_RANK + 2 * age if age < 2 else 20 + age
            text = words(clip(line, self.page.width - 2))  # the beginning, without a break at a word
            yield self.page.hanging(words(("│ ", "dim")), text, lines=1, rank=rank)

    def next(self) -> Iterator[Item]:
        """What to type; when following, how to leave."""
        command = next_step(self.snapshot)
        leave = "Ctrl-C leaves it running; come back with "
        if not self.status.followed or self.state in OVER:
            if LABEL + cell_len(plain(command)) <= self.page.width:
                yield self.page.field("next", words((command, "bold")), rank=1)
                return
        elif len(leave) + cell_len(plain(command)) <= self.page.width:
            yield self.page.sentence(leave, (command, "bold"), rank=1)
            return
        else:
            yield self.page.sentence(leave.rstrip(), rank=2)
        yield self.page.sentence((command, "bold"), lines=3, rank=1)


def _metric(point: Point, name: str) -> str:
    """A metric's value, as wide as the others, so that columns stand."""
    return f"{figures.number(point.metrics[name]) if name in point.metrics else 'none':<6}"


def _as_printed(line: str) -> str:
    """A progress bar returns the carriage and prints itself again: what was printed last is what counts."""
    parts = [part for part in line.rstrip("\r\n").split("\r") if part.strip()]
    return plain(parts[-1]) if parts else ""
