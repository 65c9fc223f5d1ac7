from pathlib import Path

import numpy as np
import pytest

from trainer.data import dataset
from trainer.data.batches import Validation
from trainer.data.normaliser import Normaliser
from trainer.data.preparation import Adaptation, Preparation

from .runs import clip
from .test_dataset import corpus, packed_of

PLAIN = Normaliser(np.array([1, 2], np.float32), np.array([2, 4], np.float32), frames=3)


def test_clips_are_cut_off_at_the_end_and_padded_with_zeros_after_normalising() -> None:
    norm = Normaliser(np.array([1, 2], np.float32), np.array([2, 4], np.float32), frames=3)
    long, short = np.arange(10.0).reshape(5, 2), np.array([[3.0, 6.0]], np.float16)
    batch = norm.batch([long, short])
    assert batch.dtype == np.float32
    assert batch.shape == (2, 3, 2)
    np.testing.assert_allclose(batch[0], (long[:3] - [1, 2]) / [2, 4])
    np.testing.assert_allclose(batch[1], [[1, 1], [0, 0], [0, 0]])


def test_a_real_frame_is_never_taken_for_padding() -> None:
    norm = Normaliser(np.array([1, 2], np.float32), np.ones(2, np.float32), frames=3)
    batch = norm.batch([np.array([[1.0, 2.0], [0.0, 0.0]])])
    assert batch.any(axis=2).tolist() == [[True, True, False]]
    assert abs(batch[0, 0]).max() <= 1e-5


def test_a_voice_of_many_clips_is_its_own() -> None:
    random = np.random.default_rng(0)
    heard = [random.normal([7, -3], [0.5, 3], (40, 2)) for _ in range(50)]
    voice = PLAIN.voice(heard, Adaptation(1e-9))
    frames = np.concatenate(heard)
    np.testing.assert_allclose(voice.mean, [frames.mean(axis=0)], rtol=1e-6)
    np.testing.assert_allclose(voice.std, [frames.std(axis=0)], rtol=1e-6)


def test_a_voice_of_which_nothing_was_heard_is_anybodys() -> None:
    voice = PLAIN.voice([], Adaptation(5, parts=4))
    np.testing.assert_allclose(voice.mean, np.tile(PLAIN.mean, (4, 1)))
    np.testing.assert_allclose(voice.std, np.tile(PLAIN.std, (4, 1)), rtol=1e-6)


def test_the_general_statistics_count_as_many_clips_as_asked() -> None:
    """Worked by hand: of 1 and 3 with deviation 2 and 0, one clip each, the mean is 2 and the second moment
    (1 + 4 + 9) / 2 = 7.
    """
    general = Normaliser(np.array([1], np.float32), np.array([2], np.float32), frames=3)
    voice = general.voice([np.full((9, 1), 3.0)], Adaptation(1))
    assert voice.mean[0, 0] == pytest.approx(2)
    assert voice.std[0, 0] == pytest.approx(np.sqrt(7 - 4))
    for clips, prior in ((1, 4), (4, 1)):
        voice = general.voice([np.full((9, 1), 3.0)] * clips, Adaptation(prior))
        assert voice.mean[0, 0] == pytest.approx((clips * 3 + prior * 1) / (clips + prior))


def test_each_part_of_a_clip_has_statistics_of_its_own() -> None:
    clip = np.repeat([[0.0, 0.0], [10.0, 20.0]], 4, axis=0)
    norm = Normaliser(np.zeros(2, np.float32), np.ones(2, np.float32), frames=8)
    voice = norm.voice([clip, clip + 2], Adaptation(1e-9, parts=2))
    np.testing.assert_allclose(voice.mean, [[1, 1], [11, 21]], rtol=1e-6)
    batch = norm.batch([clip, clip + 2], [voice, voice])
    np.testing.assert_allclose(batch[0], -1, rtol=1e-5)
    np.testing.assert_allclose(batch[1], 1, rtol=1e-5)


def test_a_part_is_of_the_clip_and_not_of_the_length_it_is_cut_to() -> None:
    norm = Normaliser(np.zeros(1, np.float32), np.ones(1, np.float32), frames=2)
    clip = np.array([[0.0], [0.0], [8.0], [8.0]])
    voice = norm.voice([clip, clip + 1], Adaptation(1e-9, parts=2))
    np.testing.assert_allclose(norm.batch([clip], [voice])[0], [[-1], [-1]], rtol=1e-5)


def test_a_clip_shorter_than_its_parts_leaves_some_of_them_general() -> None:
    voice = PLAIN.voice([np.array([[5.0, 5.0]])], Adaptation(1e-9, parts=3))
    np.testing.assert_allclose(voice.mean, [[5, 5], PLAIN.mean, PLAIN.mean], rtol=1e-6)
    assert np.isfinite(voice.std).all()
    assert (voice.std > 0).all()


@pytest.mark.parametrize(("prior", "parts"), [(0, 1), (-1, 1), (5, 0)])
def test_an_adaptation_that_cannot_be_is_refused(prior: float, parts: int) -> None:
    with pytest.raises(ValueError, match="count as some clips"):
        Adaptation(prior, parts)


def test_every_speaker_of_a_side_has_their_own_voice_and_hears_that_side_alone(tmp_path: Path) -> None:
    packed = corpus(tmp_path)
    split = dataset.divide(packed, "clip", 42)
    norm = dataset.normaliser(packed, split.train)
    asked = Preparation(adapt=2.0, adapt_parts=2)
    before = dataset.voices(packed, split.train, norm, asked)
    assert len({id(v) for v in before.values()}) == len(packed.report.speakers) == 10
    for i in before:
        assert before[i] is before[next(j for j in before if _speaker(packed, j) == _speaker(packed, i))]
    for i in split.val:
        packed.clip(int(i))[:] = 999
    after = dataset.voices(packed, split.train, norm, asked)
    assert all(np.array_equal(before[i].mean, after[i].mean) for i in before)


def test_clips_of_nobody_stand_for_themselves(tmp_path: Path) -> None:
    for i in range(4):
        clip(tmp_path, f"{i}.npz", emotion=("sad", "calm")[i % 2])
    packed = packed_of(tmp_path)
    side = np.arange(4)
    norm = dataset.normaliser(packed, side)
    found = dataset.voices(packed, side, norm, Preparation(adapt=1.0))
    for i in side:
        alone = norm.voice([packed.clip(int(i))], Adaptation(1.0))
        np.testing.assert_array_equal(found[int(i)].mean, alone.mean)


def test_without_adaptation_all_voices_are_the_general_one(tmp_path: Path) -> None:
    packed = corpus(tmp_path)
    side = np.arange(len(packed.labels))
    norm = dataset.normaliser(packed, side)
    plain, adapted = (
        next(Validation(packed, side, norm, batch_size=8, asked=asked)._batches())[0]
        for asked in (Preparation(), Preparation(adapt=1.0))
    )
    np.testing.assert_array_equal(plain, norm.batch([packed.clip(i) for i in range(8)]))
    assert not np.array_equal(plain, adapted)


def _speaker(packed: dataset.Packed, i: int) -> str | None:
    return packed.report.used[i].speaker
