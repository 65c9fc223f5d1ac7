"""The files of a run folder, and what is asked and left in them: Spec, Attempt, Manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainer.contract.wire import VERSION, ContractError, build, load, parse_object, to_json

EVENTS = "events.jsonl"


@dataclass(frozen=True)
class RunDir:
    """Every path of a run folder; the shape is the same at home and on the machine."""

    root: Path

    @property
    def spec(self) -> Path:
        """What was asked, written before the launch and never again."""
        return self.root / "spec.json"

    @property
    def events(self) -> Path:
        """What happened, appended by the trainer alone."""
        return self.root / EVENTS

    @property
    def log(self) -> Path:
        """Stdout and stderr of the trainer, for people."""
        return self.root / "train.log"

    @property
    def exit(self) -> Path:
        """How the latest attempt's process ended, by the supervisor alone."""
        return self.root / "exit.json"

    @property
    def lock(self) -> Path:
        """Held (flock) by supervisor and trainer for as long as either lives."""
        return self.root / "lock"

    @property
    def attempts(self) -> Path:
        """`N.json` for each attempt, written by the supervisor once it holds the lock."""
        return self.root / "attempts"

    @property
    def checkpoints(self) -> Path:
        """`epoch-NNNN/` folders, each a whole state to resume from."""
        return self.root / "checkpoints"

    @property
    def artifacts(self) -> Path:
        """What comes out: `best-NNNN/` folders and the manifest."""
        return self.root / "artifacts"

    @property
    def manifest(self) -> Path:
        """The list of what may be downloaded now."""
        return self.artifacts / "manifest.json"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.root / "tensorboard"

    @property
    def packs(self) -> Path | None:
        """Beside `runs/`: each content that was trained on there, in one file. None elsewhere."""
        above = self.root.parent
        return above.parent / "packs" if above.name == "runs" else None


@dataclass(frozen=True)
class Spec:
    """What was asked. Frozen, written once; a resume adds an `Attempt` and changes nothing here.

    `data` is a folder on the machine that trains. `fingerprint` names the content of the clips found there
    (see `trainer.clips.fingerprint`); the trainer refuses other content. `split` is `speaker` (no speaker on
    both sides) or `clip`. `gpus` is `one`, or `all` of the machine's. `uid` tells two runs of the same name
    apart. Of a cross-validation this run holds out `fold` of `folds`, counted from 1. It waits for the runs
    named in `after`, on the same machine.
    """

    run: str
    recipe: str
    data: str
    fingerprint: str
    epochs: int
    batch_size: int
    params: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 42
    split: str = "speaker"
    synthetic: bool = False
    parent: str | None = None
    uid: str = ""
    fold: int | None = None
    folds: int | None = None
    after: list[str] = field(default_factory=list)
    gpus: str = "one"
    contract: str = VERSION

    @classmethod
    def read(cls, path: Path) -> Spec:
        """The spec in `path`. Raises ContractError for a larger major version or missing fields."""
        return build(cls, load(path), path.name)

    def to_json(self) -> bytes:
        """As written to `spec.json`."""
        return to_json(dataclasses.asdict(self))


@dataclass(frozen=True)
class Attempt:
    """One start of a run's trainer.

    `token` makes a launch repeatable: the same token never starts twice. `origin` is where training goes on
    from: `start`, `checkpoint` (the last whole one) or `best` (extended training at the rate `lr`).
    `more_epochs` is how many epochs this attempt may train, from where it goes on. None with origin
    `checkpoint` means those left of the plan, with origin `best` as many again as the spec asks for.
    `params` change the recipe's parameters from here on; a later attempt inherits them.
    """

    number: int
    token: str
    origin: Literal["start", "checkpoint", "best"] = "start"
    more_epochs: int | None = None
    lr: float | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    contract: str = VERSION

    @classmethod
    def latest(cls, run: RunDir) -> Attempt:
        """The attempt with the highest number. Raises ContractError when there is none."""
        numbers = sorted(int(p.stem) for p in run.attempts.glob("*.json") if p.stem.isdecimal())
        if not numbers:
            raise ContractError(f"{run.attempts} holds no attempt: the supervisor writes it before the start")
        path = run.attempts / f"{numbers[-1]}.json"
        return build(cls, load(path), path.name)

    def to_json(self) -> bytes:
        """As written to `attempts/N.json`."""
        return to_json(dataclasses.asdict(self))


@dataclass(frozen=True)
class Artifact:
    """A file that may be downloaded. `path` is relative to the run folder, `name` is what it is called at
    home; all artifacts of one `of` (`best` or `last`) are of one epoch.
    """

    of: Literal["best", "last"]
    role: str
    name: str
    path: str
    bytes: int
    sha256: str
    epoch: int


@dataclass(frozen=True)
class Manifest:
    """All that may be downloaded now, with the value that chose it."""

    run: str
    recipe: str
    metric: str
    artifacts: tuple[Artifact, ...]
    values: Mapping[str, float | None]
    synthetic: bool = False
    contract: str = VERSION

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """The manifest in `data`. Raises ContractError when it is not one."""
        body = parse_object(data, "manifest.json")
        rows = body.get("artifacts")
        if not isinstance(rows, list):
            raise ContractError("manifest.json has no list of artifacts")
        artifacts = tuple(build(Artifact, row, "manifest.json") for row in rows)
        return build(cls, {**body, "artifacts": artifacts}, "manifest.json")

    def to_json(self) -> bytes:
        """As written to `artifacts/manifest.json`."""
        return to_json(dataclasses.asdict(self))

    def of(self, which: str) -> tuple[Artifact, ...]:
        """The artifacts of `best` or `last`."""
        return tuple(a for a in self.artifacts if a.of == which)
