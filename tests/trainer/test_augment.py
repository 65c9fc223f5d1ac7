import dataclasses

import numpy as np
import pytest

from trainer.data import augment
from trainer.data.augment import Batch

WEIGHTS = np.array([1.0, 2.0, 5.0], np.float32)


def batch(n: int = 6, frames: int = 9, dim: int = 3) -> Batch:
    random = np.random.default_rng(1)
    lengths = random.integers(2, frames + 1, n)
    x = random.normal(size=(n, frames, dim)).astype(np.float32)
    x[np.arange(frames) >= lengths[:, None]] = 0
    labels = np.arange(n) % 3
    return Batch(x, lengths, np.eye(3, dtype=np.float32)[labels], WEIGHTS[labels])


def cross_entropy(targets: np.ndarray, said: np.ndarray) -> np.ndarray:
    return -(targets * np.log(said)).sum(axis=1)


def test_noise_touches_every_real_value_and_no_padding() -> None:
    before = batch(40)
    after = augment.add_noise(before, 0.005, np.random.default_rng(2))
    change = after.frames - before.frames
    assert (change[before.real] != 0).mean() > 0.99
    assert change[before.real].std() == pytest.approx(0.005, rel=0.1)
    assert not after.frames[~before.real].any()
    assert after.frames.dtype == np.float32
    assert after.targets is before.targets
    assert before.frames is not after.frames


def test_no_two_clips_of_a_batch_have_the_same_noise() -> None:
    silence = np.full((8, 200, 100), 1e-6, np.float32)
    before = Batch(silence, np.full(8, 200), np.zeros(8), np.ones(8, np.float32))
    noise = augment.add_noise(before, 1.0, np.random.default_rng(2)).frames.reshape(8, -1)
    assert np.abs(np.corrcoef(noise) - np.eye(8)).max() < 0.05


@pytest.mark.parametrize("alpha", [1e-3, 0.2, 1.0])
def test_a_mix_is_as_long_as_its_larger_half_and_its_labels_sum_to_one(alpha: float) -> None:
    before = batch(60)
    after = augment.mix(before, alpha, np.random.default_rng(3))
    assert np.array_equal(after.frames.any(axis=2), before.real)
    np.testing.assert_allclose(after.targets.sum(axis=1), 1, rtol=1e-6)
    assert (after.targets >= 0).all()
    assert (after.frames.dtype, after.targets.dtype, after.weights.dtype) == (np.float32,) * 3


def test_each_half_of_a_mix_weighs_what_its_own_class_does() -> None:
    before = batch(50)
    seed = 4
    after = augment.mix(before, 0.2, np.random.default_rng(seed))
    random = np.random.default_rng(seed)
    share = random.beta(0.2, 0.2, 50)
    share = np.maximum(share, 1 - share)
    partner = random.permutation(50)
    assert (share >= 0.5).all()
    assert (share < 0.9).any()
    mixed = share[:, None, None] * before.frames + (1 - share)[:, None, None] * before.frames[partner]
    np.testing.assert_allclose(after.frames[before.real], mixed[before.real], atol=1e-6)
    said = np.random.default_rng(5).dirichlet((1, 1, 1), 50)
    apart = share * before.weights * cross_entropy(before.targets, said)
    apart += (1 - share) * before.weights[partner] * cross_entropy(before.targets[partner], said)
    np.testing.assert_allclose(after.weights * cross_entropy(after.targets, said), apart, rtol=1e-5)


def test_equal_weights_leave_the_shares_as_they_were_drawn() -> None:
    before = dataclasses.replace(batch(50), weights=np.ones(50, np.float32))
    after = augment.mix(before, 0.2, np.random.default_rng(4))
    share = np.random.default_rng(4).beta(0.2, 0.2, 50)
    largest = np.maximum(share, 1 - share)
    # A clip and a partner of its own class are wholly of that class.
    shares = after.targets.max(axis=1)
    assert np.all(np.isclose(shares, largest, atol=1e-6) | np.isclose(shares, 1))
    np.testing.assert_allclose(after.weights, 1, rtol=1e-6)


def test_a_real_frame_that_mixing_makes_zero_is_no_padding() -> None:
    x = np.ones((2, 2, 1), np.float32)
    x[1] = 0
    same = Batch(x, np.array([2, 2]), np.eye(2, dtype=np.float32), np.ones(2, np.float32))
    for seed in range(5):
        assert augment.mix(same, 0.2, np.random.default_rng(seed)).frames.any(axis=2).all()


def test_a_clip_at_another_tempo_begins_and_ends_as_it_did() -> None:
    x = np.zeros((200, 30, 2), np.float32)
    x[:, :20] = np.linspace(1, 2, 20)[:, None]
    n = len(x)
    before = Batch(x, np.full(n, 20), np.eye(3, dtype=np.float32)[[0] * n], np.ones(n, np.float32))
    after = augment.stretch(before, 0.15, np.random.default_rng(2))
    assert (after.lengths.min(), after.lengths.max()) == (17, 23)
    for row, length in zip(after.frames, after.lengths, strict=True):
        np.testing.assert_allclose(row[:length, 0], np.linspace(1, 2, length), atol=1e-6)
        assert not row[length:].any()


def test_a_clip_that_becomes_too_long_is_cut_off_and_not_squeezed() -> None:
    x = np.linspace(1, 2, 20, dtype=np.float32)[None, :, None].repeat(100, 0)
    before = Batch(x, np.full(100, 20), np.zeros((100, 3), np.float32), np.ones(100, np.float32))
    after = augment.stretch(before, 0.15, np.random.default_rng(2))
    assert after.lengths.max() == 20
    ends = after.frames[after.lengths == 20, 19, 0]
    assert ends.max() == pytest.approx(2)
    assert ends.min() < 1.9


def test_warping_moves_a_peak_by_as_much_as_is_asked_for_at_most() -> None:
    x = np.zeros((300, 2, 100), np.float32)
    x[..., 49:52] = 1
    before = Batch(x, np.full(300, 2), np.zeros((300, 3), np.float32), np.ones(300, np.float32))
    after = augment.warp(before, 0.1, np.random.default_rng(2))
    peaks = (after.frames[:, 0] * np.arange(100)).sum(axis=1) / after.frames[:, 0].sum(axis=1)
    assert 41 < peaks.min() < 46
    assert 54 < peaks.max() < 60
    assert after.frames.dtype == np.float32
    still = augment.warp(before, 0.0, np.random.default_rng(2))
    np.testing.assert_allclose(still.frames, before.frames, atol=1e-6)


def test_blanked_frames_and_dimensions_are_spans_and_padding_stays_what_it_is() -> None:
    x = np.ones((300, 24, 16), np.float32)
    lengths = np.random.default_rng(1).integers(1, 25, 300)
    before = Batch(x, lengths, np.zeros((300, 3), np.float32), np.ones(300, np.float32))
    x[~before.real] = 0
    after = augment.blank(before, 1, np.random.default_rng(2))
    assert np.array_equal(after.frames.any(axis=2), before.real)
    values = (after.frames > 0.5).astype(int)
    blank_frames = before.real & ~values.any(axis=2)
    assert 1 <= blank_frames.sum(axis=1).max() <= 24 / 6
    blank_dims = ~values.any(axis=1)
    assert 1 <= np.median(blank_dims.sum(axis=1)) <= 2
    assert x[before.real].all()


@pytest.mark.parametrize(
    ("augmented", "amount"), [("stretch", 0.9), ("warp", 0.5), ("blank", 3), ("add_noise", 1.0)]
)
def test_whatever_is_done_padding_is_zeros_and_real_frames_are_not(augmented: str, amount: float) -> None:
    before = batch(80)
    after = getattr(augment, augmented)(before, amount, np.random.default_rng(4))
    assert np.array_equal(after.frames.any(axis=2), after.real)
    assert (after.lengths >= 1).all()
    assert np.array_equal(before.frames, batch(80).frames)
