"""A run as it goes on: drawn over and over on a terminal, told line by line elsewhere."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Iterator

from rich.live import Live
from rich.text import Text

from orchestrator.hints import hints
from orchestrator.progress import METRIC, OVER, Point, Snapshot, next_step
from orchestrator.view import figures
from orchestrator.view.status import status_block
from orchestrator.view.terminal import PIPED_WIDTH, Screen, data, screen
from orchestrator.view.text import plain
from trainer.contract import Note

LEFT_FREE = 3  # rows


def show(snapshot: Snapshot, *, log_lines: int = 4) -> None:
    """The run at this moment, to stdout."""
    screen(sys.stdout, piped_width=PIPED_WIDTH).print(status_block(snapshot, log_lines=log_lines))


def follow(snapshots: Iterable[Snapshot], *, log_lines: int) -> Snapshot:
    """Show each snapshot as it comes; the last one, once there are no more. Raises ValueError for none."""
    target = screen(sys.stdout)
    last = _draw(snapshots, target, log_lines) if target.redraws else _tell(snapshots)
    if last is None:
        raise ValueError("nothing to follow")
    return last


def _draw(snapshots: Iterable[Snapshot], target: Screen, log_lines: int) -> Snapshot | None:
    """Draw on the terminal, only where something changed. The cursor comes back however this is left."""
    drawn: Text | None = None
    snapshot, shown, size = None, None, target.size
    with target.restored(), Live(console=target, auto_refresh=False, vertical_overflow="crop") as live:
        for snapshot in snapshots:
            if target.size != size:
                # A window made narrower breaks the lines on it, so what is to be drawn over cannot be found.
                live.stop()
                target.clear()
                live.start()
                drawn, shown, size = None, None, target.size
            # A page that tells seconds is another one once a second; laying it out costs more than the look.
            if (moment := _to_the_second(snapshot)) == shown:
                continue
            shown = moment
            # What is said afterwards, and the prompt, must not push the first row out of the window.
            block = status_block(snapshot, log_lines=log_lines, followed=True).fitted(
                target, size.width, size.height - LEFT_FREE
            )
            if block != drawn:
                live.update(block, refresh=True)
                drawn = block
    return snapshot


def _to_the_second(snapshot: Snapshot) -> Snapshot:
    silence = None if snapshot.silence is None else math.floor(snapshot.silence)
    return dataclasses.replace(snapshot, now=math.floor(snapshot.now), silence=silence, bill=None)


def _tell(snapshots: Iterable[Snapshot]) -> Snapshot | None:
    """Print what is new since the snapshot before, each thing once."""
    teller, snapshot = Teller(), None
    for snapshot in snapshots:
        for line in teller.tell(snapshot):
            data(plain(line))  # one line, whatever line breaks a machine put into it
    return snapshot


class Teller:
    """Remembers what was told of a run, so that nothing is told twice."""

    def __init__(self) -> None:
        self._told: set[object] = set()
        self._note: Note | None = None
        self._away = False

    def tell(self, snapshot: Snapshot) -> Iterator[str]:
        """The lines for what is new."""
        progress = snapshot.progress
        yield from self._contact(snapshot)
        if progress.attempt and self._first(("attempt", progress.attempt, progress.attempt_started)):
            yield _started(snapshot)
        if progress.dataset and self._first(("dataset", progress.dataset.t)):
            yield _dataset(snapshot)
        yield from self._notes(progress.notes)
        yield from self._epochs(snapshot)
        yield from self._worries(snapshot)
        over = snapshot.verdict.state in OVER
        if over and self._first(("over", progress.attempt, snapshot.verdict)):
            yield _ended(snapshot)
        if not (progress.attempt or over) and self._first("waiting"):
            yield f"{snapshot.run.id}: waiting for the trainer's first word"

    def _first(self, fact: object) -> bool:
        known = fact in self._told
        self._told.add(fact)
        return not known

    def _contact(self, snapshot: Snapshot) -> Iterator[str]:
        away = snapshot.silence is not None or snapshot.verdict.state == "unreachable"
        if away and not self._away:
            why = f" ({snapshot.verdict.reason})" if snapshot.verdict.reason else ""
            yield f"contact lost{why}; the run may well go on"
        if self._away and not away:
            yield "contact is back"
        self._away = away

    def _worries(self, snapshot: Snapshot) -> Iterator[str]:
        """What began to hold; once for each attempt and epoch it begins at."""
        attempt, last = snapshot.progress.attempt, snapshot.progress.last
        if snapshot.verdict.state == "stalled" and last and self._first(("stalled", attempt, last.epoch)):
            yield f"stalled: {snapshot.verdict.reason}"
        for hint in hints(snapshot.progress):
            if self._first(("hint", attempt, hint.kind)):
                yield f"{hint.kind}: {hint.text}"

    def _notes(self, notes: tuple[Note, ...]) -> Iterator[str]:
        seen = max((i for i, note in enumerate(notes) if note == self._note), default=-1)
        for note in notes[seen + 1 :]:
            yield f"{'warning' if note.level == 'warning' else 'note'}: {note.text}"
        self._note = notes[-1] if notes else self._note

    def _epochs(self, snapshot: Snapshot) -> Iterator[str]:
        best = float("-inf")
        for point in snapshot.progress.points:
            value = point.metrics.get(METRIC)
            better = value is not None and value > best
            if self._first(("epoch", point.epoch, point.at)):
                yield _epoch(snapshot, point)
                if better:
                    yield f"new best: {METRIC} {figures.number(value)} at epoch {point.epoch}"
            if better and value is not None:
                best = value


def _started(snapshot: Snapshot) -> str:
    run, progress = snapshot.run, snapshot.progress
    machine = run.machine.name if run.machine else run.where
    gpus = f" ({', '.join(progress.gpus)})" if progress.gpus else ""
    synthetic = "; SYNTHETIC data" if run.spec.synthetic else ""
    return (
        f"{run.id}: {run.spec.recipe} on {machine}{gpus}, attempt {progress.attempt}, "
        f"epochs {progress.first_epoch} to {progress.epochs}{synthetic}"
    )


def _dataset(snapshot: Snapshot) -> str:
    found = snapshot.progress.dataset
    assert found is not None  # the caller looked
    return (
        f"data: {found.used} of {found.files} clips used, {found.train} to train, {found.val} to validate; "
        f"{len(found.classes)} classes; {found.frames} × {found.dim}"
        + ("; SYNTHETIC" if found.synthetic else "")
    )


def _epoch(snapshot: Snapshot, point: Point) -> str:
    metrics = "  ".join(f"{name} {figures.number(value)}" for name, value in point.metrics.items())
    of = f" of {snapshot.progress.epochs}" if snapshot.progress.epochs else ""
    rate = "" if point.lr is None else f"  lr {figures.rate(point.lr)}"
    line = f"epoch {point.epoch}{of}  {metrics}{rate}"
    left = snapshot.progress.eta_seconds(snapshot.now)
    newest = point is snapshot.progress.last and snapshot.verdict.state == "running"
    to_go = f"; {figures.roughly(left)} to go at most" if newest and left else ""
    return f"{line}  {figures.duration(point.seconds)}{to_go}"


def _ended(snapshot: Snapshot) -> str:
    verdict, best = snapshot.verdict, snapshot.progress.best
    why = verdict.error or verdict.reason
    reason = f" ({why})" if why else ""
    found = f"; best {METRIC} {figures.number(best.metrics[METRIC])} at epoch {best.epoch}" if best else ""
    return f"{snapshot.run.id}: {verdict.state}{reason}{found}; next: {next_step(snapshot)}"
