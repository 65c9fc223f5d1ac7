from pathlib import Path

import numpy as np
import pytest

from trainer import clips
from trainer.clips import DataError
from trainer.data import dataset
from trainer.data.dataset import Packed
from trainer.data.preparation import Preparation

from .runs import clip


def corpus(
    folder: Path, *, speakers: int = 10, per: int = 4, classes: tuple[str, ...] = ("calm", "angry")
) -> Packed:
    """Clips of 5 to 20 random frames, the same number of each class by each speaker."""
    random = np.random.default_rng(3)
    for speaker in range(speakers):
        for emotion in classes:
            for i in range(per):
                features = random.normal(speaker, 1 + i, (int(random.integers(5, 21)), 3)).astype(np.float16)
                clip(
                    folder,
                    f"{speaker}-{emotion}-{i}.npz",
                    emotion=emotion,
                    speaker=f"s{speaker}",
                    features=features,
                )
    return packed_of(folder)


def packed_of(folder: Path) -> Packed:
    return dataset.load(folder, clips.check(folder).fingerprint)


def test_packing_keeps_the_stored_precision_and_every_frame(tmp_path: Path) -> None:
    packed = corpus(tmp_path)
    assert packed.frames.dtype == np.float16
    assert packed.classes == ("angry", "calm")
    for i, c in enumerate(packed.report.used):
        with np.load(tmp_path / c.path) as stored:
            assert np.array_equal(packed.clip(i), stored["features"])
        assert packed.classes[packed.labels[i]] == c.label
    assert len(packed.frames) == packed.lengths.sum()


def test_data_of_another_content_is_refused_by_name(tmp_path: Path) -> None:
    packed = corpus(tmp_path)
    before = packed.report.fingerprint
    clip(tmp_path, "more.npz", emotion="calm", speaker="s1", features=np.eye(7, 3))
    with pytest.raises(DataError, match=f"81 clips with fingerprint .*, the run asks for {before[:12]}"):
        dataset.load(tmp_path, before)


def test_fatal_data_is_refused_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no clip"):
        dataset.load(tmp_path, "")


def test_no_speaker_is_on_both_sides_and_every_class_is_on_both(tmp_path: Path) -> None:
    packed = corpus(tmp_path)
    split = dataset.divide(packed, "speaker", 42)
    sides = [{packed.report.used[i].speaker for i in side} for side in (split.train, split.val)]
    assert not sides[0] & sides[1]
    assert split.shared_speakers == 0
    assert len(split.val) == 8
    assert set(packed.labels[split.train]) == set(packed.labels[split.val]) == {0, 1}
    assert sorted([*split.train, *split.val]) == list(range(80))


def test_a_split_by_clip_takes_a_tenth_of_every_class_and_counts_shared_speakers(tmp_path: Path) -> None:
    packed = corpus(tmp_path, per=5)
    split = dataset.divide(packed, "clip", 42)
    assert np.bincount(packed.labels[split.val]).tolist() == [5, 5]
    assert split.shared_speakers == len({packed.report.used[i].speaker for i in split.val})


@pytest.mark.parametrize("how", ["speaker", "clip"])
def test_the_same_seed_divides_alike_and_another_does_not(tmp_path: Path, how: str) -> None:
    packed = corpus(tmp_path)
    first = dataset.divide(packed, how, 42)
    assert np.array_equal(first.val, dataset.divide(packed, how, 42).val)
    others = [dataset.divide(packed, how, seed).val.tolist() for seed in range(5)]
    assert any(val != first.val.tolist() for val in others)


def test_two_clips_of_a_class_go_one_to_each_side(tmp_path: Path) -> None:
    corpus(tmp_path)
    clip(tmp_path, "x1.npz", emotion="sad", speaker="s1", features=np.eye(7, 3))
    clip(tmp_path, "x2.npz", emotion="sad", speaker="s2", features=np.eye(8, 3))
    packed = packed_of(tmp_path)
    split = dataset.divide(packed, "clip", 1)
    sad = packed.classes.index("sad")
    assert [int((packed.labels[side] == sad).sum()) for side in (split.train, split.val)] == [1, 1]


def test_a_class_of_one_speaker_stays_on_the_training_side(tmp_path: Path) -> None:
    corpus(tmp_path)
    for i in range(4):
        clip(tmp_path, f"x{i}.npz", emotion="sad", speaker="s1", features=np.eye(7 + i, 3))
    packed = packed_of(tmp_path)
    split = dataset.divide(packed, "speaker", 42)
    assert packed.classes.index("sad") in packed.labels[split.train]


def test_a_split_by_speaker_is_never_quietly_one_by_clip(tmp_path: Path) -> None:
    packed = corpus(tmp_path / "a", speakers=1)
    with pytest.raises(DataError, match="all clips are of one speaker, s0; divide by clip"):
        dataset.divide(packed, "speaker", 42)
    clip(tmp_path / "a", "x.npz", emotion="calm", features=np.eye(7, 3))
    packed = packed_of(tmp_path / "a")
    with pytest.raises(DataError, match=r"the speaker of x\.npz is unknown"):
        dataset.divide(packed, "speaker", 42)
    assert dataset.divide(packed, "clip", 42).shared_speakers is None


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split 'sentence'"):
        dataset.divide(corpus(tmp_path), "sentence", 42)


def test_statistics_come_from_training_frames_alone(tmp_path: Path) -> None:
    packed = corpus(tmp_path)
    split = dataset.divide(packed, "speaker", 42)
    norm = dataset.normaliser(packed, split.train)
    frames = np.concatenate([packed.clip(i) for i in split.train]).astype(np.float64)
    assert norm.mean.dtype == norm.std.dtype == np.float32
    np.testing.assert_allclose(norm.mean, frames.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(norm.std, frames.std(axis=0), rtol=1e-6)
    assert norm.frames == int(np.percentile(packed.lengths[split.train], 98))


def test_validation_clips_cannot_move_the_statistics(tmp_path: Path) -> None:
    packed = corpus(tmp_path)
    split = dataset.divide(packed, "speaker", 42)
    before = dataset.normaliser(packed, split.train)
    for i in split.val:
        packed.clip(i)[:] = 999
    after = dataset.normaliser(packed, split.train)
    assert np.array_equal(before.mean, after.mean)
    assert np.array_equal(before.std, after.std)


def test_large_offsets_do_not_spoil_the_deviation(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(8):
        features = (random.normal(1e4, 0.5, (500, 2))).astype(np.float64)
        clip(tmp_path, f"{i}.npz", emotion=("sad", "calm")[i % 2], speaker=f"s{i}", features=features)
    norm = dataset.normaliser(packed_of(tmp_path), np.arange(8))
    np.testing.assert_allclose(norm.std, 0.5, rtol=0.05)


def test_a_constant_dimension_is_centred_and_not_blown_up(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(4):
        features = random.normal(size=(9, 2)).astype(np.float32)
        features[:, 1] = 0.1
        clip(tmp_path, f"{i}.npz", emotion=("sad", "calm")[i % 2], features=features)
    norm = dataset.normaliser(packed_of(tmp_path), np.arange(4))
    assert norm.std[1] == 1
    batch = norm.batch([np.array([[0.0, 0.1], [0.0, 5.0]])])
    assert batch[0, 0, 1] == pytest.approx(0, abs=1e-6)
    assert batch[0, 1, 1] == pytest.approx(4.9, rel=1e-5)


def test_class_weights_are_the_largest_count_over_each() -> None:
    weights = dataset.class_weights(np.array([0] * 6 + [1] * 3 + [2] * 2, np.int32), 3)
    assert weights.tolist() == [1, 2, 3]


def test_balanced_weights_make_the_mean_clip_weigh_one() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2] * 2, np.int32)
    weights = dataset.class_weights(labels, 3, "balanced")
    assert weights[labels].mean() == pytest.approx(1)
    assert weights[1] == pytest.approx(2 * weights[0])
    assert dataset.class_weights(labels, 3, "none").tolist() == [1, 1, 1]


def test_the_order_of_an_epoch_is_of_seed_and_epoch_alone() -> None:
    assert np.array_equal(dataset.order(50, 1, 7), dataset.order(50, 1, 7))
    orders = {tuple(dataset.order(50, seed, epoch)) for seed in (1, 2) for epoch in (1, 2, 3)}
    assert len(orders) == 6
    assert sorted(dataset.order(50, 1, 7)) == list(range(50))


@pytest.mark.parametrize("n", range(2, 40))
def test_an_adaptive_split_by_clip_keeps_its_share_and_two_of_each_class_where_it_can(
    tmp_path: Path, n: int
) -> None:
    asked = Preparation(validation=0.2, adaptive=True)
    labels = np.array([0] * n + [1] * 50, np.int32)
    val = dataset._by_clip(labels, 1, asked)
    there = int((labels[val] == 0).sum())
    assert min(there, n - there) >= (2 if n >= 4 else 1)
    assert len(val) >= 0.2 * len(labels) or n < 5


@pytest.mark.parametrize("seed", range(5))
def test_an_adaptive_split_by_speaker_takes_a_fifth_at_least(tmp_path: Path, seed: int) -> None:
    packed = corpus(tmp_path, speakers=8)
    split = dataset.divide(packed, "speaker", seed, Preparation(validation=0.2, adaptive=True))
    assert len(split.val) >= 0.2 * 64
    assert split.shared_speakers == 0
    for side in (split.train, split.val):
        assert np.bincount(packed.labels[side]).min() >= 2


def test_the_length_is_a_percentile_of_training_clips_or_what_was_asked(tmp_path: Path) -> None:
    packed = corpus(tmp_path)
    train = dataset.divide(packed, "speaker", 42).train
    for percentile in (50.0, 95.0, 100.0):
        norm = dataset.normaliser(packed, train, Preparation(percentile=percentile))
        assert norm.frames == int(np.percentile(packed.lengths[train], percentile))
    assert dataset.normaliser(packed, train, Preparation(frames=33)).frames == 33


@pytest.mark.parametrize("seed", range(6))
def test_an_adaptive_split_by_speaker_finds_the_division_that_has_rare_classes_on_both_sides(
    tmp_path: Path, seed: int
) -> None:
    corpus(tmp_path, speakers=10)
    random = np.random.default_rng(4)
    for emotion, speakers in (("sad", (1, 4)), ("happy", (1, 7)), ("disgust", (4, 1, 8))):
        for speaker in (*speakers, *speakers):
            features = random.normal(size=(9, 3))
            name = f"{emotion}-{len(list(tmp_path.iterdir()))}.npz"
            clip(tmp_path, name, emotion=emotion, speaker=f"s{speaker}", features=features)
    packed = packed_of(tmp_path)
    split = dataset.divide(packed, "speaker", seed, Preparation(validation=0.2, adaptive=True))
    for side in (split.train, split.val):
        assert np.bincount(packed.labels[side], minlength=5).min() >= 2
    assert split.shared_speakers == 0
