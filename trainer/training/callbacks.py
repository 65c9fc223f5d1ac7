"""What happens at the edges of batches and epochs, in three callbacks: the pace, the watch, the ledger.

`fit` gives them to keras in this order. No other callback sets the rate, stops the run or saves anything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer import artifacts
from trainer.artifacts import Result
from trainer.contract import Epoch, Note
from trainer.data.batches import Training
from trainer.eventlog import EventLog
from trainer.scores import evaluate
from trainer.training import replicas
from trainer.training.curves import Curves
from trainer.training.keeper import Course, Keeper
from trainer.training.stopping import RunFailed, Stop

Logs = Mapping[str, Any] | None

# No first epoch is so good on speech that was never heard before.
TOO_GOOD = 0.99


class Pace(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets what an epoch starts with: the rate, the order of clips, and the state of every random layer.

    Order and random state are of seed and epoch alone, so that a resumed epoch is the one it would have been.
    """

    def __init__(self, course: Course, batches: Training, seed: int) -> None:
        super().__init__()
        self._course, self._batches, self._seed = course, batches, seed

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Keras counts from 0, the run from 1."""
        number = epoch + 1
        self.model.optimizer.learning_rate = self._course.schedule.rate(number)
        self._batches.epoch = number
        weights = {id(w) for w in self.model.weights}
        states = [v for v in self.model.variables if id(v) not in weights]
        for i, state in enumerate(states):
            state.assign(np.random.SeedSequence([self._seed, number, i]).generate_state(2))


class Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends the run between two batches: when asked to, or when the loss is no number any more."""

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self._stop, self._epoch = stop, 0

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Ends here when a stop came while the last epoch was being saved."""
        self._epoch = epoch + 1
        self._stop.check()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Raises StopRequested, or RunFailed naming the batch."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise RunFailed(
                f"the loss is {loss} in batch {batch + 1} of epoch {self._epoch}: what was saved before "
                "is kept; train on with a lower learning rate"
            )
        self._stop.check()


class Ledger(keras.callbacks.Callback):  # type: ignore[misc]
    """Measures each epoch on the validation clips, has it kept, and ends a run that stands still.

    `reason` says why it ended the run; None while it did not.
    """

    def __init__(self, keeper: Keeper, course: Course, log: EventLog) -> None:
        super().__init__()
        self._keeper, self._course, self._log = keeper, course, log
        self._curves: Curves | None = Curves(keeper.run.tensorboard)
        self._began = 0.0
        self.reason: str | None = None

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Raises RunFailed when there is nothing to go on with: no finite loss, no room on the disk."""
        replicas.agree(self.model)
        result = self._measure(epoch + 1, logs or {})
        row = self._course.history[-1]
        self._log.append(
            Epoch(
                t=time.time(),
                epoch=result.epoch,
                metrics={k: row[k] for k in ("loss", "accuracy", "val_loss", "val_accuracy")},
                lr=row["lr"],
                seconds=row["seconds"],
            )
        )
        if not (math.isfinite(result.val_loss) and artifacts.finite(self.model)):
            raise RunFailed(
                f"val_loss or weights are not finite after epoch {result.epoch}: what was saved before "
                "is kept; train on with a lower learning rate"
            )
        if result.epoch == 1 and result.val_accuracy >= TOO_GOOD:
            self._log.append(Note(time.time(), _too_good(result), "warning"))
        if step := self._course.schedule.observe(result.epoch, result.val_loss):
            self._log.append(Note(time.time(), step))
        for word in self._keeper.keep(self.model, self._course, result):
            self._log.append(word)
        self._show(row)
        self._draw(row)
        self._end_if_still()

    def _measure(self, epoch: int, logs: Mapping[str, Any]) -> Result:
        """Predict the validation clips; the row of the epoch is the last of the history afterwards."""
        val, course = self._keeper.val, self._course
        probabilities = val.predict(self.model)
        found = evaluate.score(val.labels, probabilities, self._keeper.who.classes)
        loss = self.model.compute_loss(
            y=tf.constant(val.targets), y_pred=tf.constant(probabilities), training=False
        )
        course.history.append(
            {
                "epoch": epoch,
                "loss": float(logs["loss"]),
                "accuracy": float(logs["accuracy"]),
                "val_loss": float(loss),
                "val_accuracy": found.accuracy,
                "lr": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
                "seconds": time.monotonic() - self._began,
            }
        )
        return Result(epoch, found.accuracy, float(loss), found, course.history)

    def _end_if_still(self) -> None:
        if self._course.wait >= self._course.patience:
            best = self._course.best.epoch if self._course.best else 0
            self.reason = (
                f"early stopping: no better val_accuracy in {self._course.wait} epochs since epoch {best}"
            )
            self.model.stop_training = True

    def _show(self, row: Mapping[str, Any]) -> None:
        """As keras does with verbose=2, with the rate and whether it is the best."""
        steps, seconds = int(self.params.get("steps") or 1), row["seconds"]
        names = ("accuracy", "loss", "val_accuracy", "val_loss")
        figures = " - ".join(f"{name}: {row[name]:.4f}" for name in names)
        best = self._course.best and self._course.best.epoch == row["epoch"]
        print(f"Epoch {row['epoch']}/{self._course.planned}")  # noqa: T201 - the log is for people
        print(  # noqa: T201
            f"{steps}/{steps} - {seconds:.0f}s - {1000 * seconds / steps:.0f}ms/step - {figures} - "
            f"learning_rate: {row['lr']:.4e}" + (" - best" if best else ""),
            flush=True,
        )

    def _draw(self, row: Mapping[str, Any]) -> None:
        """Curves are a comfort: where they cannot be drawn, the run goes on without."""
        if self._curves is None:
            return
        try:
            self._curves.add(row["epoch"], {k: v for k, v in row.items() if k not in ("epoch", "seconds")})
        except (OSError, ImportError, AttributeError, tf.errors.OpError) as e:
            self._curves = None
            self._log.append(Note(time.time(), f"no TensorBoard curves: {str(e).splitlines()[0]}", "warning"))


def _too_good(result: Result) -> str:
    return (
        f"the first epoch already gets {result.val_accuracy:.1%} of the validation clips right: that is a "
        "leak or labels in the features, not learning; see how they were made before you believe a score"
    )
