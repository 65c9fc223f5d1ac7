from typing import Any

import numpy as np
import pytest


def masked(rows: list[list[float]], lengths: tuple[int, ...]):  # type: ignore[no-untyped-def]
    """(n, T, 1) and its mask."""
    x = np.array(rows, np.float32)[..., None]
    return x, np.arange(x.shape[1]) < np.array(lengths)[:, None]


def test_a_convolution_sees_zeros_behind_the_clip_whatever_is_there() -> None:
    from trainer.layers import MaskedConv1D

    layer = MaskedConv1D(1, 3, padding="same", kernel_initializer="ones", bias_initializer="ones")
    x, mask = masked([[1, 2, 3, 99, 99]], (3,))
    assert np.asarray(layer(x, mask=mask))[0, :3, 0].tolist() == [4, 7, 6]


@pytest.mark.parametrize(("kernel", "dilation"), [(5, 1), (3, 4), (4, 1), (1, 1)])
def test_a_convolution_of_real_frames_alone_is_keras_own_and_so_are_its_gradients(
    kernel: int, dilation: int
) -> None:
    import keras
    import tensorflow as tf

    from trainer.layers import MaskedConv1D

    random = np.random.default_rng(0)
    x = tf.constant(random.standard_normal((6, 13, 3), dtype=np.float32))
    mask = np.arange(13) < np.array([13, 7, 0, 1, 13, 12])[:, None]
    mask[1, 2:4] = False  # a hole, nearer than a frame sees
    asked = random.standard_normal((6, 13, 4), dtype=np.float32) * mask[..., None]
    ours = MaskedConv1D(4, kernel, padding="same", dilation_rate=dilation, activation="tanh")
    plain = keras.layers.Conv1D(4, kernel, padding="same", dilation_rate=dilation, activation="tanh")
    found = []
    for layer in (ours, plain):
        layer.build(x.shape)
        layer.set_weights([*ours.get_weights()[:1], np.linspace(-1, 1, 4)])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, mask=mask) if layer is ours else layer(x * mask[..., None])
            loss = tf.reduce_sum(y * asked)
        found.append([y * mask[..., None], *tape.gradient(loss, [x, layer.kernel, layer.bias])])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b * mask[..., None] if a.shape == x.shape else b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("taps", [4, 5])
def test_a_convolution_with_fewer_products_rounds_little_at_the_size_of_a_speech_encoder(taps: int) -> None:
    import tensorflow as tf

    from trainer.layers import winograd

    random = np.random.default_rng(0)
    frames = random.standard_normal((400 + taps - 1, 768), dtype=np.float32)
    kernel = random.standard_normal((taps, 768, 128), dtype=np.float32) / np.float32(np.sqrt(taps * 768))
    asked = random.standard_normal((400, 128), dtype=np.float32) / 20
    weights = tf.Variable(kernel)
    starts = np.arange(0, 400, winograd.OUTPUTS)
    with tf.GradientTape() as tape:
        found = winograd.convolve(
            tf.constant(frames[np.arange(winograd.points(taps))[:, None] + starts]), weights
        )
    exact = sum(frames[j : j + 400].astype(float) @ kernel[j] for j in range(taps))
    gradient = np.stack([frames[j : j + 400].astype(float).T @ asked for j in range(taps)])
    for a, b in ((found, exact), (tape.gradient(found, weights, asked), gradient)):
        assert np.sqrt(np.mean(np.square(a - b))) < 3e-6 * np.std(b)


@pytest.mark.parametrize(
    ("taps", "more", "fewer"),
    [
        (4, {}, True),
        (5, {}, True),
        (3, {}, False),
        (5, {"dilation_rate": 2}, False),
        (5, {"dtype": "mixed_float16"}, False),
    ],
)
def test_near_taps_are_convolved_with_fewer_products(taps: int, more: dict[str, Any], fewer: bool) -> None:
    """Results are the same either way, so it is seen by what the graph consists of."""
    import tensorflow as tf

    from trainer.layers import MaskedConv1D

    layer = MaskedConv1D(4, taps, padding="same", **more)
    layer.build((None, None, 3))
    graph = tf.function(lambda x, mask: layer(x, mask=mask)).get_concrete_function(
        tf.TensorSpec((None, None, 3), tf.float32), tf.TensorSpec((None, None), tf.bool)
    )
    kinds = {op.type for op in graph.graph.get_operations()}
    assert ("Conv2D" in kinds) != fewer


def test_a_convolution_that_would_not_keep_all_frames_is_refused() -> None:
    from trainer.layers import MaskedConv1D

    for asked in ({"padding": "valid"}, {"strides": 2}, {"groups": 2}):
        with pytest.raises(ValueError, match="keeps all frames"):
            MaskedConv1D(4, 3, **{"padding": "same", **asked})


def test_masking_says_which_frames_are_padding_and_leaves_them() -> None:
    from trainer.layers import Masking

    x = np.array([[[0.0, 1.0], [0.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]], np.float32)
    out = Masking(0.0)(x)
    assert np.asarray(out).tolist() == x.tolist()
    assert np.asarray(out._keras_mask).tolist() == [[True, False, True, False]]


def test_a_pooled_frame_is_real_if_any_of_its_frames_was_and_padding_never_wins() -> None:
    from trainer.layers import MaskedMaxPool1D

    layer = MaskedMaxPool1D(2)
    x, mask = masked([[-3, -5, -4, 0, 0], [1, 2, 3, 4, 5], [-1, 0, 0, 0, 0]], (3, 5, 1))
    out = np.asarray(layer(x, mask=mask))[..., 0]
    assert out.tolist() == [[-3, -4, 0], [2, 4, 5], [-1, 0, 0]]
    pooled = np.asarray(layer.compute_mask(x, mask))
    assert pooled.tolist() == [[True, True, False], [True, True, True], [True, False, False]]
    assert layer.compute_mask(x, None) is None
    assert np.asarray(layer(x))[0, :, 0].tolist() == [-3, 0, 0]


def test_a_mean_over_frames_leaves_padding_out() -> None:
    from trainer.layers import MaskedMeanPool1D

    x, mask = masked([[1, 3, 5, 99, 99], [1, 2, 3, 4, 5]], (3, 5))
    out = np.asarray(MaskedMeanPool1D(2)(x, mask=mask))[..., 0]
    assert out.tolist() == [[2, 5, 0], [1.5, 3.5, 5]]


@pytest.mark.parametrize(("frames", "size"), [(7, 3), (6, 3), (1, 2)])
@pytest.mark.parametrize("kind", ["MaskedMaxPool1D", "MaskedMeanPool1D"])
def test_pooling_says_its_shape(kind: str, frames: int, size: int) -> None:
    from trainer import layers

    layer = getattr(layers, kind)(size)
    x = np.zeros((2, frames, 4), np.float32)
    assert tuple(layer(x).shape) == layer.compute_output_shape(x.shape)


def test_a_clip_is_standardised_by_its_own_frames() -> None:
    from trainer.layers import ClipStandardization

    x, mask = masked([[1, 3, 99, 99], [7, 7, 7, 7]], (2, 4))
    out = np.asarray(ClipStandardization()(x, mask=mask))[..., 0]
    np.testing.assert_allclose(out, [[-1, 1, 0, 0], [0, 0, 0, 0]], atol=1e-3)


def test_attentive_statistics_are_means_and_deviations_under_softmax_weights() -> None:
    from trainer.layers import AttentiveStatistics

    random = np.random.default_rng(0)
    x = random.normal(size=(1, 6, 3)).astype(np.float32)
    layer = AttentiveStatistics(2, units=5)
    found = np.asarray(layer(x, mask=np.arange(6)[None] < 4))[0].reshape(2, 2, 3)
    real = x[0, :4]
    scores = np.tanh(real @ layer.hidden.kernel.numpy()) @ layer.scores.kernel.numpy()
    weights = np.exp(scores) / np.exp(scores).sum(axis=0)
    mean = weights.T @ real
    np.testing.assert_allclose(found[0], mean, atol=1e-5)
    variance = weights.T @ real**2 - mean**2
    np.testing.assert_allclose(found[1], np.sqrt(variance), atol=1e-3)


def test_segments_keep_the_order_that_a_mean_over_all_loses() -> None:
    from trainer.layers import SegmentStatistics

    x, mask = masked([[*range(9), 99], [*range(8, -1, -1), 99]], (9, 9))
    found = np.asarray(SegmentStatistics(2)(x, mask=mask)).reshape(2, 2, 2)
    # Weights of the first part: 1/6, 3/6, 5/6, 1 - 1/6, 3/6, 1/6 and nothing from the seventh frame on.
    np.testing.assert_allclose(found[0, 0], [2.5, 5.5], atol=1e-4)
    np.testing.assert_allclose(found[1, 0], [5.5, 2.5], atol=1e-4)
    weights = np.array([1, 3, 5, 5, 3, 1]) / 18
    deviation = np.sqrt(weights @ (np.arange(6) - 2.5) ** 2)
    np.testing.assert_allclose(found[:, 1], deviation, atol=1e-3)


@pytest.mark.parametrize("length", [1, 2])
def test_a_clip_shorter_than_its_parts_has_finite_statistics(length: int) -> None:
    from trainer.layers import SegmentStatistics

    x, mask = masked([[3, 3, 99]], (length,))
    found = np.asarray(SegmentStatistics(8)(x, mask=mask))
    np.testing.assert_allclose(found[0, :8], 3, rtol=1e-3)


def test_a_spectrum_s_block_says_its_shape_and_halves_the_mask() -> None:
    from trainer.layers import SpectrumBlock

    for frames, bins, stride in ((7, 9, 2), (6, 1, 2), (5, 4, 1)):
        layer = SpectrumBlock(3, kernel=5, stride=stride)
        x, mask = np.ones((2, frames, bins, 2), np.float32), np.arange(frames)[None].repeat(2, 0) < 3
        out = layer(x, mask=mask)
        assert tuple(out.shape) == layer.compute_output_shape(x.shape)
        kept = np.asarray(layer.compute_mask(x, mask))
        assert kept.shape == tuple(out.shape[:2])
        assert kept.sum() == 2 * (2 if stride == 2 else 3)
        assert not np.asarray(out)[~kept].any()


@pytest.mark.parametrize("bins", [6, 7])
def test_the_larger_of_two_bins_is_keras_own_pooling_forward_and_backward(bins: int) -> None:
    import keras
    import tensorflow as tf

    from trainer.layers import spectrum

    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(2, 5, bins, 3)).astype(np.float32))
    asked = random.normal(size=(2, 5, -(-bins // 2), 3)).astype(np.float32)
    found = []
    for pool in (spectrum._larger, keras.layers.MaxPooling2D((1, 2), padding="same")):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = pool(x)
            loss = tf.reduce_sum(y * asked)
        found.append((y, tape.gradient(loss, x)))
    for ours, keras_own in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, keras_own)


def test_neighbouring_bands_of_views_become_their_mean() -> None:
    from trainer.layers import Channels

    x = np.arange(10, dtype=np.float32).reshape(1, 2, 5)
    layer = Channels(2)
    out = np.asarray(layer([x, -x]))
    assert out[..., 0].tolist() == [[[0.5, 2.5, 4], [5.5, 7.5, 9]]]
    assert out[..., 1].tolist() == (-out[..., 0]).tolist()
    assert out.shape == layer.compute_output_shape([x.shape, x.shape])
    assert np.asarray(Channels()([x, -x]))[..., 1].tolist() == (-x).tolist()


def test_each_member_of_a_committee_learns_as_if_it_were_alone() -> None:
    import keras
    import tensorflow as tf

    from trainer.layers import Committee, CommitteeCrossentropy

    random = np.random.default_rng(0)
    members = [tf.Variable(random.normal(size=(4, 3)) * 3, dtype=tf.float32) for _ in range(3)]
    targets = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    committee, loss = Committee(), CommitteeCrossentropy(0.1)
    with tf.GradientTape() as together:
        value = loss(targets, committee(list(members), training=True))
    alone = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    with tf.GradientTape() as apart:
        wanted = sum(alone(targets, m) for m in members) / 3
    assert float(value) == pytest.approx(float(wanted), rel=1e-5)
    for a, b in zip(together.gradient(value, members), apart.gradient(wanted, members), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    answer = np.asarray(committee(list(members), training=False))
    shares = [np.exp(m.numpy()) / np.exp(m.numpy()).sum(axis=1, keepdims=True) for m in members]
    np.testing.assert_allclose(answer, np.mean(shares, axis=0), atol=1e-6)


def test_attention_is_a_softmax_over_real_frames_of_scaled_scores() -> None:
    from trainer.layers import SelfAttention

    random = np.random.default_rng(0)
    x = random.normal(size=(1, 5, 3)).astype(np.float32)
    mask = np.array([[True, True, True, False, False]])
    for scaled in (True, False):
        layer = SelfAttention(4, scaled=scaled)
        found = np.asarray(layer(x, mask=mask))[0]
        q, k, v = (x[0] @ d.kernel.numpy() for d in (layer.query, layer.key, layer.value))
        scores = (q @ k[:3].T) / (2 if scaled else 1)
        shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found, shares @ v[:3], atol=1e-5)


def test_the_mean_of_attention_is_keras_own_attention_and_mean_forward_and_backward() -> None:
    import keras
    import tensorflow as tf

    from trainer.layers import AttentionMean

    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(4, 7, 3)), tf.float32)
    asked = random.normal(size=(4, 3)).astype(np.float32)
    attention, ours = keras.layers.Attention(use_scale=True), AttentionMean()
    attention.build([x.shape, x.shape])
    ours.build(x.shape)
    for mask in (None, tf.constant(np.arange(7) < np.array([[7], [1], [4], [2]]))):
        found = []
        for layer in (attention, ours):
            layer.set_weights([np.float32(0.7)])
            with tf.GradientTape() as tape:
                tape.watch(x)
                if layer is ours:
                    y = ours(x, mask=mask)
                else:
                    rows = attention([x, x], mask=[mask, mask])
                    y = keras.layers.GlobalAveragePooling1D()(rows, mask=mask)
                loss = tf.reduce_sum(y * asked)
            found.append([y, *tape.gradient(loss, [x, layer.scale])])
        for a, b in zip(*found, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_every_layer_is_made_again_from_what_it_says_of_itself() -> None:
    import keras

    from trainer import layers

    made = [
        layers.MaskedConv1D(3, 5, padding="same", activation="relu"),
        layers.Masking(0.0),
        layers.MaskedMaxPool1D(3),
        layers.MaskedMeanPool1D(3),
        layers.SelfAttention(4, scaled=False),
        layers.AttentionMean(),
        layers.Limit(15.0),
        layers.ClipStandardization(),
        layers.AttentiveStatistics(4, units=5),
        layers.SegmentStatistics(3),
        layers.SpectrumBlock(3, kernel=5, stride=2),
        layers.Channels(2),
        layers.FlatChannels(),
    ]
    for layer in made:
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
        assert type(again) is type(layer)
        assert again.get_config() == layer.get_config()
        assert again.supports_masking
