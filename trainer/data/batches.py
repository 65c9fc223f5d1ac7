"""Batches for keras, made as they are needed, in an order that seed and epoch alone decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.data import augment, dataset
from trainer.data.augment import Batch
from trainer.data.dataset import DEFAULT, Indices, Packed
from trainer.data.normaliser import Normaliser, Voice
from trainer.data.preparation import Preparation

AHEAD = 2
# Batches end at a multiple of so many frames: of few lengths, as what is made for each of them takes time.
_ROUND = 16
# Beside seed and epoch, so that augmentation does not draw the numbers that the order was made of.
_AUGMENTATION = 0xA06
_BUCKETS = 0xB0C
_ALONE = 0xA10


class Training:
    """The training side. Set `epoch` before each epoch; iterating `stream` then follows its order.

    Every batch can be divided into `shares` that are equal, for as many GPUs; `batch_size` must be.
    """

    def __init__(
        self,
        packed: Packed,
        train: Indices,
        norm: Normaliser,
        *,
        batch_size: int,
        seed: int,
        shares: int = 1,
        asked: Preparation = DEFAULT,
    ) -> None:
        self.epoch = 1
        # No share may be without a clip: the last batch of an epoch is as many as can be divided.
        self._clips = len(train) - len(train) % shares
        self.steps = -(-self._clips // batch_size)
        self._packed, self._train, self._norm = packed, train, norm
        self._voices = dataset.voices(packed, train, norm, asked)
        self._batch_size, self._seed, self._asked = batch_size, seed, asked.of(packed.dim)
        self._weights = dataset.class_weights(packed.labels[train], len(packed.classes), asked.class_weights)

    def stream(self) -> Any:
        """A tf.data.Dataset of (frames, targets, weights), one epoch long, iterated anew for each."""
        shape, kind = (
            ((None, len(self._packed.classes)), tf.float32) if self._asked.one_hot else ((None,), tf.int32)
        )
        kinds = (
            _signature(self._norm, self._asked),
            tf.TensorSpec(shape, kind),
            tf.TensorSpec((None,), tf.float32),
        )
        return _dataset(self._batches, kinds, self.steps)

    def _batches(self) -> Iterator[tuple[Any, ...]]:
        random = np.random.default_rng([self._seed, self.epoch, _AUGMENTATION])
        heard = np.random.default_rng([self._seed, self.epoch, _ALONE])
        for chosen in self._chosen():
            batch = self._augmented(self._batch(chosen, self._voices_of(chosen, heard)), random)
            yield _trimmed(batch.frames, batch.lengths, self._asked), batch.targets, batch.weights

    def _chosen(self) -> Iterable[Indices]:
        """The clips of each batch."""
        order = self._train[dataset.order(len(self._train), self._seed, self.epoch)][: self._clips]
        if not self._asked.buckets:
            return _chunks(order, self._batch_size)
        pools = _chunks(order, self._batch_size * self._asked.buckets)
        like = [pool[np.argsort(self._packed.lengths[pool], kind="stable")] for pool in pools]
        found = list(_chunks(np.concatenate(like), self._batch_size))
        return [
            found[i]
            for i in np.random.default_rng([self._seed, self.epoch, _BUCKETS]).permutation(len(found))
        ]

    def _voices_of(self, chosen: Indices, random: np.random.Generator) -> list[Voice]:
        how = self._asked.adaptation
        found = [self._voices[int(i)] for i in chosen]
        if how and self._asked.alone:
            for place in np.flatnonzero(random.random(len(chosen)) < self._asked.alone):
                found[place] = self._norm.voice([self._packed.clip(chosen[place])], how)
        return found

    def _batch(self, chosen: Indices, voices: Sequence[Voice]) -> Batch:
        labels = self._packed.labels[chosen]
        return Batch(
            frames=self._norm.batch([self._packed.clip(i) for i in chosen], voices),
            lengths=np.minimum(self._packed.lengths[chosen], self._norm.frames),
            targets=_targets(labels, self._packed, self._asked),
            weights=self._weights[labels],
        )

    def _augmented(self, batch: Batch, random: np.random.Generator) -> Batch:
        asked = self._asked
        if asked.stretch:
            batch = augment.stretch(batch, asked.stretch, random)
        if asked.warp:
            batch = augment.warp(batch, asked.warp, random)
        if asked.noise:
            batch = augment.add_noise(batch, asked.noise, random)
        if asked.masks:
            batch = augment.blank(batch, asked.masks, random)
        if asked.mixup:
            batch = augment.mix(batch, asked.mixup, random)
        return batch


class Validation:
    """The validation side, in its own order, the same batches each time.

    `labels` are class indices; `targets` the same as the model's loss takes them. Batches are all of
    one size, because for another a model is traced anew, and can be divided into `shares` that are equal.
    """

    def __init__(
        self,
        packed: Packed,
        val: Indices,
        norm: Normaliser,
        *,
        batch_size: int,
        shares: int = 1,
        asked: Preparation = DEFAULT,
    ) -> None:
        self._packed, self._norm = packed, norm
        self._size = min(batch_size, _up(len(val), shares))
        # The last clip again, as often as the last batch wants it; its answers are left out.
        self._val = np.concatenate([val, np.repeat(val[-1:], -len(val) % self._size)])
        self._voices = dataset.voices(packed, val, norm, asked)
        self._asked = asked
        self.labels: npt.NDArray[np.int32] = packed.labels[val]
        self.targets = _targets(self.labels, packed, asked)

    def predict(self, model: Any) -> npt.NDArray[np.float32]:
        """(n, classes) probabilities."""
        steps = len(self._val) // self._size
        stream = _dataset(self._batches, (_signature(self._norm, self._asked),), steps)
        found: npt.NDArray[np.float32] = model.predict(stream, verbose=0)[: len(self.labels)]
        return found

    def _batches(self) -> Iterator[tuple[Any, ...]]:
        for chosen in _chunks(self._val, self._size):
            voices = [self._voices[int(i)] for i in chosen]
            frames = self._norm.batch([self._packed.clip(i) for i in chosen], voices)
            yield (_trimmed(frames, self._packed.lengths[chosen], self._asked),)


def _trimmed(
    frames: npt.NDArray[np.float32], lengths: Indices, asked: Preparation
) -> npt.NDArray[np.float32]:
    return frames[:, : _up(int(lengths.max()), _ROUND)] if asked.trim else frames


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _chunks(indices: Indices, size: int) -> Iterator[Indices]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _targets(labels: npt.NDArray[np.int32], packed: Packed, asked: Preparation) -> npt.NDArray[Any]:
    return np.eye(len(packed.classes), dtype=np.float32)[labels] if asked.one_hot else labels


def _signature(norm: Normaliser, asked: Preparation) -> Any:
    return tf.TensorSpec((None, *asked.shape(norm.frames, len(norm.mean))), tf.float32)


def _dataset(batches: Callable[[], Iterator[tuple[Any, ...]]], kinds: tuple[Any, ...], steps: int) -> Any:
    stream = tf.data.Dataset.from_generator(batches, output_signature=kinds)
    options = tf.data.Options()
    # The autotuner may hold an epoch's end up for as long as the epoch took.
    options.autotune.enabled = False
    return stream.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(AHEAD).with_options(options)
