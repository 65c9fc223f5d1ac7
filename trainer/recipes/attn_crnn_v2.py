"""Convolutions, BiLSTM and attention with a residual (ATTN-CRNN v2); noise and MixUp while training.

Masking → two convolutions with pooling → BiLSTM → self-attention, added to its input and normalised → mean
over real frames → dense with BatchNormalization and GELU. No convolution sees more than zeros behind a clip,
and a pooled frame is real if any of its frames was.

What differs from the program of that name, and why: it padded without a mask and added noise to the padding;
its deploy promised to handle rare classes and its program did not, here `class_weights` does, and a mixed
clip counts each half by its own class; it divided clips at random, here classes are kept in proportion;
MixUp of 0 crashed. Its GELU was an approximation inside a Lambda, which loads only with safe mode off. The
accuracy of training is that on mixed clips, against the class that counts most in the mix.
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

TAG = "attn_crnn_v2"
EPOCHS = 30
BATCH_SIZE = 32


@dataclass(frozen=True)
class Params:
    """What may be set with `--set`. Raises ValueError for a value that no model can have."""

    filters1: int = positive(128, "filters of the first convolution")
    filters2: int = positive(256, "filters of the second convolution")
    kernel: int = positive(5, "frames that a convolution sees at once")
    units: int = positive(128, "units of the LSTM in each direction")
    lstm_dropout: float = share(0.3, "dropout of the LSTM's input, and again of its output")
    recurrent_dropout: float = share(0.3, "dropout between time steps of the LSTM")
    dense: int = positive(256, "units of the dense layer")
    dropout: float = share(0.4, "dropout after the dense layer")
    augment: bool = switch(True, "whether noise and mixup are used")
    noise: float = at_least_zero(0.005, "deviation of the noise on real frames; 0 is without")
    mixup: float = at_least_zero(0.2, "alpha of MixUp; 0 is without")
    class_weights: str = choice("balanced", "how rare classes count", CLASS_WEIGHTS)
    length_percentile: float = percent(100.0, "percentile of the training lengths that clips are brought to")
    validation: float = half(0.2, "share of clips that validate")
    shared_dropout: bool = switch(False, "whether all clips of a batch drop the same in the LSTM")
    bfloat16: bool = switch(False, "whether the first convolution multiplies in bfloat16")
    buckets: int = at_least_zero(0, "batches whose clips are sorted by length together; 0 is without")
    patience: int = positive(6, "epochs without a better val_accuracy that end the run")
    lr: float = positive(1e-3, "learning rate of the first epochs")
    lowest_lr: float = positive(3e-5, "learning rate below which no plateau goes")
    beta_2: float = share(0.98, "decay of Adam's second moment")
    plateau_factor: float = factor(0.5, "what a plateau multiplies the rate by")
    plateau_patience: int = positive(2, "epochs without a better val_loss: a plateau")

    def __post_init__(self) -> None:
        check(self)


def prepare(params: Params) -> Preparation:
    """Rows of class shares, because a mixed clip is of two classes."""
    return Preparation(
        percentile=params.length_percentile,
        validation=params.validation,
        class_weights=params.class_weights,
        one_hot=True,
        noise=params.noise if params.augment else 0.0,
        mixup=params.mixup if params.augment else 0.0,
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

    from trainer.layers import Bidirectional, MaskedConv1D, MaskedMaxPool1D, Masking

    inputs = keras.Input(shape, name="frames")
    x = Masking()(inputs)
    # The first alone is worth the rounding: it sees all dimensions of all frames.
    first = "mixed_bfloat16" if params.bfloat16 else None
    for filters, dtype in ((params.filters1, first), (params.filters2, None)):
        x = MaskedConv1D(filters, params.kernel, padding="same", activation="relu", dtype=dtype)(x)
        x = MaskedMaxPool1D(2)(x)
    x = Bidirectional(
        layers.LSTM(
            params.units,
            return_sequences=True,
            dropout=params.lstm_dropout,
            recurrent_dropout=params.recurrent_dropout,
        ),
        shared_dropout=params.shared_dropout,
    )(x)
    x = layers.Dropout(params.lstm_dropout)(x)
    attended = layers.Attention(use_scale=True)([x, x])
    x = layers.LayerNormalization()(layers.Add()([attended, x]))
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dense(params.dense)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Activation("gelu")(x)
    x = layers.Dropout(params.dropout)(x)
    outputs = layers.Dense(classes, activation="softmax", name="emotion")(x)
    model = keras.Model(inputs, outputs, name="attn_crnn_v2")
    model.compile(
        optimizer=keras.optimizers.Adam(params.lr, beta_2=params.beta_2),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model
