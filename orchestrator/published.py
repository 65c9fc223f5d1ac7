"""What programs are told: the objects of `monitor --json`, from whose types the schema in docs/ is made.

Fields are added, never renamed or taken away: `schema` says which edition of the page was followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Literal, TypedDict, cast

from orchestrator.errors import Ec2emoError
from orchestrator.hints import Kind, hints
from orchestrator.progress import METRIC, OVER, Snapshot, State, next_step
from orchestrator.run import describe

SCHEMA: Literal[1] = 1
# What ticks, or is measured every time: a line of its own each time would tell nobody anything.
TICKING = frozenset({"eta_seconds", "overdue_seconds", "silence_seconds", "gpus", "disk_free", "cost_usd"})


class Best(TypedDict):
    """The epoch with the highest val_accuracy; of equal ones the first."""

    epoch: int
    val_accuracy: float | None


class Hinted(TypedDict):
    """What is worth a word about the figures."""

    kind: Kind
    text: str


class Graphics(TypedDict):
    """One GPU: percent, bytes, °C, W; null is what it does not tell."""

    name: str
    use: float | None
    memory_used: int | None
    memory_total: int | None
    temperature: float | None
    power: float | None
    power_limit: float | None


class Answer(TypedDict):
    """A run at one moment. Seconds by the machine's clock; numbers that are not finite are null."""

    schema: Literal[1]
    run: str
    recipe: str | None
    machine: str
    state: State
    attempt: int
    epoch: int
    epochs: int
    metrics: Mapping[str, float | None]
    best: Best | None
    lr: float | None
    seconds_per_epoch: float | None
    eta_seconds: float | None
    overdue_seconds: float | None
    silence_seconds: float | None
    gpus: list[Graphics] | None
    disk_free: int | None
    hints: list[Hinted]
    cost_usd: float | None
    synthetic: bool
    reason: str | None
    error: str | None
    next: str


class Fitted(TypedDict):
    """One fit of a log; `last_epoch` is the last that began."""

    epochs: int | None
    last_epoch: int
    last_whole_epoch: int | None
    best: Best | None
    status: str


class LogAnswer(Answer):
    """A log that ec2emo did not start: its last fit as a run, which has no recipe, and all fits."""

    log_file: str
    fits: list[Fitted]


class Failure(TypedDict):
    """What went wrong before anything was known of a run; `exit_code` is that of the table."""

    schema: Literal[1]
    run: str | None
    error: str
    exit_code: int


def answer(snapshot: Snapshot) -> Answer:
    """The object `monitor --json` prints."""
    progress, verdict, status = snapshot.progress, snapshot.verdict, snapshot.status
    last, best = progress.last, progress.best
    live = verdict.state not in OVER
    health = status.health if status else None
    named = describe(snapshot.run)
    return {
        "schema": SCHEMA,
        "run": named["run"],
        "recipe": named["recipe"],
        "machine": named["machine"],
        "state": verdict.state,
        "attempt": progress.attempt,
        "epoch": last.epoch if last else 0,
        "epochs": progress.epochs or snapshot.run.spec.epochs,
        "metrics": dict(last.metrics) if last else {},
        "best": {"epoch": best.epoch, "val_accuracy": best.metrics[METRIC]} if best else None,
        "lr": last.lr if last else None,
        "seconds_per_epoch": progress.seconds_per_epoch,
        "eta_seconds": progress.eta_seconds(snapshot.now) if live else None,
        "overdue_seconds": progress.overdue(snapshot.now) if live else None,
        "silence_seconds": snapshot.silence,
        "gpus": [cast(Graphics, asdict(gpu)) for gpu in health.gpus] if health else None,
        "disk_free": status.disk_free if status else None,
        "hints": [{"kind": hint.kind, "text": hint.text} for hint in hints(progress)],
        "cost_usd": snapshot.bill.usd if snapshot.bill else None,
        "synthetic": snapshot.run.spec.synthetic,
        "reason": verdict.reason,
        "error": verdict.error,
        "next": next_step(snapshot),
    }


def failure(error: Ec2emoError) -> Failure:
    """The object in the place of an answer."""
    return {"schema": SCHEMA, "run": error.run, "error": str(error), "exit_code": error.exit_code}
