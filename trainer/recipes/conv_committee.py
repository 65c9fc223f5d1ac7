"""Small convolutional nets that vote, trained on ever changing clips for speakers never heard.

Each frame is seen twice, as it is and standardised over its own clip, which takes away what stays the same
while one person speaks. Members learn each for itself, and the mean of their probabilities answers:

* Nets of frames: the mean of every `pool` frames, residual dilated convolutions, attentive statistics
  (https://arxiv.org/abs/1803.10963) and those of overlapping segments, so that order is not lost.
* Where frames are a spectrum, one of the nets sees it as a picture instead: convolutions over time and
  frequency, in `bands` bands, come before those over time.
* A linear classifier of the segments' statistics.

Whether they are a spectrum `features` says, and for `auto` the number of dimensions: 23, 26, 40, 60, 64, 80,
120 and 128 are how many bands mel spectrograms have, all else is an embedding.

Before all that, frames are normalised by their speaker's voice as far as it was heard: by mean and deviation
of all their clips at hand, whatever the emotion, in each eighth of a clip. With several clips of a stranger
at hand that is worth points, with a single one it costs some (docs/results.md), and less because a share of
the training clips, `alone`, is normalised as if nothing else of their speaker had been heard. That
differences of speakers are to be normalised away is old and good practice (Busso, Metallinou and Narayanan,
ICASSP 2011, pages 5692-5695).

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
EPOCHS = 16
BATCH_SIZE = 32

DILATIONS = (1, 2, 4)


@dataclass(frozen=True)
class Params:
    """What may be set with `--set`. Raises ValueError for a value that no model can have."""

    features: str = choice("auto", "what neighbouring dimensions are", FEATURES)
    members: int = positive(
        2, "nets that vote beside the linear one; one of them sees a spectrum as a picture"
    )
    bands: int = positive(64, "bands of that picture; of twice as many in the spectrum, means of two")
    filters1: int = positive(12, "filters of its first convolution; the next have twice and four times that")
    filters2: int = positive(128, "filters of the convolutions over time")
    attention: int = positive(64, "units that attention is computed with")
    heads: int = positive(4, "attentive statistics of each net")
    segments: int = positive(8, "overlapping parts of a clip")
    pool: int = positive(4, "frames of an embedding that become one")
    spectrum_pool: int = positive(2, "the same for spectra")
    bottleneck: int = positive(32, "dimensions whose statistics are taken in each segment")
    adapt: float = at_least_zero(5.0, "clips of a speaker that count as much as all others; 0 adapts to none")
    adapt_parts: int = positive(8, "parts of a clip that have a speaker's statistics of their own")
    alone: float = share(0.3, "share of training clips taken for all that is heard of their speaker")
    dropout: float = share(0.3, "dropout of a net's statistics")
    linear_dropout: float = share(0.5, "dropout of the linear member's statistics")
    label_smoothing: float = share(0.1, "share of a label that is spread over all classes")
    noise: float = at_least_zero(0.3, "deviation of the noise on real frames; 0 is without")
    spectrum_noise: float = at_least_zero(0.1, "the same for spectra")
    mixup: float = at_least_zero(0.2, "alpha of MixUp; 0 is without")
    spectrum_mixup: float = at_least_zero(0.0, "the same for spectra")
    stretch: float = share(0.15, "share by which a clip may become longer or shorter")
    warp: float = share(0.1, "share by which a spectrum's frequencies may")
    masks: int = at_least_zero(1, "blanked spans of frames, and of dimensions")
    length_percentile: float = percent(100.0, "percentile of the training lengths that clips are brought to")
    validation: float = half(0.1, "share of clips that validate")
    patience: int = positive(1000, "epochs without a better val_accuracy that end the run")
    lr: float = positive(2e-3, "learning rate after the warm-up")
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
        spectrum_noise=params.spectrum_noise,
        spectrum_mixup=params.spectrum_mixup,
        adapt=params.adapt,
        adapt_parts=params.adapt_parts,
        alone=params.alone,
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

    from trainer.layers import ClipStandardization, Committee, CommitteeCrossentropy, Masking

    inputs = keras.Input(shape, name="frames")
    frames = Masking()(inputs)
    views = [frames, ClipStandardization()(frames)]
    spectrum = is_spectrum(params.features, shape[1])
    pool = params.spectrum_pool if spectrum else params.pool
    members = [_linear(frames, classes, params)]
    if spectrum:
        members.append(_picture_net(views, shape[1], classes, params))
    while len(members) <= params.members:
        members.append(_frames_net(views, pool, classes, params))
    model = keras.Model(inputs, Committee(name="emotion")(members), name="conv_committee")
    model.compile(
        optimizer=keras.optimizers.AdamW(
            params.lr, weight_decay=params.weight_decay, clipnorm=params.clipnorm
        ),
        loss=CommitteeCrossentropy(params.label_smoothing),
        metrics=["accuracy"],
    )
    return model


def _frames_net(views: list[Any], pool: int, classes: int, params: Params) -> Any:
    """Logits."""
    from keras import layers

    from trainer.layers import MaskedMeanPool1D, SegmentStatistics

    x = MaskedMeanPool1D(pool)(layers.Concatenate()(views))
    x = _residual(_convolution(x, params.filters2, kernel=5), params)
    ordered = SegmentStatistics(params.segments)(layers.Dense(params.bottleneck)(x))
    return _classifier(layers.Concatenate()([_attentive(x, params), ordered]), classes, params)


def _picture_net(views: list[Any], dim: int, classes: int, params: Params) -> Any:
    """Logits."""
    from trainer.layers import Channels, FlatChannels, SpectrumBlock

    x = Channels(max(1, dim // params.bands))(views)
    for times, kernel, stride in ((1, 5, 2), (2, 3, 1), (4, 3, 1)):
        x = SpectrumBlock(params.filters1 * times, kernel, stride)(x)
    x = _residual(_convolution(FlatChannels()(x), params.filters2), params)
    return _classifier(_attentive(x, params), classes, params)


def _linear(frames: Any, classes: int, params: Params) -> Any:
    """Logits from nothing but the statistics of segments."""
    from keras import layers

    from trainer.layers import SegmentStatistics

    x = SegmentStatistics(params.segments)(frames)
    x = layers.BatchNormalization(center=False, scale=False)(x)
    return layers.Dense(classes)(layers.Dropout(params.linear_dropout)(x))


def _residual(x: Any, params: Params) -> Any:
    from keras import layers

    for dilation in DILATIONS:
        x = layers.Add()([x, _convolution(x, params.filters2, dilation=dilation)])
    return x


def _convolution(x: Any, filters: int, kernel: int = 3, dilation: int = 1) -> Any:
    from keras import layers

    from trainer.layers import MaskedConv1D

    # Without a bias, which the normalisation would take away again.
    x = MaskedConv1D(filters, kernel, padding="same", dilation_rate=dilation, use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def _attentive(x: Any, params: Params) -> Any:
    from trainer.layers import AttentiveStatistics

    return AttentiveStatistics(params.heads, params.attention)(x)


def _classifier(x: Any, classes: int, params: Params) -> Any:
    from keras import layers

    x = layers.Dropout(params.dropout)(layers.BatchNormalization()(x))
    return layers.Dense(classes)(x)
