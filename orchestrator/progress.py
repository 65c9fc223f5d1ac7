"""Events to Progress: a pure fold. And with what the machine says of the process, the state of the run."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.health import Health
from orchestrator.lease import Bill
from orchestrator.run import Run
from trainer.contract import AnyEvent, Dataset, Ended, Epoch, Note, Saved, Started

METRIC = "val_accuracy"
RECENT_EPOCHS = 10  # durations the ETA looks at
KEPT_NOTES = 20

STALLED_AFTER = 3  # times an epoch's usual seconds
STALLED_SECONDS = 60.0  # and no less: short epochs wait for a disk now and then

State = Literal[
    "starting",
    "running",
    "stalled",
    "finished",
    "stopped",
    "interrupted",
    "capped",
    "failed",
    "lost",
    "unreachable",
]
OVER: frozenset[State] = frozenset({"finished", "stopped", "interrupted", "capped", "failed", "lost"})
CAUSES: dict[str, State] = {"interrupted": "interrupted", "capped": "capped", "hung": "failed"}


@dataclass(frozen=True)
class Point:
    """One epoch as it is shown."""

    epoch: int
    metrics: Mapping[str, float | None]
    lr: float | None
    seconds: float
    at: float


@dataclass(frozen=True)
class Progress:
    """What the events say. For a repeated epoch the later line holds (rule 10 of the wire)."""

    attempt: int = 0
    attempt_started: float | None = None
    host: str = ""
    gpus: tuple[str, ...] = ()
    pid: int = 0
    first_epoch: int = 1
    epochs: int = 0
    dataset: Dataset | None = None
    points: tuple[Point, ...] = ()
    saved: Mapping[str, Saved] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    ended: Ended | None = None
    last_event: float | None = None
    unreadable: int = 0

    @property
    def last(self) -> Point | None:
        """The latest epoch."""
        return self.points[-1] if self.points else None

    @property
    def best(self) -> Point | None:
        """The epoch with the highest val_accuracy; of equal ones the first."""
        scored = [(v, p) for p in self.points if math.isfinite(v := _value(p))]
        return max(scored, key=lambda pair: pair[0], default=(0.0, None))[1]

    @property
    def best_value(self) -> float:
        """The highest val_accuracy; below all others where there is none."""
        return _value(self.best) if self.best else -math.inf

    def course(self, metric: str) -> list[float | None]:
        """A metric from the first epoch on, None for epochs without it."""
        values = {p.epoch: p.metrics.get(metric) for p in self.points}
        return [values.get(epoch) for epoch in range(1, (self.last.epoch if self.last else 0) + 1)]

    @property
    def seconds_per_epoch(self) -> float | None:
        """The median of the latest epochs' durations."""
        recent = [p.seconds for p in self.points[-RECENT_EPOCHS:]]
        return statistics.median(recent) if recent else None

    def eta_seconds(self, now: float) -> float | None:
        """Seconds until the last planned epoch, by the machine's clock; early stopping may come first."""
        last, each = self.last, self.seconds_per_epoch
        if last is None or each is None or self.ended:
            return None
        running_for = max(0.0, now - last.at)
        return max(0.0, (self.epochs - last.epoch) * each - min(running_for, each))

    def overdue(self, now: float) -> float | None:
        """Seconds without an epoch, by the machine's clock, where that is too long for this run; else None.

        Not before the attempt's first epoch, for nobody knows how long it takes to read the data; and not
        after the last planned one, for then the run evaluates, which takes what it takes.
        """
        last, each = self.last, self.seconds_per_epoch
        if last is None or each is None or self.ended or last.epoch >= self.epochs:
            return None
        if last.at < (self.attempt_started or 0.0):
            return None
        silent = now - last.at
        return silent if silent > max(STALLED_AFTER * each, STALLED_SECONDS) else None

    @property
    def gap(self) -> float | None:
        """Training accuracy minus validation accuracy: how far it overfits."""
        if self.last is None:
            return None
        train, val = self.last.metrics.get("accuracy"), self.last.metrics.get(METRIC)
        return None if train is None or val is None else train - val


def _value(point: Point) -> float:
    value = point.metrics.get(METRIC)
    return math.nan if value is None else value


def fold(progress: Progress, events: Iterable[AnyEvent]) -> Progress:
    """The state after more events."""
    for event in events:
        progress = _one(progress, event)
    return progress


def _one(now: Progress, event: AnyEvent) -> Progress:
    change = dataclasses.replace
    if event.t:
        now = change(now, last_event=event.t)
    match event:
        case Started():
            return change(
                now,
                attempt=event.attempt,
                attempt_started=event.t,
                host=event.host,
                gpus=tuple(event.gpus),
                pid=event.pid,
                first_epoch=event.first_epoch,
                epochs=event.epochs,
                ended=None,
            )
        case Dataset():
            return change(now, dataset=event)
        case Epoch():
            earlier = now.points
            if earlier and earlier[-1].epoch >= event.epoch:
                earlier = tuple(p for p in earlier if p.epoch < event.epoch)
            point = Point(event.epoch, event.metrics, event.lr, event.seconds, event.t)
            return change(now, points=(*earlier, point))
        case Saved():
            return change(now, saved={**now.saved, event.role: event})
        case Note():
            return change(now, notes=(*now.notes, event)[-KEPT_NOTES:])
        case Ended():
            return change(now, ended=event)
        case _:
            return change(now, unreadable=now.unreadable + 1)


@dataclass(frozen=True)
class Status:
    """What supervise.py answered: the kernel's word on the lock, and the latest attempt's exit record."""

    alive: bool
    attempt: int
    now: float
    process: Mapping[str, Any] | None = None
    exit: Mapping[str, Any] | None = None
    rebooted: bool = False
    disk_free: int | None = None
    health: Health | None = None


@dataclass(frozen=True)
class Verdict:
    """The state of a run, and why, in words."""

    state: State
    reason: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """What is known of a run at one moment: what people see, and what `monitor --json` prints.

    `now` is the machine's clock. `log` are the log's last lines as they came, not yet made safe for a
    terminal, `log_count` how many lines it has in all. `silence` is how many seconds the machine has not
    answered, None while it does. `status` is what the machine said last, also when that is a while ago.
    `bill` is what a rented machine costs. `next` is what to type next where that is not a run's.
    """

    run: Run
    progress: Progress
    verdict: Verdict
    now: float
    log: tuple[str, ...] = ()
    log_count: int = 0
    silence: float | None = None
    status: Status | None = None
    bill: Bill | None = None
    next: str | None = None


def next_step(snapshot: Snapshot) -> str:
    """What to type next."""
    if snapshot.next:
        return snapshot.next
    run = snapshot.run.id
    match snapshot.verdict.state:
        case "starting" | "running" | "stalled":
            return f"ec2emo monitor {run} --follow"
        case "finished":
            return f"ec2emo download {run} --best"
        case "unreachable":
            return f"ec2emo monitor {run}"
        case _:
            return f"ec2emo resume {run}"


def judge(progress: Progress, status: Status | None, asked: int = 0, now: float | None = None) -> Verdict:
    """Who is believed: the lock, then `ended`, then the exit record. A machine's guard that had the run
    stopped says why in the exit record, which the trainer cannot know. None for `status`: out of reach; then
    `ended` holds unless a later attempt was `asked` for. `now` is the machine's clock, that of `status`
    where nothing newer is known.
    """
    if status is None:
        if progress.ended and progress.attempt >= asked:
            return _as_ended(progress.ended)
        return Verdict("unreachable", "the machine does not answer")
    if status.alive:
        begun = progress.attempt == status.attempt and progress.attempt > 0
        if begun and progress.last and progress.overdue(status.now if now is None else now):
            each, last = progress.seconds_per_epoch, progress.last.epoch
            return Verdict("stalled", f"an epoch takes {each:.3g} s, and none has come after epoch {last}")
        return Verdict("running" if begun else "starting")
    if status.attempt == 0:
        return Verdict("starting", "not launched yet")
    ended = progress.ended if progress.attempt == status.attempt else None
    cause = str(status.exit.get("cause")) if status.exit else ""
    if status.exit and cause in CAUSES and not (ended and ended.status == "finished"):
        why = str(status.exit.get("why"))
        return Verdict(CAUSES[cause], why, why if cause == "hung" else None)
    if ended:
        return _as_ended(ended)
    if status.exit:
        return _as_exit(status.exit)
    why = "the machine was restarted" if status.rebooted else "its process is gone without an exit record"
    return Verdict("lost", why, why)


def _as_ended(ended: Ended) -> Verdict:
    return Verdict(ended.status, ended.reason, ended.reason if ended.status == "failed" else None)


def _as_exit(exit_: Mapping[str, Any]) -> Verdict:
    signal, code = exit_.get("signal"), exit_.get("code")
    if exit_.get("stopped"):
        return Verdict("stopped", "stopped when asked")
    if signal:
        memory = "; the kernel was out of memory" if exit_.get("oom") else ""
        return Verdict("failed", f"ended by {signal}{memory}", f"ended by {signal}{memory}")
    if code == 0:
        return Verdict("finished", "ended with exit code 0")
    tail = [line.strip() for line in map(str, exit_.get("tail") or ()) if line.strip()]
    said = f": {tail[-1]}" if tail else ""
    return Verdict("failed", f"exit code {code}{said}", f"exit code {code}{said}")
