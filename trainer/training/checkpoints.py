"""`checkpoints/epoch-NNNN/`: a whole state to go on from, read without keras.

A folder holds `last_TAG.weights.h5` (optimizer included), `state.json`, and the files that make the epoch's
model usable at home. The last two folders are kept, so that who downloads one has time to finish.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer import contract, folders
from trainer.contract import ContractError, RunDir

STATE = "state.json"
KEPT = 2


@dataclass(frozen=True)
class State:
    """What the model's variables do not say.

    `planned` is the last epoch that may be trained, `wait` the epochs since the best, `history` one row per
    epoch, `guard` what a resume must find unchanged (see `trainer.training.guard`),
    `files` the bytes of each file.
    """

    epoch: int
    planned: int
    attempt: int
    best_epoch: int | None
    best: float | None
    wait: int
    seed: int
    schedule: Mapping[str, Any]
    params: Mapping[str, Any]
    guard: Mapping[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    files: Mapping[str, int] = field(default_factory=dict)
    synthetic: bool = False
    contract: str = contract.VERSION


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on the disk."""

    folder: Path
    state: State

    @property
    def weights(self) -> Path:
        """The model's variables and the optimizer's."""
        return next(self.folder.glob("*.weights.h5"))


def write(run: RunDir, state: State, fill: Callable[[Path], None]) -> Checkpoint:
    """Publish the checkpoint of `state.epoch`; `fill` writes all files but `state.json`."""
    saved = state

    def whole(folder: Path) -> None:
        nonlocal saved
        fill(folder)
        saved = dataclasses.replace(state, files={f.name: f.stat().st_size for f in folder.iterdir()})
        (folder / STATE).write_bytes(contract.to_json(dataclasses.asdict(saved)))

    target = run.checkpoints / f"epoch-{state.epoch:04}"
    return Checkpoint(folders.publish(target, whole), saved)


def prune(run: RunDir) -> None:
    """Delete all but the newest ones."""
    names = sorted((p.name for p in _folders(run)), key=_number)
    folders.keep(run.checkpoints, "epoch-*", set(names[-KEPT:]))


def newest(run: RunDir) -> Checkpoint | None:
    """The last whole checkpoint, None when there is none. Damaged ones are passed over."""
    for folder in sorted(_folders(run), key=lambda p: _number(p.name), reverse=True):
        try:
            body = contract.parse_object((folder / STATE).read_bytes(), STATE)
            state: State = contract.build(State, body, STATE)
            if state.files and all((folder / n).stat().st_size == size for n, size in state.files.items()):
                return Checkpoint(folder, state)
        except (OSError, ContractError):
            continue
    return None


def _folders(run: RunDir) -> list[Path]:
    return [p for p in run.checkpoints.glob("epoch-*") if p.is_dir() and _number(p.name) > 0]


def _number(name: str) -> int:
    digits = name.removeprefix("epoch-")
    return int(digits) if digits.isdigit() else 0
