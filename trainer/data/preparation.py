"""What a recipe asks to be done with clips before its model sees them. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, replace

CLASS_WEIGHTS = ("max_count", "balanced", "none")
FEATURES = ("auto", "spectrum", "embedding")
# How many bands mel spectrograms are usually made of; 96 is left out, being an embedding's as often.
BANDS = (23, 26, 40, 60, 64, 80, 120, 128)


def is_spectrum(features: str, dim: int) -> bool:
    """Whether neighbouring dimensions are neighbouring frequencies: said in `features`, one of `FEATURES`, or
    for `auto` judged by their number.
    """
    return features == "spectrum" or (features == "auto" and dim in BANDS)


@dataclass(frozen=True)
class Adaptation:
    """How clips are normalised by what else is heard of their speaker.

    The general statistics join the speaker's own as `prior` clips would, so that one clip alone moves them
    little and many clips outweigh them. Each of `parts` parts of a clip, of equal length, has statistics of
    its own: where people say the same things, what they say is then measured away with how they sound.
    """

    prior: float
    parts: int = 1

    def __post_init__(self) -> None:
        if self.prior <= 0 or self.parts < 1:
            raise ValueError(f"{self}: the general statistics count as some clips, and a clip has parts")


@dataclass(frozen=True)
class Preparation:
    """The wishes of one recipe with its parameters; the defaults are those of v9.

    Clips are brought to `frames`, or where that is None to the `percentile` of the training lengths.
    `validation` is the share to validate on; with `adaptive` it is the least share, and each class keeps two
    clips on each side where it has four. `class_weights` is one of `CLASS_WEIGHTS`. `one_hot` gives the loss
    a row of class shares for each clip and not an index. `noise` is the deviation of what is added to real
    frames, `mixup` the alpha of MixUp, `stretch` by which share a clip may become longer or shorter, `warp`
    by which share the frequencies of a spectrum may, `masks` how many spans of frames and how many of
    dimensions are blanked; all are for training alone, and 0 is without. `features` is one of `FEATURES`;
    for a spectrum `spectrum_noise` and `spectrum_mixup` hold where they are not None. With `adapt` above 0
    clips are normalised by their speaker's voice, see `Adaptation`: it is the prior, `adapt_parts` the parts;
    `alone` is the share of training clips, others at every turn, that are taken for all that is heard of
    their speaker, so that the model learns to do with little.

    `trim` ends each batch soon after its longest clip: for models in which padding counts for nothing, and
    which therefore learn the same, sooner. `buckets` makes batches of clips of like length, by sorting those
    of so many batches together: less padding, but no longer every mixture of clips; 0 is without.
    """

    percentile: float = 98.0
    frames: int | None = None
    validation: float = 0.1
    adaptive: bool = False
    class_weights: str = "max_count"
    one_hot: bool = False
    noise: float = 0.0
    mixup: float = 0.0
    stretch: float = 0.0
    warp: float = 0.0
    masks: int = 0
    trim: bool = False
    buckets: int = 0
    features: str = "auto"
    spectrum_noise: float | None = None
    spectrum_mixup: float | None = None
    adapt: float = 0.0
    adapt_parts: int = 1
    alone: float = 0.0

    def __post_init__(self) -> None:
        if self.class_weights not in CLASS_WEIGHTS:
            raise ValueError(f"class_weights={self.class_weights}: choose from {', '.join(CLASS_WEIGHTS)}")
        if (self.mixup or self.spectrum_mixup) and not self.one_hot:
            raise ValueError("an index cannot say that a clip is two thirds one class: mixup needs one_hot")

    @property
    def adaptation(self) -> Adaptation | None:
        """How clips are adapted to voices; None where they are not."""
        return Adaptation(self.adapt, self.adapt_parts) if self.adapt else None

    def shape(self, frames: int, dim: int) -> tuple[int | None, int]:
        """What the model is built for: where batches are trimmed, any number of frames."""
        return (None if self.trim else frames, dim)

    def of(self, dim: int) -> Preparation:
        """The wishes for features of so many dimensions."""
        if not is_spectrum(self.features, dim):
            return replace(self, warp=0.0)
        noise = self.noise if self.spectrum_noise is None else self.spectrum_noise
        mixup = self.mixup if self.spectrum_mixup is None else self.spectrum_mixup
        return replace(self, noise=noise, mixup=mixup)
