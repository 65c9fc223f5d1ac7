"""The fast LSTM against Keras' own: the same numbers, weights, files and random draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

FRAMES, DIM, UNITS = 20, 6, 4
# A whole clip, one frame, a block and a part of one, exactly a block, and nothing but padding.
LENGTHS = (20, 1, 18, 16, 0)


def pair(**more: Any) -> tuple[Any, Any]:
    """Keras' layer and ours, built, with the same weights and the same random state."""
    import keras

    from trainer import layers

    made = (
        keras.layers.Bidirectional(keras.layers.LSTM(UNITS, **{"return_sequences": True, **more})),
        layers.Bidirectional(keras.layers.LSTM(UNITS, **{"return_sequences": True, **more})),
    )
    random = np.random.default_rng(0)
    for layer in made:
        layer.build((None, None, DIM))
    values = [random.normal(size=w.shape) / 2 for w in made[0].weights]
    for layer in made:
        layer.set_weights(values)
    same_draws(*made)
    return made


def same_draws(*layers: Any) -> None:
    """All are about to draw the same."""
    for layer in layers:
        for number, side in enumerate((layer.forward_layer, layer.backward_layer)):
            side.cell.seed_generator.state.assign(np.array([1, number], np.uint32))


def clips() -> tuple[Any, Any]:
    """Values everywhere, in the padding too, and the mask."""
    x = np.random.default_rng(1).normal(size=(len(LENGTHS), FRAMES, DIM)).astype(np.float32)
    return x, np.arange(FRAMES) < np.array(LENGTHS)[:, None]


def outcome(layer: Any, x: Any, mask: Any, training: bool = True, asked: Any = None) -> list[Any]:
    """The output, and the gradients of the input and of every weight."""
    import tensorflow as tf

    if asked is None:
        shape = layer.compute_output_shape(x.shape)
        asked = np.random.default_rng(2).normal(size=shape).astype(np.float32)

    @tf.function(autograph=False)
    def run(inputs: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = layer(inputs, mask=mask, training=training)
            loss = tf.reduce_sum(y * asked)
        return [y, *tape.gradient(loss, [inputs, *(w.value for w in layer.trainable_weights)])]

    return list(run(tf.constant(x)))


def assert_equal(first: list[Any], second: list[Any]) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("return_sequences", "masked", "dropout", "recurrent"),
    [
        (True, True, 0.0, 0.0),
        (True, True, 0.4, 0.0),
        (True, True, 0.0, 0.3),
        (True, True, 0.4, 0.3),
        (True, False, 0.4, 0.3),
        (False, True, 0.0, 0.3),
        (False, False, 0.0, 0.0),
    ],
)
def test_output_and_every_gradient_are_keras_own(
    return_sequences: bool, masked: bool, dropout: float, recurrent: float
) -> None:
    first, second = pair(return_sequences=return_sequences, dropout=dropout, recurrent_dropout=recurrent)
    x, mask = clips()
    ours = outcome(second, x, mask if masked else None)
    assert_equal(outcome(first, x, mask if masked else None), ours)
    if dropout or recurrent:
        assert np.abs(np.asarray(ours[0]) - outcome(second, x, mask, training=False)[0]).max() > 1e-3


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_in_bfloat16_the_first_digits_are_the_same(dropout: float) -> None:
    import keras

    from trainer import layers

    first, second = pair(dropout=dropout)
    coarse = layers.Bidirectional(
        keras.layers.LSTM(UNITS, return_sequences=True, dropout=dropout), bfloat16=True
    )
    coarse.build((None, None, DIM))
    coarse.set_weights(first.get_weights())
    same_draws(first, coarse)
    x, mask = clips()
    exact, rounded = outcome(second, x, mask), outcome(coarse, x, mask)
    for a, b in zip(exact, rounded, strict=True):
        assert np.abs(np.asarray(a) - b).max() < 0.05 * np.abs(np.asarray(a)).max()
    assert np.abs(np.asarray(exact[0]) - rounded[0]).max() > 1e-5
    assert layers.Bidirectional.from_config(coarse.get_config()).bfloat16


def test_padding_may_lie_anywhere() -> None:
    first, second = pair(recurrent_dropout=0.3)
    x, _ = clips()
    mask = np.random.default_rng(3).random(x.shape[:2]) < 0.6
    assert_equal(outcome(first, x, mask), outcome(second, x, mask))


def test_what_lies_in_the_padding_is_never_seen() -> None:
    _, layer = pair()
    x, mask = clips()
    found = outcome(layer, x, mask)
    again = outcome(layer, np.where(mask[..., None], x, 1e6).astype(np.float32), mask)
    assert_equal(found, again)
    assert not np.asarray(found[0])[~mask].any()
    assert not np.asarray(found[1])[~mask].any()


def test_masks_are_drawn_for_each_clip_and_gate_and_stay_for_all_frames() -> None:
    """Frames that are all the same leave no other difference between them than the state before."""
    first, second = pair(dropout=0.5, recurrent_dropout=0.5)
    x = np.repeat(clips()[0][:1, :1], FRAMES, axis=1).repeat(3, axis=0)
    ours = np.asarray(second(x, training=True))
    np.testing.assert_allclose(first(x, training=True), ours, atol=1e-5)
    assert len({row.tobytes() for row in ours[:, 0]}) == 3
    assert not np.allclose(ours, second(x, training=True))


def shared(**more: Any) -> tuple[Any, Any]:
    """Keras' layer, and ours with what is dropped shared by the clips of a batch."""
    import keras

    from trainer import layers

    first, _ = pair(**more)
    ours = layers.Bidirectional(keras.layers.LSTM(UNITS, return_sequences=True, **more), shared_dropout=True)
    ours.build((None, None, DIM))
    ours.set_weights(first.get_weights())
    same_draws(first, ours)
    return first, ours


@pytest.mark.parametrize(("dropout", "recurrent"), [(0.4, 0.3), (0.0, 0.3), (0.4, 0.0)])
def test_shared_dropout_drops_of_every_clip_what_keras_drops_of_one(dropout: float, recurrent: float) -> None:
    first, second = shared(dropout=dropout, recurrent_dropout=recurrent)
    x, mask = clips()
    ours = outcome(second, x, mask)
    asked = np.random.default_rng(2).normal(size=ours[0].shape).astype(np.float32)
    alone = []
    for i in range(len(x)):
        same_draws(first)
        one = slice(i, i + 1)
        alone.append(outcome(first, x[one], mask[one], asked=asked[one]))
    outputs, inputs, *weights = zip(*alone, strict=True)
    assert_equal(
        [np.concatenate(outputs), np.concatenate(inputs), *(np.sum(w, axis=0) for w in weights)], ours
    )


def test_what_is_dropped_of_all_clips_changes_from_batch_to_batch_and_not_when_predicting() -> None:
    _, layer = shared(dropout=0.5, recurrent_dropout=0.5)
    x, mask = clips()
    assert not np.allclose(layer(x, mask=mask, training=True), layer(x, mask=mask, training=True))
    np.testing.assert_array_equal(layer(x, mask=mask), layer(x, mask=mask))
    assert type(layer).from_config(layer.get_config()).shared_dropout


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("masked", "dropout", "recurrent", "share"),
    [
        (True, 0.0, 0.0, False),
        (True, 0.4, 0.3, False),
        (True, 0.4, 0.3, True),
        (False, 0.4, 0.0, False),
        (False, 0.0, 0.3, False),
    ],
)
def test_normalising_inside_is_normalising_before(
    masked: bool, dropout: float, recurrent: float, share: bool, training: bool
) -> None:
    import keras

    from trainer import layers

    first, second = pair(dropout=dropout, recurrent_dropout=recurrent)
    lstm = keras.layers.LSTM(UNITS, return_sequences=True, dropout=dropout, recurrent_dropout=recurrent)
    if share:
        first = layers.Bidirectional(lstm, shared_dropout=True)
        first.build((None, None, DIM))
        first.set_weights(second.get_weights())
    inside = layers.NormalizedBidirectional(lstm, shared_dropout=share)
    before = keras.layers.BatchNormalization()
    for layer in (inside, before):
        layer.build((None, None, DIM))
    random = np.random.default_rng(4)
    # Not those that it begins with, which would hide a factor that is missing.
    statistics = [random.uniform(0.5, 2, DIM) for _ in before.weights]
    before.set_weights(statistics)
    inside.set_weights([*first.get_weights(), *statistics])
    same_draws(first, inside)

    class Chain:
        """The two layers, as `outcome` takes one."""

        def __init__(self) -> None:
            self.trainable_weights = [*first.trainable_weights, *before.trainable_weights]
            self.compute_output_shape = first.compute_output_shape

        def __call__(self, x: Any, mask: Any, training: bool) -> Any:
            return first(before(x, mask=mask, training=training), mask=mask, training=training)

    x, mask = clips()
    real = mask if masked else None
    assert_equal(outcome(Chain(), x, real, training), outcome(inside, x, real, training))
    assert_equal(before.weights, inside.normalization.weights)
    moved = not np.allclose(before.moving_mean, statistics[2])
    assert moved == training


def test_a_graph_for_cudnn_is_made_of_what_is_left_without_dropout() -> None:
    """It runs on a GPU alone; that it can be made, with these shapes, shows that Keras still takes it so."""
    import tensorflow as tf

    from trainer.layers import recurrent

    _, layer = shared(dropout=0.4, recurrent_dropout=0.3)

    @tf.function(autograph=False)
    def graph(x: Any, mask: Any) -> list[Any]:
        found = []
        for one in (layer.forward_layer, layer.backward_layer):
            weights, inputs, hidden = recurrent._dropped_out(one.cell, x, training=True, shared=True)
            assert inputs is None and hidden is None
            found.append(recurrent._by_cudnn(one, x, mask, weights))
        return found

    specs = tf.TensorSpec((None, None, DIM), tf.float32), tf.TensorSpec((None, None), tf.bool)
    with mock.patch("keras.src.backend.tensorflow.rnn.cudnn_ok", return_value=True):  # as on a GPU
        made = graph.get_concrete_function(*specs)
    assert [y.shape.as_list() for y in made.structured_outputs] == [[None, None, UNITS]] * 2
    assert sum(op.type == "CudnnRNNV3" for op in made.graph.get_operations()) == 2


def model(bidirectional: Any) -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    inputs = keras.Input((None, DIM))
    x = layers.Masking(0.0)(inputs)
    for _ in range(2):
        lstm = layers.LSTM(
            UNITS,
            return_sequences=True,
            recurrent_dropout=0.2,
            kernel_regularizer=keras.regularizers.L2(1e-2),
            recurrent_constraint=keras.constraints.MaxNorm(0.4),
        )
        x = bidirectional(lstm)(x)
    x = layers.GlobalAveragePooling1D()(x)
    made = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    made.compile(optimizer=keras.optimizers.SGD(0.5), loss="sparse_categorical_crossentropy")
    return made


def real_clips() -> Any:
    """For a model that masks: the clips that are not empty, zeros in the padding."""
    x, mask = clips()
    return np.where(mask[..., None], x, 0)[mask.any(axis=1)]


def test_files_of_weights_go_both_ways(tmp_path: Path) -> None:
    import keras

    from trainer import layers

    x = real_clips()
    path = tmp_path / "some.weights.h5"
    kinds = (keras.layers.Bidirectional, layers.Bidirectional)
    for source, target in (kinds, kinds[::-1]):
        first, second = model(source), model(target)
        for w in first.weights:
            w.assign(w + 0.1)
        first.save_weights(path)
        second.load_weights(path)
        np.testing.assert_allclose(first(x), second(x), atol=1e-6)
        assert [w.path for w in first.weights] != []


def test_a_step_of_training_is_keras_own_with_decay_and_limits_on_weights() -> None:
    import keras

    from trainer import layers

    x = real_clips()
    trained = []
    for kind in (keras.layers.Bidirectional, layers.Bidirectional):
        made = model(kind)
        losses = [float(made.train_on_batch(x, np.array([0, 1, 2, 0]))) for _ in range(3)]
        trained.append([np.array(losses), *made.get_weights()])
    assert_equal(*trained)
    norms = [np.sqrt((w**2).sum(axis=0)) for w in trained[1] if w.shape == (UNITS, 4 * UNITS)]
    assert max(n.max() for n in norms) <= 0.4 + 1e-5


def test_a_saved_model_is_loaded_with_safe_mode_on_and_answers_the_same(tmp_path: Path) -> None:
    import keras

    from trainer import layers

    made = model(layers.Bidirectional)
    made.save(tmp_path / "some.keras")
    again = keras.models.load_model(tmp_path / "some.keras", safe_mode=True)
    assert [type(x) for x in again.layers[2:4]] == [layers.Bidirectional] * 2
    x = real_clips()
    np.testing.assert_array_equal(made(x), again(x))


@pytest.mark.parametrize(
    ("lstm", "bidirectional", "said"),
    [
        ({"activation": "relu"}, {}, "tanh, sigmoid and a bias"),
        ({"use_bias": False}, {}, "tanh, sigmoid and a bias"),
        ({"stateful": True}, {}, "neither keeps nor returns states"),
        ({}, {"merge_mode": "sum"}, "concatenated"),
    ],
)
def test_what_it_does_not_compute_is_refused(
    lstm: dict[str, Any], bidirectional: dict[str, Any], said: str
) -> None:
    import keras

    from trainer import layers

    with pytest.raises(ValueError, match=said):
        layers.Bidirectional(keras.layers.LSTM(UNITS, **lstm), **bidirectional)
    with pytest.raises(ValueError, match="not GRU"):
        layers.Bidirectional(keras.layers.GRU(UNITS))
