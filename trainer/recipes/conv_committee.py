"""Small convolutional nets that vote, trained on ever changing clips for speakers never heard.

Each frame is seen twice, as it is and standardised over its own clip, which takes away what stays the same
while one person speaks. Members that begin with other weights learn each for itself, and their mean answers:

* nets of residual dilated convolutions whose frames become attentive statistics
  (https://arxiv.org/abs/1803.10963) and statistics of overlapping segments, so that order is not lost;
* where frames are an embedding, before the convolutions every `pool` frames become their mean, and a linear
  classifier of the segments' statistics votes too: on few clips it errs elsewhere than the nets;
* where frames are a spectrum, before them come convolutions over time and frequency.

Which of the two it is `features` says, and for `auto` the number of dimensions does: 23, 26, 40, 60, 64, 80,
120 and 128 are how many bands mel spectrograms have, all else is an embedding.

Training clips change at every turn: tempo, noise, blanked spans (SpecAugment,
https://arxiv.org/abs/1904.08779), MixUp (https://arxiv.org/abs/1710.09412), and spectra are warped as another
vocal tract would (VTLP, Jaitly and Hinton 2013). AdamW (https://arxiv.org/abs/1711.05101) follows a warm-up
and one cosine, which alone decides when it is over: `patience` is longer than the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.data.preparation import FEATURES, Preparation, is_spectrum
from trainer.recipes._fields import at_least_zero, check, choice, half, percent, positive, share
from trainer.schedule import Plan

TAG = "committee"
EPOCHS = 30
BATCH_SIZE = 32

DILATIONS = (1, 2, 4)


@dataclass(frozen=True)
class Params:
    """What may be set with `--set`. Raises ValueError for a value that no model can have."""

    features: str = choice("auto", "what neighbouring dimensions are", FEATURES)
    members: int = positive(3, "nets that vote, beside the linear one for embeddings")
    filters1: int = positive(24, "filters of a spectrum's first convolution; the next have twice, four times")
    filters2: int = positive(128, "filters of the convolutions over time")
    attention: int = positive(64, "units that attention is computed with")
    heads: int = positive(4, "attentive statistics of each net")
    segments: int = positive(8, "overlapping parts of a clip")
    pool: int = positive(4, "frames of an embedding that become one")
    bottleneck: int = positive(32, "dimensions whose statistics are taken in each segment")
    channel_dropout: float = share(0.1, "dropout of whole channels between convolutions")
    dropout: float = share(0.3, "dropout of a net's statistics")
    linear_dropout: float = share(0.5, "dropout of the linear member's statistics")
    label_smoothing: float = share(0.1, "share of a label that is spread over all classes")
    noise: float = at_least_zero(0.3, "deviation of the noise on real frames; 0 is without")
    mixup: float = at_least_zero(0.2, "alpha of MixUp; 0 is without")
    stretch: float = share(0.15, "share by which a clip may become longer or shorter")
    warp: float = share(0.1, "share by which a spectrum's frequencies may")
    masks: int = at_least_zero(1, "blanked spans of frames, and of dimensions")
    length_percentile: float = percent(100.0, "percentile of the training lengths that clips are brought to")
    validation: float = half(0.1, "share of clips that validate")
    patience: int = positive(1000, "epochs without a better val_accuracy that end the run")
    lr: float = positive(1e-3, "learning rate after the warm-up")
    warmup: float = half(0.1, "share of the epochs that the warm-up takes")
    weight_decay: float = at_least_zero(1e-3, "of AdamW")
    clipnorm: float = positive(5.0, "largest norm of a gradient")

    def __post_init__(self) -> None:
        check(self)


def prepare(params: Params) -> Preparation:
    """Rows of class shares, because a mixed clip is of two classes."""
    return Preparation(
        percentile=params.length_percentile,
        validation=params.validation,
        class_weights="none",
        one_hot=True,
        noise=params.noise,
        mixup=params.mixup,
        stretch=params.stretch,
        warp=params.warp,
        masks=params.masks,
        features=params.features,
    )


def schedule(params: Params, *, epochs: int) -> Plan:
    """A warm-up, then the cosine at once."""
    warmup = max(2, round(params.warmup * epochs))
    return Plan(
        epochs=epochs,
        low=params.lr / warmup,
        high=params.lr,
        warmup=warmup,
        cosine_from=warmup + 1,
        floor=params.lr / 100,
    )


def build(shape: tuple[int, int], classes: int, params: Params) -> Any:
    """The compiled model: (batch, frames, dim) float32, zero-padded, to (batch, classes) probabilities."""
    # Imported here, so that a laptop without keras can list recipes and check parameters.
    import keras
    from keras import layers

    from trainer.layers import ClipStandardization, Committee, CommitteeCrossentropy

    spectrum = is_spectrum(params.features, shape[1])
    inputs = keras.Input(shape, name="frames")
    frames = layers.Masking(0.0)(inputs)
    views = [frames, ClipStandardization()(frames)]
    begin = _of_spectrum if spectrum else _of_embedding
    members = [_net(begin(views, params), classes, params) for _ in range(params.members)]
    if not spectrum:
        members.append(_linear(frames, classes, params))
    model = keras.Model(inputs, Committee(name="emotion")(members), name="conv_committee")
    model.compile(
        optimizer=keras.optimizers.AdamW(
            params.lr, weight_decay=params.weight_decay, clipnorm=params.clipnorm
        ),
        loss=CommitteeCrossentropy(params.label_smoothing),
        metrics=["accuracy"],
    )
    return model


def _of_embedding(views: list[Any], params: Params) -> Any:
    from keras import layers

    from trainer.layers import MaskedMeanPool1D

    return MaskedMeanPool1D(params.pool)(layers.Concatenate()(views))


def _of_spectrum(views: list[Any], params: Params) -> Any:
    from keras import layers

    from trainer.layers import Channels, FlatChannels, SpectrumBlock

    x = SpectrumBlock(params.filters1, kernel=5, stride=2)(Channels()(views))
    for times in (2, 4):
        x = layers.SpatialDropout2D(params.channel_dropout)(x)
        x = SpectrumBlock(params.filters1 * times)(x)
    return FlatChannels()(x)


def _net(x: Any, classes: int, params: Params) -> Any:
    """Logits from (batch, frames, dim)."""
    from keras import layers

    from trainer.layers import AttentiveStatistics, SegmentStatistics

    x = _convolution(x, params.filters2)
    for dilation in DILATIONS:
        kept = layers.SpatialDropout1D(params.channel_dropout)(x)
        x = layers.Add()([x, _convolution(kept, params.filters2, dilation)])
    attentive = AttentiveStatistics(params.heads, params.attention)(x)
    ordered = SegmentStatistics(params.segments)(layers.Dense(params.bottleneck)(x))
    x = layers.BatchNormalization()(layers.Concatenate()([attentive, ordered]))
    return layers.Dense(classes)(layers.Dropout(params.dropout)(x))


def _convolution(x: Any, filters: int, dilation: int = 1) -> Any:
    from keras import layers

    from trainer.layers import MaskedConv1D

    x = MaskedConv1D(filters, 3, padding="same", dilation_rate=dilation)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def _linear(frames: Any, classes: int, params: Params) -> Any:
    """Logits from nothing but the statistics of segments."""
    from keras import layers

    from trainer.layers import SegmentStatistics

    x = SegmentStatistics(params.segments)(frames)
    x = layers.BatchNormalization(center=False, scale=False)(x)
    return layers.Dense(classes)(layers.Dropout(params.linear_dropout)(x))
