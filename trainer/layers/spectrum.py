"""Local patterns in time and frequency."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from trainer.layers.masked import PACKAGE, frame_weights


@keras.saving.register_keras_serializable(package=PACKAGE)
class SpectrumBlock(keras.layers.Layer):  # type: ignore[misc]
    """Convolution over time and frequency, the larger of two neighbouring bins, BatchNormalization, ReLU.

    Of time every `stride`-th frame is kept, of frequency half. Padding is to be zeros, and is zeros after.
    """

    def __init__(self, filters: int, kernel: int = 3, stride: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.filters, self.kernel, self.stride = filters, kernel, stride
        # Padded by hand in `call`: "same" begins where the length decides, and that has padding in it.
        self.convolution = keras.layers.Conv2D(
            filters, kernel, strides=(stride, stride), padding="valid", use_bias=False, name="convolution"
        )
        self.normalization = keras.layers.BatchNormalization(name="normalization")

    def build(self, input_shape: Any) -> None:
        """Here and not in `call`, so that the weights are there before they are loaded."""
        batch, frames, bins, channels = input_shape
        around = self.kernel - 1
        self.convolution.build((batch, frames + around, bins + around, channels))
        self.normalization.build(self.compute_output_shape(input_shape))
        super().build(input_shape)

    def call(self, inputs: Any, mask: Any = None, training: bool = False) -> Any:
        """(batch, frames, bins, channels) to (batch, frames / stride, bins / stride / 2, filters)."""
        around = [(self.kernel - 1) // 2, self.kernel // 2]
        x = ops.pad(inputs, [[0, 0], around, around, [0, 0]])
        x = self.normalization(_larger(self.convolution(x)), training=training)
        x = ops.relu(x)
        # Times 0, which is cheaper here than to choose by the mask, as `without_padding` does.
        return x if mask is None else x * frame_weights(inputs, mask)[:, :: self.stride, :, None]

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Of the frames that are kept."""
        return None if previous_mask is None else previous_mask[:, :: self.stride]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Rounded up."""
        batch, frames, bins, _ = input_shape
        return (batch, -(-frames // self.stride), -(-bins // (2 * self.stride)), self.filters)

    def get_config(self) -> dict[str, Any]:
        """All that `__init__` needs."""
        config = {"filters": self.filters, "kernel": self.kernel, "stride": self.stride}
        return {**super().get_config(), **config}


def _larger(x: Any) -> Any:
    """Of two neighbouring bins: (batch, frames, bins, channels) to (batch, frames, bins / 2, channels).

    As MaxPooling2D of Keras, which looks for the places of what is larger once more when it goes backwards.
    """
    _, frames, bins, channels = x.shape
    if bins % 2:
        x = ops.pad(x, [[0, 0], [0, 0], [0, 1], [0, 0]], constant_values=-np.inf)
    x = ops.reshape(x, (-1, frames or ops.shape(x)[1], -(-bins // 2), 2 * channels))
    return ops.maximum(*ops.split(x, 2, axis=-1))


@keras.saving.register_keras_serializable(package=PACKAGE)
class Channels(keras.layers.Layer):  # type: ignore[misc]
    """Views of the same frames, (batch, frames, dim) each, as channels: (batch, frames, bins, views).

    A bin is the mean of `width` neighbouring dimensions, the last of those that are left.
    """

    def __init__(self, width: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.width = width

    def call(self, inputs: list[Any]) -> Any:
        """Mean, then stack."""
        if self.width > 1:
            inputs = [ops.matmul(view, _means(view.shape[-1], self.width)) for view in inputs]
        # Cheaper than to stack along the last axis.
        return ops.transpose(ops.stack(inputs, axis=1), (0, 2, 3, 1))

    def compute_mask(self, inputs: list[Any], previous_mask: Any = None) -> Any:
        """That of the first: they are views of the same frames."""
        return previous_mask[0] if previous_mask else None

    def compute_output_shape(self, input_shape: list[Any]) -> Any:
        """Bins, rounded up, and one dimension more."""
        batch, frames, dim = input_shape[0]
        return (batch, frames, -(-dim // self.width), len(input_shape))

    def get_config(self) -> dict[str, Any]:
        """All that `__init__` needs."""
        return {**super().get_config(), "width": self.width}


def _means(dim: int, width: int) -> Any:
    """(dim, bins): what a row of dimensions is multiplied by to become its bins' means."""
    members = np.kron(np.eye(-(-dim // width)), np.ones((width, 1)))[:dim]
    return (members / members.sum(0)).astype(np.float32)


@keras.saving.register_keras_serializable(package=PACKAGE)
class FlatChannels(keras.layers.Layer):  # type: ignore[misc]
    """(batch, frames, bins, channels) to (batch, frames, bins * channels)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        """Reshape."""
        _, frames, bins, channels = inputs.shape
        return ops.reshape(inputs, (-1, frames, bins * channels))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """One dimension less."""
        batch, frames, bins, channels = input_shape
        return (batch, frames, bins * channels)
