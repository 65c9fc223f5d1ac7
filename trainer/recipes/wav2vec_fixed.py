"""Convolution, two BiLSTMs and an attention block under SGD (wav2vec fixed); extended training suits it.

Masking → convolution, pooling, LayerNormalization → BiLSTM, LayerNormalization → self-attention,
concatenated to its input → BiLSTM → mean over real frames → dropout → dense → logits kept within ±15 →
softmax. Label smoothing 0.1. `ec2emo resume --lr 5e-4 --epochs 100` is its extended training: from the best
weights, after a warm-up of three epochs.

What differs from the program of that name (its fourth version), and why: it had no mask although it padded;
its block projected to query, key and value twice in a row, which is one linear map, so it is done once; it
had an output for a class that never occurred; it cut values off at ±5 before normalising and measured its
statistics on validation clips too, here they are normalised by the training side's as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.data.preparation import CLASS_WEIGHTS, Preparation
from trainer.recipes._fields import at_least_zero, check, choice, factor, half, percent, positive, share
from trainer.schedule import Plan

TAG = "wav2vec"
EPOCHS = 100
BATCH_SIZE = 64


@dataclass(frozen=True)
class Params:
    """What may be set with `--set`. Raises ValueError for a value that no model can have."""

    filters: int = positive(128, "filters of the convolution")
    kernel: int = positive(3, "frames that the convolution sees at once")
    units1: int = positive(128, "units of the first LSTM in each direction")
    attention: int = positive(64, "dimensions of query, key and value")
    units2: int = positive(64, "units of the second LSTM in each direction")
    lstm_dropout: float = share(0.2, "dropout of the LSTMs' inputs")
    largest_norm1: float = positive(3.0, "norm that no unit's weights in the first LSTM exceed")
    largest_norm2: float = positive(2.0, "norm that no unit's weights in the second LSTM exceed")
    dropout: float = share(0.5, "dropout after the mean over frames")
    dense: int = positive(64, "units of the dense layer")
    largest_logit: float = positive(15.0, "logits are kept within ± this")
    label_smoothing: float = share(0.1, "share of each target that is spread over all classes")
    class_weights: str = choice("balanced", "how rare classes count", CLASS_WEIGHTS)
    length_percentile: float = percent(95.0, "percentile of the training lengths that clips are brought to")
    validation: float = half(0.1, "share of clips that validate")
    buckets: int = at_least_zero(0, "batches whose clips are sorted by length together; 0 is without")
    patience: int = positive(20, "epochs without a better val_accuracy that end the run")
    lr: float = positive(1e-3, "learning rate after the warm-up")
    lowest_lr: float = positive(1e-6, "learning rate below which no plateau goes")
    warmup: int = positive(10, "epoch that first trains at lr; each before it gets as much more")
    momentum: float = share(0.9, "Nesterov momentum of SGD")
    clipnorm: float = positive(1.0, "norm that no gradient of one array of weights exceeds")
    plateau_factor: float = factor(0.5, "what a plateau multiplies the rate by")
    plateau_patience: int = positive(5, "epochs without a better val_loss: a plateau")

    def __post_init__(self) -> None:
        check(self)


def prepare(params: Params) -> Preparation:
    """Rows of class shares, because a smoothed label is of all classes."""
    return Preparation(
        percentile=params.length_percentile,
        validation=params.validation,
        class_weights=params.class_weights,
        one_hot=True,
        trim=True,
        buckets=params.buckets,
    )


def schedule(params: Params, *, epochs: int) -> Plan:
    """Warm-up in equal steps from nothing, then a plateau."""
    return Plan(
        epochs=epochs,
        low=params.lr / params.warmup,
        high=params.lr,
        warmup=params.warmup,
        factor=params.plateau_factor,
        patience=params.plateau_patience,
        cosine_from=None,
        floor=params.lowest_lr,
    )


def build(shape: tuple[int | None, int], classes: int, params: Params) -> Any:
    """The compiled model: (batch, frames, dim) float32, zero-padded, to (batch, classes) probabilities."""
    # Imported here, so that a laptop without keras can list recipes and check parameters.
    import keras
    from keras import layers

    from trainer.layers import Bidirectional, Limit, MaskedConv1D, MaskedMaxPool1D, Masking, SelfAttention

    def lstm(units: int, largest_norm: float) -> Any:
        limit = keras.constraints.MaxNorm(largest_norm)
        return Bidirectional(
            layers.LSTM(
                units,
                return_sequences=True,
                dropout=params.lstm_dropout,
                kernel_constraint=limit,
                recurrent_constraint=limit,
            )
        )

    inputs = keras.Input(shape, name="frames")
    x = Masking()(inputs)
    x = MaskedConv1D(params.filters, params.kernel, padding="same", activation="relu")(x)
    x = MaskedMaxPool1D(2)(x)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    x = lstm(params.units1, params.largest_norm1)(x)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.Concatenate()([x, SelfAttention(params.attention)(x)])
    x = lstm(params.units2, params.largest_norm2)(x)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dropout(params.dropout)(x)
    x = layers.Dense(params.dense, activation="relu")(x)
    x = layers.Dense(classes)(x)
    x = Limit(params.largest_logit)(x)
    outputs = layers.Softmax(name="emotion")(x)
    model = keras.Model(inputs, outputs, name="wav2vec_fixed")
    model.compile(
        optimizer=keras.optimizers.SGD(
            params.lr, momentum=params.momentum, nesterov=True, clipnorm=params.clipnorm
        ),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=params.label_smoothing),
        metrics=["accuracy"],
    )
    return model
