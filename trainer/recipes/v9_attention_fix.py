"""v9 with learned query, key and value (v9_fix): scaled attention over real frames, an honest split.

Masking → BiLSTM → LayerNormalization → self-attention with projections, scores over √d → mean over real
frames → two dense layers. At least a fifth of the clips validate, and every class keeps two clips on each
side where it has four.

What differs from the program of that name, and why: its attention neither used nor passed on the mask, so
padding was averaged into the result; two controllers overwrote each other's learning rate, and here one
alone warms up, watches the plateau and goes down the cosine; its share of max(0.2, classes / clips) promised
as many validation clips as classes, and not one of each; it took the sentence of a CREMA-D file name for the
emotion; it trained on the first folder of a list that held files, or on whatever lay somewhere at home, here
`ec2emo deploy … --search` lists what there is and asks. It had no class weights, and has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.data.preparation import CLASS_WEIGHTS, Preparation
from trainer.recipes._fields import at_least_zero, check, choice, factor, half, positive, share, switch
from trainer.schedule import Plan

TAG = "v9_fix"
EPOCHS = 100
BATCH_SIZE = 32


@dataclass(frozen=True)
class Params:
    """What may be set with `--set`. Raises ValueError for a value that no model can have."""

    units: int = positive(128, "units of the LSTM in each direction")
    recurrent_dropout: float = share(0.25, "dropout between time steps of the LSTM")
    attention: int = positive(256, "dimensions of query, key and value")
    dense1: int = positive(256, "units of the first dense layer")
    dropout1: float = share(0.4, "dropout after the first dense layer")
    dense2: int = positive(128, "units of the second dense layer")
    dropout2: float = share(0.3, "dropout after the second dense layer")
    l2: float = at_least_zero(1e-4, "L2 weight decay of the dense layers")
    class_weights: str = choice("none", "how rare classes count", CLASS_WEIGHTS)
    validation: float = half(0.2, "least share of clips that validate")
    shared_dropout: bool = switch(False, "whether all clips of a batch drop the same in the LSTM")
    bfloat16: bool = switch(False, "whether the LSTM multiplies its inputs in bfloat16")
    buckets: int = at_least_zero(0, "batches whose clips are sorted by length together; 0 is without")
    patience: int = positive(12, "epochs without a better val_accuracy that end the run")
    low_lr: float = positive(5e-6, "learning rate of epoch 1 and of the last")
    high_lr: float = positive(3e-4, "learning rate after the warm-up")
    warmup: int = positive(8, "epoch that first trains at high_lr")
    plateau_factor: float = factor(0.3, "what a plateau multiplies the rate by")
    plateau_patience: int = positive(5, "epochs without a better val_loss: a plateau")
    cosine_from: int = positive(20, "epoch in which the cosine decay starts")

    def __post_init__(self) -> None:
        check(self)


def prepare(params: Params) -> Preparation:
    """The adaptive split."""
    return Preparation(
        validation=params.validation,
        adaptive=True,
        class_weights=params.class_weights,
        trim=True,
        buckets=params.buckets,
    )


def schedule(params: Params, *, epochs: int) -> Plan:
    """Warm-up, plateau, cosine."""
    return Plan(
        epochs=epochs,
        low=params.low_lr,
        high=params.high_lr,
        warmup=params.warmup,
        factor=params.plateau_factor,
        patience=params.plateau_patience,
        cosine_from=params.cosine_from,
    )


def build(shape: tuple[int | None, int], classes: int, params: Params) -> Any:
    """The compiled model: (batch, frames, dim) float32, zero-padded, to (batch, classes) probabilities."""
    # Imported here, so that a laptop without keras can list recipes and check parameters.
    import keras
    from keras import layers

    from trainer.layers import Bidirectional, Masking, SelfAttention

    decay = keras.regularizers.L2(params.l2)
    inputs = keras.Input(shape, name="frames")
    x = Masking()(inputs)
    x = Bidirectional(
        layers.LSTM(params.units, return_sequences=True, recurrent_dropout=params.recurrent_dropout),
        bfloat16=params.bfloat16,
        shared_dropout=params.shared_dropout,
    )(x)
    x = layers.LayerNormalization()(x)
    x = SelfAttention(params.attention)(x)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dense(params.dense1, activation="relu", kernel_regularizer=decay)(x)
    x = layers.Dropout(params.dropout1)(x)
    x = layers.Dense(params.dense2, activation="relu", kernel_regularizer=decay)(x)
    x = layers.Dropout(params.dropout2)(x)
    outputs = layers.Dense(classes, activation="softmax", name="emotion")(x)
    model = keras.Model(inputs, outputs, name="v9_attention_fix")
    model.compile(
        optimizer=keras.optimizers.Adam(params.low_lr),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model
