"""A feature file with its features in float16."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.clips import check, files
from trainer.clips.files import NotAClip
from trainer.clips.narrow import float16


def npz(features: Any, save: Any = np.savez, **others: Any) -> bytes:
    written = io.BytesIO()
    save(written, features=features, **others)
    return written.getvalue()


def npy(features: Any) -> bytes:
    written = io.BytesIO()
    np.save(written, features)
    return written.getvalue()


def some(*shape: int, dtype: str = "float32") -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", ">f4"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_features_become_float16_and_what_is_said_of_them_stays(dtype: str, save: Any) -> None:
    features = some(40, 6, dtype=dtype)
    whole = npz(features, save, emotion="sad", speaker="s1", synthetic=True, audio=some(9))
    narrow = float16(whole, "a.npz")
    contents = files.parse(narrow, "a.npz")
    assert contents.features.dtype == np.float16
    np.testing.assert_array_equal(contents.features, features.astype(np.float16))
    assert contents[1:] == files.parse(whole, "a.npz")[1:] == ("features", "sad", "s1", True)
    assert len(narrow) < len(whole)
    assert "audio" not in np.load(io.BytesIO(narrow))
    assert float16(narrow, "a.npz") is narrow
    assert float16(whole, "a.npz") == narrow


def test_an_npy_and_an_array_of_three_axes_stay_what_they_are() -> None:
    for features in (some(30, 4), some(30, 4, 2), np.asfortranarray(some(30, 4))):
        np.testing.assert_array_equal(
            np.load(io.BytesIO(float16(npy(features), "a.npy"))), features.astype("f2")
        )
        stored = np.load(io.BytesIO(float16(npz(features), "a.npz")))["features"]
        assert (stored.shape, stored.dtype) == (features.shape, np.float16)


def test_the_largest_that_float16_holds_is_held_and_no_more() -> None:
    features = some(30, 4)
    features[3, 2] = -65504
    assert files.parse(float16(npz(features), "a.npz"), "a.npz").features.min() == -65504
    features[3, 2] = 65505
    with pytest.raises(NotAClip, match=r"a value of 65505, and float16 ends at 65,504"):
        float16(npz(features), "a.npz")


@pytest.mark.parametrize("features", [some(30, 4) + 5000, some(30, 4) * 1e-7])
def test_what_float16_would_blur_is_refused(features: Any) -> None:
    with pytest.raises(NotAClip, match="differ by less than float16 tells apart"):
        float16(npz(features), "a.npz")


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1000.0])
def test_usual_features_are_not_blurred(scale: float) -> None:
    float16(npz(some(30, 4) * np.float32(scale)), "a.npz")


def test_a_file_that_is_no_clip_is_refused() -> None:
    with pytest.raises(NotAClip):
        float16(b"PK", "a.npz")


def test_a_clip_in_float16_is_looked_at_like_any_other(tmp_path: Path) -> None:
    for n, emotion in enumerate(("sad", "sad", "calm", "calm")):
        features = np.random.default_rng(n).standard_normal((20, 3)).astype(np.float32)
        (tmp_path / f"{n}.npz").write_bytes(float16(npz(features, emotion=emotion), "x.npz"))
    report = check(tmp_path)
    assert not report.fatal
    assert {c.dtype for c in report.used} == {"float16"}
