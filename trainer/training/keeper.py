"""Puts an epoch's outcome on the disk: the best model, the checkpoint, the manifest, in this order.

A kill between any two of them leaves a manifest that lists whole files only, and a checkpoint that never
claims a best which is not published.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trainer import artifacts
from trainer.artifacts import Identity, Proof, Result, Unfit
from trainer.contract import AnyEvent, Note, RunDir, Saved
from trainer.data.batches import Validation
from trainer.schedule import Schedule
from trainer.training import checkpoints
from trainer.training.beginning import Best
from trainer.training.checkpoints import State
from trainer.training.stopping import RunFailed


@dataclass
class Course:
    """How far the run has come: `history` has a row per epoch, `wait` counts epochs since the best."""

    planned: int
    patience: int
    schedule: Schedule
    best: Best | None = None
    wait: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def beats(self, epoch: int, value: float) -> bool:
        """Whether `value` is a new best. An epoch that is trained once more may be its own best again."""
        if self.best is None:
            return True
        return value > self.best.value or (epoch <= self.best.epoch and value == self.best.value)


@dataclass(frozen=True)
class Keeper:
    """Keeps the epochs of one attempt; all but the model and the course stays the same."""

    run: RunDir
    who: Identity
    val: Validation
    attempt: int
    seed: int
    params: Mapping[str, Any]
    guard: Mapping[str, Any]
    proof: Proof

    def keep(self, model: Any, course: Course, result: Result) -> list[AnyEvent]:
        """Publish what `result` is worth, and return what there is to say about it.

        Raises RunFailed when the disk is full; everything published before is then whole.
        """
        try:
            words, weights = self._keep_best(model, course, result)
            return words + self._keep_last(model, course, result, weights)
        except (OSError, RuntimeError) as e:
            if not _disk_is_full(e):
                raise
            best = (
                f"the best so far, of epoch {course.best.epoch}, is whole" if course.best else "no best yet"
            )
            raise RunFailed(
                f"no space left on the disk of {self.run.root} while saving epoch {result.epoch} ({best}): "
                "free some and resume"
            ) from e

    def add_report(self, course: Course, files: Mapping[str, bytes]) -> Saved:
        """Publish the best set again with these files beside the model, and return what there is to say."""
        assert course.best is not None
        before, epoch = course.best, course.best.epoch
        folder = artifacts.publish_report(self.run, self.who, before.weights.parent, epoch, files)
        course.best = replace(before, weights=folder / before.weights.name)
        self._publish_manifest(course, checkpoints.newest(self.run))
        # The earlier folder stays for who is fetching it.
        artifacts.prune(self.run, {before.weights.parent.name, folder.name})
        where = (folder / self.who.report_names["report"]).relative_to(self.run.root).as_posix()
        return Saved(time.time(), "report", where, epoch, before.value)

    def _keep_best(self, model: Any, course: Course, result: Result) -> tuple[list[AnyEvent], Path | None]:
        """What there is to say, and the weights that were published, if they were."""
        if not course.beats(result.epoch, result.val_accuracy):
            course.wait += 1
            return [], None
        try:
            folder = artifacts.publish_best(self.run, model, self.who, result, self.proof)
        except Unfit as e:
            course.wait += 1
            return [Note(time.time(), f"not published as best: {e}", "error")], None
        before = course.best
        course.wait = 0
        course.best = Best(result.epoch, result.val_accuracy, folder / self.who.name("best", "weights"))
        self._publish_manifest(course, checkpoints.newest(self.run))
        kept = {b.weights.parent.name for b in (before, course.best) if b is not None}
        artifacts.prune(self.run, kept)
        words: list[AnyEvent] = [self._saved("best", role, folder, result) for role in ("model", "weights")]
        return words, course.best.weights

    def _keep_last(self, model: Any, course: Course, result: Result, weights: Path | None) -> list[AnyEvent]:
        last = checkpoints.write(
            self.run,
            self._state(course, result.epoch),
            lambda folder: artifacts.write_last(folder, model, self.who, result, weights),
        )
        self._publish_manifest(course, last)
        checkpoints.prune(self.run)
        return [self._saved("last", "checkpoint", last.folder, result)]

    def _publish_manifest(self, course: Course, last: checkpoints.Checkpoint | None) -> None:
        best = course.best
        artifacts.publish_manifest(
            self.run,
            self.who,
            best=(best.weights.parent, best.epoch, best.value) if best else None,
            last=(last.folder, last.state.epoch, _value(last)) if last else None,
        )

    def _state(self, course: Course, epoch: int) -> State:
        return State(
            epoch=epoch,
            planned=course.planned,
            attempt=self.attempt,
            best_epoch=course.best.epoch if course.best else None,
            best=course.best.value if course.best else None,
            wait=course.wait,
            seed=self.seed,
            schedule=course.schedule.state,
            params=self.params,
            guard=self.guard,
            history=course.history,
            synthetic=self.who.synthetic,
        )

    def _saved(self, of: str, role: str, folder: Path, result: Result) -> Saved:
        path = folder if role == "checkpoint" else folder / self.who.name(of, role)
        where = path.relative_to(self.run.root).as_posix()
        return Saved(time.time(), role, where, result.epoch, result.val_accuracy)


def _value(last: checkpoints.Checkpoint) -> float:
    return float(last.state.history[-1]["val_accuracy"])


def _disk_is_full(error: BaseException) -> bool:
    """HDF5 says it in words only, and sometimes first when the file is closed."""
    said = str(error).lower()
    return getattr(error, "errno", None) == errno.ENOSPC or "no space left" in said or "errno = 28" in said
