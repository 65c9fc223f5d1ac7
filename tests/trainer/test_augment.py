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
