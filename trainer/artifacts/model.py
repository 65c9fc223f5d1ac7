"""A model that came home: load its folder, check that the parts belong together, predict a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import contract
from trainer.clips import files
from trainer.data.normaliser import Floats, Normaliser, Voice
from trainer.data.preparation import Adaptation


class BundleError(ValueError):
    """A folder that holds no usable model: one sentence saying why."""


@dataclass(frozen=True)
class Bundle:
    """A model with its labels, its normaliser, and how it adapts to a voice, where it does."""

    model: Any
    classes: tuple[str, ...]
    norm: Normaliser
    tag: str
    synthetic: bool
    adaptation: Adaptation | None = None

    def predict(
        self, clip: str | Path | npt.NDArray[Any], others: Sequence[str | Path | npt.NDArray[Any]] = ()
    ) -> dict[str, float]:
        """The probability of each label for a feature file or a (frames, dim) array.

        A model that adapts to voices knows this one better by `others`: more clips of the same speaker,
        whatever their emotion. Raises BundleError for a clip of another dimension, or a file that is none.
        """
        features, *more = [self._features(one) for one in (clip, *others)]
        found = self.model(self.norm.batch([features], [self.voice([features, *more])]), training=False)
        return {c: float(p) for c, p in zip(self.classes, np.asarray(found)[0], strict=True)}

    def voice(self, heard: Sequence[Floats]) -> Voice:
        """What clips of a speaker are normalised by, these (frames, dim) arrays of theirs being known."""
        return self.norm.voice(heard, self.adaptation) if self.adaptation else self.norm.general

    def _features(self, clip: str | Path | npt.NDArray[Any]) -> Floats:
        features = files.flat(clip) if isinstance(clip, np.ndarray) else _read(Path(clip))
        if features.ndim != 2 or features.shape[1] != len(self.norm.mean) or not len(features):
            wanted = f"(frames, {len(self.norm.mean)})"
            raise BundleError(f"the model takes clips of shape {wanted}, this one is {features.shape}")
        return features


def load(folder: str | Path) -> Bundle:
    """The model in a folder that `ec2emo download` made. Raises BundleError naming what does not fit."""
    folder = Path(folder)
    tag = _tag(folder)
    model = _model(folder, tag)
    classes = tuple(str(c) for c in _array(folder / f"label_classes_{tag}.npy"))
    mean, std = _array(folder / f"audio_mean_{tag}.npy"), _array(folder / f"audio_std_{tag}.npy")
    dim = model.input_shape[-1]
    outputs = model.output_shape[-1]
    if len(classes) != outputs:
        raise BundleError(f"{folder} has {len(classes)} labels, its model tells {outputs} apart")
    if mean.shape != (dim,) or std.shape != (dim,):
        shapes = f"{mean.shape} and {std.shape}"
        raise BundleError(f"{folder} has statistics of shapes {shapes}, its model takes {dim} dimensions")
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise BundleError(f"the statistics in {folder} are not all finite, or a deviation is not above 0")
    if not all(np.isfinite(w).all() for w in model.get_weights()):
        raise BundleError(f"the weights in {folder} are not all finite")
    about = _preprocessing(folder, tag)
    norm = Normaliser(mean.astype(np.float32), std.astype(np.float32), _frames(folder, about, model))
    return Bundle(model, classes, norm, tag, bool(about.get("synthetic")), _adaptation(folder, about))


def _tag(folder: Path) -> str:
    names = [p.name for p in folder.glob("label_classes_*.npy")]
    if len(names) != 1:
        what = "holds no model" if not names else f"holds {len(names)} models"
        raise BundleError(f"{folder} {what}: name the folder that one download made")
    return names[0].removeprefix("label_classes_").removesuffix(".npy")


def _model(folder: Path, tag: str) -> Any:
    # Imported here, so that the other half of the package can name a Bundle without keras.
    import keras

    # Keras finds a layer of ours by the name that this import registers.
    from trainer import layers  # noqa: F401

    whole, weights = folder / f"best_model_{tag}.keras", folder / f"last_{tag}.weights.h5"
    try:
        if whole.exists():
            return keras.models.load_model(whole, compile=False, safe_mode=True)
        config = (folder / f"model_config_{tag}.json").read_text()
        model = keras.models.model_from_json(config)
        model.load_weights(weights)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise BundleError(f"the model in {folder} cannot be loaded: {str(e).splitlines()[0]}") from e
    return model


def _frames(folder: Path, about: Mapping[str, Any], model: Any) -> int:
    """The length that clips are brought to: the model's, or where it takes any, what lies beside it."""
    try:
        return int(model.input_shape[1] or about["frames"])
    except (KeyError, TypeError, ValueError) as e:
        raise BundleError(f"nothing in {folder} says how many frames of a clip the model takes: {e}") from e


def _array(path: Path) -> npt.NDArray[Any]:
    try:
        found: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise BundleError(f"{path} cannot be read: {e}") from e
    return found


def _preprocessing(folder: Path, tag: str) -> dict[str, Any]:
    path = folder / f"preprocessing_{tag}.json"
    try:
        return contract.parse_object(path.read_bytes(), path.name)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        raise BundleError(f"{path} cannot be read: {e}") from e


def _adaptation(folder: Path, about: Mapping[str, Any]) -> Adaptation | None:
    asked = about.get("preparation") or {}
    try:
        return Adaptation(asked["adapt"], asked["adapt_parts"]) if asked.get("adapt") else None
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise BundleError(f"the preparation in {folder} does not say how to adapt to a voice: {e}") from e


def _read(path: Path) -> npt.NDArray[Any]:
    try:
        return files.parse(path.read_bytes(), path.name).features
    except (OSError, files.NotAClip) as e:
        raise BundleError(f"{path} is no clip: {e}") from e
