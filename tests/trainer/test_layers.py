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


@pytest.mark.parametrize(("frames", "size"), [(7, 3), (6, 3), (1, 2)])
def test_pooling_says_its_shape(frames: int, size: int) -> None:
    from trainer.layers import MaskedMaxPool1D

    layer = MaskedMaxPool1D(size)
    x = np.zeros((2, frames, 4), np.float32)
    assert tuple(layer(x).shape) == layer.compute_output_shape(x.shape)


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


def test_every_layer_is_made_again_from_what_it_says_of_itself() -> None:
    import keras

    from trainer import layers

    made = [
        layers.MaskedConv1D(3, 5, padding="same", activation="relu"),
        layers.MaskedMaxPool1D(3),
        layers.SelfAttention(4, scaled=False),
        layers.Limit(15.0),
    ]
    for layer in made:
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
        assert type(again) is type(layer)
        assert again.get_config() == layer.get_config()
        assert again.supports_masking
