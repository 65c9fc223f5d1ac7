"""BiLSTM over a fixed number of steps (simplified CNN-LSTM), for features that a CNN has made.

Masking → BatchNormalization over real frames → BiLSTM → mean over real frames → two dense layers. Clips are
cut off or padded to `steps` frames; `--set steps=…` is for features with more of them a second.

What differs from the program of that name, and why: despite the name there never was a convolution in it,
and none is added. Its features came of networks with random weights, its statistics and class weights of all
clips; here both are of the training side, and features are what the data say they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.data.preparation import CLASS_WEIGHTS, Preparation
from trainer.recipes._fields import at_least_zero, check, choice, factor, half, positive, share, switch
from trainer.schedule import Plan

TAG = "cnn_lstm"
EPOCHS = 100
BATCH_SIZE = 32


@dataclass(frozen=True)
class Params:
    """What may be set with `--set`. Raises ValueError for a value that no model can have."""

    steps: int = positive(20, "frames that every clip is cut off or padded to")
    units: int = positive(128, "units of the LSTM in each direction")
    lstm_dropout: float = share(0.5, "dropout of the LSTM's input")
    recurrent_dropout: float = share(0.3, "dropout between time steps of the LSTM")
    dense1: int = positive(256, "units of the first dense layer")
    dropout1: float = share(0.5, "dropout after the first dense layer")
    dense2: int = positive(128, "units of the second dense layer")
    dropout2: float = share(0.5, "dropout after the second dense layer")
    l2: float = at_least_zero(1e-3, "L2 weight decay of the LSTM and of the dense layers")
    class_weights: str = choice("balanced", "how rare classes count", CLASS_WEIGHTS)
    validation: float = half(0.2, "share of clips that validate")
    shared_dropout: bool = switch(False, "whether all clips of a batch drop the same in the LSTM")
    bfloat16: bool = switch(False, "whether the LSTM multiplies its inputs in bfloat16")
    buckets: int = at_least_zero(0, "batches whose clips are sorted by length together; 0 is without")
    patience: int = positive(20, "epochs without a better val_accuracy that end the run")
    lr: float = positive(3e-4, "learning rate of the first epochs")
    lowest_lr: float = positive(1e-6, "learning rate below which no plateau goes")
    plateau_factor: float = factor(0.5, "what a plateau multiplies the rate by")
    plateau_patience: int = positive(10, "epochs without a better val_loss: a plateau")

    def __post_init__(self) -> None:
        check(self)


def prepare(params: Params) -> Preparation:
    """A fixed length, balanced classes."""
    return Preparation(
        frames=params.steps,
        validation=params.validation,
        class_weights=params.class_weights,
        trim=True,
        buckets=params.buckets,
    )


def schedule(params: Params, *, epochs: int) -> Plan:
    """A plateau alone."""
    return Plan(
        epochs=epochs,
        low=params.lowest_lr,
        high=params.lr,
        warmup=1,
        factor=params.plateau_factor,
        patience=params.plateau_patience,
        cosine_from=None,
    )


def build(shape: tuple[int | None, int], classes: int, params: Params) -> Any:
    """The compiled model: (batch, frames, dim) float32, zero-padded, to (batch, classes) probabilities."""
    # Imported here, so that a laptop without keras can list recipes and check parameters.
    import keras
    from keras import layers

    from trainer.layers import Masking, NormalizedBidirectional

    decay = keras.regularizers.L2(params.l2)
    inputs = keras.Input(shape, name="frames")
    x = Masking()(inputs)
    x = NormalizedBidirectional(
        layers.LSTM(
            params.units,
            return_sequences=True,
            dropout=params.lstm_dropout,
            recurrent_dropout=params.recurrent_dropout,
            kernel_regularizer=decay,
        ),
        bfloat16=params.bfloat16,
        shared_dropout=params.shared_dropout,
    )(x)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dense(params.dense1, activation="relu", kernel_regularizer=decay)(x)
    x = layers.Dropout(params.dropout1)(x)
    x = layers.Dense(params.dense2, activation="relu", kernel_regularizer=decay)(x)
    x = layers.Dropout(params.dropout2)(x)
    outputs = layers.Dense(classes, activation="softmax", name="emotion")(x)
    model = keras.Model(inputs, outputs, name="cnn_lstm_simplified")
    model.compile(
        optimizer=keras.optimizers.Adam(params.lr),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model
