"""Where an attempt begins: from nothing, from the last checkpoint, or from the best model so far.

Standard library only, because `started` says it before keras is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer import contract
from trainer.contract import Attempt, ContractError, Manifest, RunDir, Spec
from trainer.training import checkpoints
from trainer.training.checkpoints import Checkpoint, State
from trainer.training.stopping import RunFailed


class ResumeError(RunFailed):
    """A run that cannot go on as asked: one sentence saying why, and what to do."""


@dataclass(frozen=True)
class Best:
    """The best model so far, as published."""

    epoch: int
    value: float
    weights: Path


@dataclass(frozen=True)
class Beginning:
    """Epochs `first_epoch` to `epochs` are to be trained, from `weights` (None: from the seed).

    `state` is that of the newest checkpoint; `extended` means the best model's weights at the rate `lr`.
    """

    attempt: int
    first_epoch: int
    epochs: int
    params: Mapping[str, Any]
    weights: Path | None = None
    state: State | None = None
    best: Best | None = None
    lr: float | None = None

    @property
    def extended(self) -> bool:
        """Whether this is extended training from the best model."""
        return self.lr is not None


def begin(run: RunDir, spec: Spec, attempt: Attempt) -> Beginning:
    """Where `attempt` begins. Raises ResumeError, or ContractError for files it cannot read."""
    last, best = checkpoints.newest(run), best_of(run)
    asked = _asked(run, attempt, last)
    if asked.origin == "start":
        if last is not None:
            raise ResumeError(f"{spec.run} has trained {last.state.epoch} epochs already: resume it instead")
        return _fresh(spec, attempt, best)
    if asked.origin == "best":
        return _from_best(spec, attempt, asked, last, best)
    if last is None:
        return _fresh(spec, attempt, best)
    planned = last.state.planned if asked.more_epochs is None else last.state.epoch + asked.more_epochs
    return Beginning(
        attempt=attempt.number,
        first_epoch=last.state.epoch + 1,
        epochs=planned,
        params={**last.state.params, **attempt.params},
        weights=last.weights,
        state=last.state if asked.more_epochs is None else replace(last.state, wait=0),
        best=best,
    )


def best_of(run: RunDir) -> Best | None:
    """The best model as the manifest has it: what is published is what counts."""
    if not run.manifest.exists():
        return None
    manifest = Manifest.parse(run.manifest.read_bytes())
    value = manifest.values.get("best")
    found = [a for a in manifest.of("best") if a.role == "weights"]
    if value is None or not found:
        return None
    path = run.root / found[0].path
    if not path.exists():
        raise ContractError(f"{found[0].path} is in the manifest and not there: bring it back, or start anew")
    return Best(found[0].epoch, float(value), path)


def _asked(run: RunDir, attempt: Attempt, last: Checkpoint | None) -> Attempt:
    """The attempt to do: one that goes on from a checkpoint first takes up what was cut short before its own.

    Extended training that was killed before its first checkpoint would otherwise be forgotten.
    """
    if attempt.origin != "checkpoint" or attempt.more_epochs is not None:
        return attempt
    for number in range(attempt.number - 1, last.state.attempt if last else 0, -1):
        path = run.attempts / f"{number}.json"
        if path.exists():
            body = contract.parse_object(path.read_bytes(), path.name)
            before: Attempt = contract.build(Attempt, body, path.name)
            if before.origin == "best" or before.more_epochs is not None:
                return replace(before, params={**before.params, **attempt.params})
    return attempt


def _fresh(spec: Spec, attempt: Attempt, best: Best | None) -> Beginning:
    epochs = spec.epochs if attempt.more_epochs is None else attempt.more_epochs
    return Beginning(attempt.number, 1, epochs, {**spec.params, **attempt.params}, best=best)


def _from_best(
    spec: Spec, attempt: Attempt, asked: Attempt, last: Checkpoint | None, best: Best | None
) -> Beginning:
    if last is None or best is None:
        raise ResumeError(f"{spec.run} has no best model yet: resume it without a learning rate")
    if asked.lr is None or not asked.lr > 0:
        raise ResumeError(f"training on from the best model needs a learning rate above 0, not {asked.lr}")
    first = max(last.state.epoch, best.epoch) + 1
    more = spec.epochs if asked.more_epochs is None else asked.more_epochs
    return Beginning(
        attempt=attempt.number,
        first_epoch=first,
        epochs=first - 1 + more,
        params={**last.state.params, **asked.params},
        weights=best.weights,
        state=last.state,
        best=best,
        lr=asked.lr,
    )
