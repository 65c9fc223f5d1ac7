"""Batches: how long they are, and whose clips are in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trainer import clips, recipes
from trainer.data import dataset
from trainer.data.batches import Training, Validation
from trainer.data.dataset import Normaliser, Packed
from trainer.data.preparation import Adaptation, Preparation

from .runs import clip

DIM, SIZE = 3, 4


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """38 clips, each of another length from 3 to 77 frames."""
    folder = tmp_path_factory.mktemp("lengths")
    random = np.random.default_rng(0)
    for i in range(38):
        features = random.normal(size=(3 + 2 * i, DIM)).astype(np.float32)
        clip(
            folder, f"{i:02}.npz", emotion="happy" if i % 2 else "sad", speaker=f"s{i % 5}", features=features
        )
    return dataset.load(folder, clips.check(folder).fingerprint)


def training(packed: Packed, epoch: int = 1, **asked: Any) -> tuple[Training, Normaliser]:
    chosen = Preparation(**asked)
    everyone = np.arange(len(packed.labels))
    norm = dataset.normaliser(packed, everyone, chosen)
    made = Training(packed, everyone, norm, batch_size=SIZE, seed=7, asked=chosen)
    made.epoch = epoch
    return made, norm


def frames_of(made: Training) -> list[Any]:
    return [np.asarray(frames) for frames, _, _ in made.stream()]


def contents(batches: list[Any]) -> list[Any]:
    """The clips in batches, without their padding."""
    return [row[row.any(axis=1)].tobytes() for frames in batches for row in frames]


def test_a_share_of_clips_is_taken_for_all_that_is_heard_of_their_speaker(packed: Packed) -> None:
    everyone = np.arange(len(packed.labels))

    def of(epoch: int) -> tuple[set[bytes], set[bytes]]:
        """The clips of an epoch that are normalised by one clip, and by all of the speaker."""
        made, norm = training(packed, epoch, adapt=1.0, alone=0.5)
        voices = dataset.voices(packed, everyone, norm, Preparation(adapt=1.0))
        whole = norm.batch([packed.clip(i) for i in everyone], [voices[i] for i in everyone])
        single = [norm.voice([packed.clip(i)], Adaptation(1.0)) for i in everyone]
        alone = norm.batch([packed.clip(i) for i in everyone], single)
        met = set(contents(frames_of(made)))
        assert met <= set(contents([whole, alone])) and len(met) == len(everyone)
        return met & set(contents([alone])), met & set(contents([whole]))

    first, second = of(1), of(2)
    assert all(10 <= len(side) <= 28 for side in (*first, *second))
    assert first != second
    assert first == of(1)


def test_without_a_share_nobody_is_alone(packed: Packed) -> None:
    asked = {"adapt": 1.0, "stretch": 0.2, "noise": 0.1}
    with_none, without = (frames_of(training(packed, **asked, **more)[0]) for more in ({"alone": 0.0}, {}))
    assert contents(with_none) == contents(without)


@pytest.mark.parametrize("augmented", [{}, {"stretch": 0.2, "noise": 0.1, "mixup": 0.2, "one_hot": True}])
def test_a_trimmed_batch_is_the_same_without_frames_that_are_padding_in_all_of_it(
    packed: Packed, augmented: dict[str, Any]
) -> None:
    whole, norm = training(packed, **augmented)
    trimmed, _ = training(packed, trim=True, **augmented)
    shorter = 0
    for a, b in zip(frames_of(whole), frames_of(trimmed), strict=True):
        assert a.shape[1] == norm.frames
        assert b.shape[1] == min(norm.frames, -(-(np.flatnonzero(b.any(axis=(0, 2)))[-1] + 1) // 16) * 16)
        np.testing.assert_array_equal(a[:, : b.shape[1]], b)
        assert not a[:, b.shape[1] :].any()
        shorter += b.shape[1] < norm.frames
    assert shorter


def test_buckets_hold_clips_of_like_length_and_lose_none(packed: Packed) -> None:
    made = {buckets: frames_of(training(packed, trim=True, buckets=buckets)[0]) for buckets in (0, 5)}
    assert sorted(contents(made[0])) == sorted(contents(made[5]))
    padding = {k: sum((~b.any(axis=2)).sum() for b in batches) for k, batches in made.items()}
    assert padding[5] < padding[0] / 2
    assert [len(b) for b in made[5]].count(SIZE) == 9
    lengths = [b.shape[1] for b in made[5]]
    assert lengths != sorted(lengths)


def test_the_order_of_buckets_is_of_seed_and_epoch_alone(packed: Packed) -> None:
    first = contents(frames_of(training(packed, epoch=3, buckets=5)[0]))
    later, _ = training(packed, epoch=2, buckets=5)
    frames_of(later)
    later.epoch = 3
    assert contents(frames_of(later)) == first
    assert contents(frames_of(training(packed, epoch=4, buckets=5)[0])) != first


@pytest.mark.parametrize(
    "name",
    [n for n in recipes.names() if recipes.preparation(recipes.load(n), recipes.load(n).Params()).trim],
)
def test_a_model_of_trimmed_batches_answers_as_with_all_the_padding(packed: Packed, name: str) -> None:
    import keras

    recipe = recipes.load(name)
    sizes = {f: 8 for f in recipe.Params.__dataclass_fields__ if f.startswith(("units", "dense", "filters"))}
    params = recipes.make_params(recipe, sizes)
    everyone = np.arange(len(packed.labels))
    answers = []
    for trim in (True, False):
        asked = Preparation(trim=trim, percentile=100)
        norm = dataset.normaliser(packed, everyone, asked)
        keras.utils.set_random_seed(1)
        model = recipe.build(asked.shape(norm.frames, DIM), 2, params)
        answers.append(Validation(packed, everyone, norm, batch_size=SIZE, asked=asked).predict(model))
    np.testing.assert_allclose(*answers, atol=1e-5)


@pytest.mark.parametrize("clips", [SIZE - 1, SIZE, 2 * SIZE + 3])
def test_a_model_is_traced_once_to_predict_however_many_clips_the_last_batch_has(
    packed: Packed, clips: int
) -> None:
    import keras

    everyone = np.arange(clips)
    asked = Preparation()
    norm = dataset.normaliser(packed, everyone, asked)
    inputs = keras.Input(asked.shape(norm.frames, DIM))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(inputs))
    shapes = []
    step = model.predict_step

    def counted(batch: Any) -> Any:
        shapes.append(batch[0].shape)
        return step(batch)

    model.predict_step = counted
    answers = Validation(packed, everyone, norm, batch_size=SIZE, asked=asked).predict(model)
    assert [shape[0] for shape in shapes] == [min(clips, SIZE)]
    expected = [norm.batch([packed.clip(i)]).mean(axis=1)[0] for i in everyone]
    np.testing.assert_allclose(answers, expected, atol=1e-6)
