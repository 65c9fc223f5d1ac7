"""Whether a saved model is the one that was measured: it is loaded as anybody will, and predicts again."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.scores import evaluate
from trainer.scores.evaluate import Score

if TYPE_CHECKING:
    from trainer.data.batches import Validation

# Probabilities closer than this are a tie, which another order of summing may decide the other way.
TIE = 1e-5


class Unfit(ValueError):
    """A model that must not be published; the message is the reason."""


@dataclass(frozen=True)
class Result:
    """One epoch's outcome on the validation clips, and the rows of all epochs up to it."""

    epoch: int
    val_accuracy: float
    val_loss: float
    score: Score
    history: Sequence[Mapping[str, Any]]


class Proof:
    """Proves the models of a run, one after another.

    The first is made of its file alone. It is kept, and takes the weights of later files that say the same of
    their architecture: a model that is made anew must be traced anew, which takes longer than many an epoch.
    """

    def __init__(self, val: Validation) -> None:
        self._val = val
        self._loaded: Any = None
        self._architecture: Any = None

    def of(self, path: Path, model: Any, result: Result) -> None:
        """Raises Unfit where the file does not hold the weights of `model`, or is not as good."""
        loaded, epoch = self.load(path), result.epoch
        weights = zip(loaded.get_weights(), model.get_weights(), strict=True)
        if not all(np.array_equal(saved, measured) for saved, measured in weights):
            raise Unfit(f"{path.name} of epoch {epoch} does not hold the weights that were measured")
        found = self._val.predict(loaded)
        again = evaluate.score(self._val.labels, found, list(result.score.recall))
        first, second = np.sort(found, axis=1)[:, -1], np.sort(found, axis=1)[:, -2]
        ties = int((first - second < TIE).sum())
        if not abs(again.correct - result.score.correct) <= ties:
            raise Unfit(
                f"{path.name} of epoch {epoch} gets {again.correct} of {again.n} validation clips right "
                f"after loading, and {result.score.correct} before saving"
            )

    def load(self, path: Path) -> Any:
        """The model of that file, until the next one is asked for."""
        import keras

        architecture = _architecture(path)
        if self._loaded is None or architecture != self._architecture:
            self._loaded = keras.models.load_model(path, compile=False, safe_mode=True)
            self._architecture = architecture
        else:
            self._loaded.load_weights(path)
        return self._loaded


def _architecture(path: Path) -> Any:
    """What the file says of the model, but for what it is trained with, which changes."""
    with zipfile.ZipFile(path) as archive:
        said = json.loads(archive.read("config.json"))
    return {key: value for key, value in said.items() if key != "compile_config"}
