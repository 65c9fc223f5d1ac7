"""The first ATTN-CRNN: convolutions, BiLSTM, LSTM, unscaled attention. Kept to measure v2 against.

Masking → two convolutions with pooling → BiLSTM → LSTM → softmax(QKᵀ)V without the division by √d → mean
over real frames → dense. It was stored in five variants with one backbone; this is the one that most of them
share.

What differs, and why: none of them had a mask or normalised the features, and most padded to the longest
clip and divided at random. Masks and the training side's statistics are the trainer's for every recipe,
since without them no two figures can be compared. The plateau watched val_accuracy; the one controller of
the rate watches val_loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.data.preparation import CLASS_WEIGHTS, Preparation
from trainer.recipes._fields import at_least_zero, check, choice, factor, half, percent, positive, share
from trainer.schedule import Plan

TAG = "attn_crnn"
EPOCHS = 50
BATCH_SIZE = 32


@dataclass(frozen=True)
class Params:
    """What may be set with `--set`. Raises ValueError for a value that no model can have."""

    filters1: int = positive(128, "filters of the first convolution")
    filters2: int = positive(256, "filters of the second convolution")
    kernel: int = positive(5, "frames that a convolution sees at once")
    units1: int = positive(128, "units of the bidirectional LSTM in each direction")
    units2: int = positive(64, "units of the LSTM after it")
    attention: int = positive(64, "dimensions of query, key and value")
    dropout1: float = share(0.3, "dropout after the bidirectional LSTM")
    dense: int = positive(128, "units of the dense layer")
    dropout2: float = share(0.4, "dropout after the dense layer")
    class_weights: str = choice("none", "how rare classes count", CLASS_WEIGHTS)
    length_percentile: float = percent(100.0, "percentile of the training lengths that clips are brought to")
    validation: float = half(0.2, "share of clips that validate")
    buckets: int = at_least_zero(0, "batches whose clips are sorted by length together; 0 is without")
    patience: int = positive(10, "epochs without a better val_accuracy that end the run")
    lr: float = positive(1e-3, "learning rate of the first epochs")
    lowest_lr: float = positive(1e-6, "learning rate below which no plateau goes")
    plateau_factor: float = factor(0.5, "what a plateau multiplies the rate by")
    plateau_patience: int = positive(5, "epochs without a better val_loss: a plateau")

    def __post_init__(self) -> None:
        check(self)


def prepare(params: Params) -> Preparation:
    """No class weights, a fifth to validate on."""
    return Preparation(
        percentile=params.length_percentile,
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

    from trainer.layers import Bidirectional, MaskedConv1D, MaskedMaxPool1D, Masking, SelfAttention

    inputs = keras.Input(shape, name="frames")
    x = Masking()(inputs)
    for filters in (params.filters1, params.filters2):
        x = MaskedConv1D(filters, params.kernel, padding="same", activation="relu")(x)
        x = MaskedMaxPool1D(2)(x)
    x = Bidirectional(layers.LSTM(params.units1, return_sequences=True))(x)
    x = layers.Dropout(params.dropout1)(x)
    x = layers.LSTM(params.units2, return_sequences=True)(x)
    x = SelfAttention(params.attention, scaled=False)(x)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dense(params.dense, activation="relu")(x)
    x = layers.Dropout(params.dropout2)(x)
    outputs = layers.Dense(classes, activation="softmax", name="emotion")(x)
    model = keras.Model(inputs, outputs, name="attn_crnn")
    model.compile(
        optimizer=keras.optimizers.Adam(params.lr),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model
