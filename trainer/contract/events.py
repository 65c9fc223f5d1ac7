"""What happened, one line each: the events of `events.jsonl`, written and read."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import ClassVar, Literal, cast

from trainer.contract.wire import VERSION, check_major, fill, finite, major_of

Status = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Event:
    """One line of `events.jsonl`; `t` is seconds since the epoch by the machine's clock."""

    t: float
    type: ClassVar[str]


@dataclass(frozen=True)
class Started(Event):
    """The first line of each attempt, written before keras is imported."""

    type: ClassVar[str] = "started"
    attempt: int
    first_epoch: int
    epochs: int
    recipe: str
    contract: str = VERSION
    host: str = ""
    pid: int = 0
    gpus: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Dataset(Event):
    """What was found, used and left out, and how it was divided; `test` clips are held out as a fold."""

    type: ClassVar[str] = "dataset"
    files: int
    used: int
    skipped: int
    train: int
    val: int
    frames: int
    dim: int
    classes: list[str]
    counts: dict[str, int]
    fingerprint: str
    split: str = "clip"
    speakers: int | None = None
    shared_speakers: int | None = None
    synthetic: bool = False
    test: int = 0


@dataclass(frozen=True)
class Epoch(Event):
    """One epoch is over; `metrics` are means over it, validation ones with the prefix `val_`."""

    type: ClassVar[str] = "epoch"
    epoch: int
    metrics: dict[str, float | None]
    lr: float | None
    seconds: float


@dataclass(frozen=True)
class Saved(Event):
    """A file is there, whole, and in the manifest (role `checkpoint` is not: it lies in `checkpoints/`)."""

    type: ClassVar[str] = "saved"
    role: str
    path: str
    epoch: int
    value: float | None = None


@dataclass(frozen=True)
class Note(Event):
    """A sentence a person should see: a learning-rate step, a refused best, a warning."""

    type: ClassVar[str] = "note"
    text: str
    level: str = "info"


@dataclass(frozen=True)
class Ended(Event):
    """The trainer's last word in an attempt."""

    type: ClassVar[str] = "ended"
    status: Status
    reason: str
    best_epoch: int | None = None
    best: float | None = None


@dataclass(frozen=True)
class Unknown(Event):
    """For readers alone: a torn line, or a type of a later minor version."""

    type: ClassVar[str] = "unknown"
    line: str


AnyEvent = Started | Dataset | Epoch | Saved | Note | Ended | Unknown

_EVENTS: dict[str, type[Event]] = {c.type: c for c in (Started, Dataset, Epoch, Saved, Note, Ended)}


def encode(event: AnyEvent) -> bytes:
    """One line, newline included. Numbers that are not finite become null (rule 3 of the wire)."""
    body = {"t": event.t, "type": event.type}
    body |= {f.name: getattr(event, f.name) for f in dataclasses.fields(event) if f.name != "t"}
    return json.dumps(finite(body), ensure_ascii=True, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> AnyEvent:
    """The event a line holds; Unknown for what cannot be read, so that no reader ever dies of a line.

    Numbers that are not finite, which others may have written, are null here as well. Raises ContractError
    for a `started` of a larger major version: everything after it may mean something else.
    """
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    try:
        body = finite(json.loads(text))
        kind = _EVENTS[body["type"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return Unknown(t=0.0, line=text)
    version = body.get("contract", VERSION)
    if kind is Started and major_of(version) is None:
        return Unknown(t=0.0, line=text)
    if kind is Started:
        check_major(version, "the trainer's events")
    try:
        return cast(AnyEvent, fill(kind, body))
    except TypeError:
        return Unknown(t=0.0, line=text)
