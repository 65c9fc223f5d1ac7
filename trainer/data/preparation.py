"""What a recipe asks to be done with clips before its model sees them. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

CLASS_WEIGHTS = ("max_count", "balanced", "none")


@dataclass(frozen=True)
class Preparation:
    """The wishes of one recipe with its parameters; the defaults are those of v9.

    Clips are brought to `frames`, or where that is None to the `percentile` of the training lengths.
    `validation` is the share to validate on; with `adaptive` it is the least share, and each class keeps two
    clips on each side where it has four. `class_weights` is one of `CLASS_WEIGHTS`. `one_hot` gives the loss
    a row of class shares for each clip and not an index. `noise` is the deviation of what is added to real
    frames, `mixup` the alpha of MixUp; both are for training alone, and 0 is without.
    """

    percentile: float = 98.0
    frames: int | None = None
    validation: float = 0.1
    adaptive: bool = False
    class_weights: str = "max_count"
    one_hot: bool = False
    noise: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        if self.class_weights not in CLASS_WEIGHTS:
            raise ValueError(f"class_weights={self.class_weights}: choose from {', '.join(CLASS_WEIGHTS)}")
        if self.mixup and not self.one_hot:
            raise ValueError("an index cannot say that a clip is two thirds one class: mixup needs one_hot")
