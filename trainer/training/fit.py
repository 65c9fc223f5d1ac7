"""One training run, top to bottom."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from trainer import recipes
from trainer.artifacts import Identity, Proof
from trainer.clips import DataError
from trainer.contract import Dataset, Note, RunDir, Spec
from trainer.data import dataset
from trainer.data.batches import Training, Validation
from trainer.data.dataset import Packed, Split
from trainer.data.normaliser import Normaliser
from trainer.data.preparation import Preparation
from trainer.eventlog import EventLog
from trainer.folders import remove_half_written
from trainer.recipes import Recipe
from trainer.schedule import Schedule
from trainer.training import final, graphs, guard, replicas
from trainer.training.beginning import Beginning, ResumeError
from trainer.training.callbacks import Ledger, Pace, Watch
from trainer.training.final import Judged
from trainer.training.keeper import Course, Keeper
from trainer.training.stopping import RunFailed, Stop, StopRequested


def train(run: RunDir, spec: Spec, beginning: Beginning, log: EventLog, stop: Stop) -> str:
    """Train the epochs of `beginning`; returns why it ended.

    Raises RunFailed with a sentence, or StopRequested; what was published before either is whole.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "2":
        # Tracing for a few lengths of batches is nothing to warn of, as tensorflow's Python side does.
        tf.get_logger().setLevel("ERROR")
    recipe, params, asked = _recipe(spec, beginning)
    packed, split = _data(run, spec, asked)
    norm = dataset.normaliser(packed, split.train, asked)
    _say_data(log, packed, split, norm)
    for folder in (run.checkpoints, run.artifacts):
        remove_half_written(folder)

    _make_repeatable(spec.seed)
    graphs.leave_as_traced()
    together = replicas.strategy(spec.gpus, spec.batch_size)
    shares = together.num_replicas_in_sync
    course = _course(recipe, params, beginning)
    with together.scope():
        model = recipe.build(asked.shape(norm.frames, packed.dim), len(packed.classes), params)
        unchanged = guard.describe(packed, split, norm, model)
        _take_up(model, beginning, unchanged, log)
    if spec.gpus == replicas.ALL:
        log.append(Note(time.time(), replicas.told(shares, spec.batch_size)))

    sized = {"batch_size": spec.batch_size, "shares": shares, "asked": asked}
    batches = Training(packed, split.train, norm, seed=spec.seed, **sized)
    val = Validation(packed, split.val, norm, **sized)
    made = {"params": asdict(params), "preparation": asdict(asked)}
    who = _identity(spec, recipe, packed, split, norm, made)
    keeper = Keeper(run, who, val, beginning.attempt, spec.seed, beginning.params, unchanged, Proof(val))
    judged = _judged(packed, split, norm, val, spec.batch_size, asked)
    if over := _over_already(course, beginning):
        final.conclude_if_missing(keeper, course, log, judged)
        return over
    if shares == 1:
        graphs.trace_once(model, val.targets)
    ledger = Ledger(keeper, course, log)
    stop.at_once = False
    stop.check()
    try:
        model.fit(
            batches.stream(),
            initial_epoch=beginning.first_epoch - 1,
            epochs=beginning.epochs,
            callbacks=[Pace(course, batches, spec.seed), Watch(stop), ledger],
            shuffle=False,
            verbose=0,
        )
    except StopRequested:
        if final.is_cheap(course):
            final.conclude(keeper, course, log, judged)
        done = course.history[-1]["epoch"] if course.history else 0
        raise StopRequested(f"a stop was asked for; {done} epochs are trained and saved") from None
    final.conclude(keeper, course, log, judged)
    return ledger.reason or f"all {beginning.epochs} epochs are trained"


def _recipe(spec: Spec, beginning: Beginning) -> tuple[Recipe, Any, Preparation]:
    try:
        recipe = recipes.load(spec.recipe)
        params = recipes.make_params(recipe, beginning.params)
        return recipe, params, recipes.preparation(recipe, params)
    except ValueError as e:
        raise RunFailed(str(e)) from e


def _data(run: RunDir, spec: Spec, asked: Preparation) -> tuple[Packed, Split]:
    try:
        packed = dataset.load(Path(spec.data), spec.fingerprint, run.packs)
        fold = (spec.fold, spec.folds) if spec.fold and spec.folds else None
        return packed, dataset.divide(packed, spec.split, spec.seed, asked, fold)
    except DataError as e:
        raise RunFailed(str(e)) from e


def _say_data(log: EventLog, packed: Packed, split: Split, norm: Normaliser) -> None:
    report = packed.report
    log.append(
        Dataset(
            t=time.time(),
            files=report.files,
            used=len(report.used),
            skipped=len(report.skipped),
            train=len(split.train),
            val=len(split.val),
            frames=norm.frames,
            dim=packed.dim,
            classes=list(packed.classes),
            counts=dict(report.classes),
            fingerprint=report.fingerprint,
            split=split.how,
            speakers=len(report.speakers) or None,
            shared_speakers=split.shared_speakers,
            synthetic=report.synthetic,
            test=len(split.test),
        )
    )
    for problem in report.problems:
        log.append(Note(time.time(), problem.text, "warning"))
    absent = [c for i, c in enumerate(packed.classes) if i not in packed.labels[split.val]]
    if absent:
        text = f"no clip of {', '.join(absent)} is on the validation side: its recall stays unknown"
        log.append(Note(time.time(), text, "warning"))


def _judged(
    packed: Packed, split: Split, norm: Normaliser, val: Validation, batch_size: int, asked: Preparation
) -> Judged:
    """What the final evaluation is of: the fold that was held out, else the validation clips."""
    chosen = [packed.report.used[i] for i in split.judged]
    if not len(split.test):
        return Judged(val, chosen, chose_epoch=True)
    test = Validation(packed, split.test, norm, batch_size=batch_size, asked=asked)
    return Judged(test, chosen, chose_epoch=False)


def _make_repeatable(seed: int) -> None:
    """The same seed, the same run: to the bit on a CPU. On a GPU some operations have no such form."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


def _course(recipe: Recipe, params: Any, beginning: Beginning) -> Course:
    plan = recipe.schedule(params, epochs=beginning.epochs)
    state = beginning.state
    if beginning.lr is not None:
        schedule = Schedule.extended(plan, lr=beginning.lr, first_epoch=beginning.first_epoch)
    else:
        schedule = Schedule(plan, dict(state.schedule) if state else None)
    return Course(
        planned=beginning.epochs,
        patience=params.patience,
        schedule=schedule,
        best=beginning.best,
        wait=state.wait if state and not beginning.extended else 0,
        history=[dict(row) for row in state.history] if state else [],
    )


def _take_up(model: Any, beginning: Beginning, unchanged: dict[str, Any], log: EventLog) -> None:
    """Load the weights, and the optimizer's state with them. Raises ResumeError when the run is another."""
    if beginning.state is None or beginning.weights is None:
        return
    if differs := guard.difference(beginning.state.guard, unchanged):
        raise ResumeError(f"cannot go on, {differs}; bring that back, or start another run")
    # Loading into an optimizer without variables drops its state, with a warning that nobody reads.
    model.optimizer.build(model.trainable_variables)
    model.load_weights(beginning.weights)
    steps = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
    text = f"goes on from {beginning.weights.parent.name}, after {steps} steps"
    log.append(Note(time.time(), text))


def _over_already(course: Course, beginning: Beginning) -> str | None:
    if beginning.first_epoch > beginning.epochs:
        return f"all {beginning.epochs} epochs are trained already: ask for more with --epochs"
    if course.wait >= course.patience:
        return (
            f"early stopping had ended it after epoch {beginning.first_epoch - 1}: ask for more with --epochs"
        )
    return None


def _identity(
    spec: Spec, recipe: Recipe, packed: Packed, split: Split, norm: Normaliser, made: dict[str, Any]
) -> Identity:
    report = packed.report
    preprocessing = {
        "feature_key": report.key,
        "frames": norm.frames,
        "dim": packed.dim,
        "classes": list(packed.classes),
        "normalise": "(x - mean) / std",
        "padding": "zeros after the end, after normalising",
        "truncation": "at the end",
        "split": split.how,
        "seed": spec.seed,
        "train": len(split.train),
        "val": len(split.val),
        "test": len(split.test),
        "fold": spec.fold,
        "folds": spec.folds,
        "speakers": len(report.speakers) or None,
        "shared_speakers": split.shared_speakers,
        "training_speakers": sorted({s for i in split.train if (s := report.used[i].speaker)}),
        "fingerprint": report.fingerprint,
        **made,
    }
    synthetic = spec.synthetic or report.synthetic
    return Identity(spec.run, spec.recipe, recipe.TAG, packed.classes, norm, preprocessing, synthetic)
