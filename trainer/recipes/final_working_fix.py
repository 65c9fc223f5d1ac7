"""Two BiLSTMs and two dense layers (v8): the baseline that overfits, which the others are measured against.

Masking → BiLSTM → BiLSTM, its last states → two dense layers with dropout 0.5. Neither attention nor weight
decay nor recurrent dropout: it learns its training clips by heart, and is here to show it.

What differs from the program of that name, and why: early stopping watched val_loss while the checkpoint was
chosen by val_accuracy, so what it restored and what it saved could be of different epochs; here val_accuracy
decides both. Its warm-up ended at 8e-4, a step short of its 1e-3, which is now reached in epoch 5. It padded
without a mask, and took its statistics of validation clips too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.data.preparation import CLASS_WEIGHTS, Preparation
from trainer.recipes._fields import (
    at_least_zero,
    check,
    choice,
    factor,
    half,
    percent,
    positive,
    share,
    switch,
)
from trainer.schedule import Plan

TAG = "v8"
EPOCHS = 100
BATCH_SIZE = 32


@dataclass(frozen=True)
class Params:
    """What may be set with `--set`. Raises ValueError for a value that no model can have."""

    units1: int = positive(128, "units of the first LSTM in each direction")
    units2: int = positive(128, "units of the second LSTM in each direction")
    dense1: int = positive(256, "units of the first dense layer")
    dropout1: float = share(0.5, "dropout after the first dense layer")
    dense2: int = positive(128, "units of the second dense layer")
    dropout2: float = share(0.5, "dropout after the second dense layer")
    class_weights: str = choice("max_count", "how rare classes count", CLASS_WEIGHTS)
    length_percentile: float = percent(95.0, "percentile of the training lengths that clips are brought to")
    validation: float = half(0.1, "share of clips that validate")
    bfloat16: bool = switch(False, "whether the LSTM multiplies its inputs in bfloat16")
    buckets: int = at_least_zero(0, "batches whose clips are sorted by length together; 0 is without")
    patience: int = positive(15, "epochs without a better val_accuracy that end the run")
    low_lr: float = positive(1e-6, "learning rate of epoch 1, and below which no plateau goes")
    high_lr: float = positive(1e-3, "learning rate after the warm-up")
    warmup: int = positive(5, "epoch that first trains at high_lr")
    plateau_factor: float = factor(0.5, "what a plateau multiplies the rate by")
    plateau_patience: int = positive(7, "epochs without a better val_loss: a plateau")

    def __post_init__(self) -> None:
        check(self)


def prepare(params: Params) -> Preparation:
    """A shorter length than v9's."""
    return Preparation(
        percentile=params.length_percentile,
        validation=params.validation,
        class_weights=params.class_weights,
        trim=True,
        buckets=params.buckets,
    )


def schedule(params: Params, *, epochs: int) -> Plan:
    """Warm-up, then a plateau."""
    return Plan(
        epochs=epochs,
        low=params.low_lr,
        high=params.high_lr,
        warmup=params.warmup,
        factor=params.plateau_factor,
        patience=params.plateau_patience,
        cosine_from=None,
    )


def build(shape: tuple[int | None, int], classes: int, params: Params) -> Any:
    """The compiled model: (batch, frames, dim) float32, zero-padded, to (batch, classes) probabilities."""
    # Imported here, so that a laptop without keras can list recipes and check parameters.
    import keras
    from keras import layers

    from trainer.layers import Bidirectional, Masking

    inputs = keras.Input(shape, name="frames")
    x = Masking()(inputs)
    x = Bidirectional(layers.LSTM(params.units1, return_sequences=True), bfloat16=params.bfloat16)(x)
    x = Bidirectional(layers.LSTM(params.units2), bfloat16=params.bfloat16)(x)
    x = layers.Dense(params.dense1, activation="relu")(x)
    x = layers.Dropout(params.dropout1)(x)
    x = layers.Dense(params.dense2, activation="relu")(x)
    x = layers.Dropout(params.dropout2)(x)
    outputs = layers.Dense(classes, activation="softmax", name="emotion")(x)
    model = keras.Model(inputs, outputs, name="final_working_fix")
    model.compile(
        optimizer=keras.optimizers.Adam(params.low_lr),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model
