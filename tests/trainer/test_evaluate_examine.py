"""The best model of a run on other data: what is counted, what is left out, what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer import artifacts, clips, examine
from trainer.artifacts.model import BundleError
from trainer.clips import DataError, files
from trainer.contract import ContractError, Manifest, RunDir

from .runs import ROOT, clip


@pytest.fixture
def others(tmp_path: Path, demo_data: Path) -> Path:
    """33 clips of the demo that were not trained on, two of a class nobody trained on, and a stray file."""
    folder = tmp_path / "others"
    folder.mkdir()
    for path in sorted(demo_data.glob("*_[78].npz"))[:33]:
        shutil.copy(path, folder)
    for name in ("a.npz", "b.npz"):
        random = np.random.default_rng(3).normal(size=(9, 16)).astype(np.float32) + ord(name[0])
        clip(folder, name, emotion="disgust", speaker="somebody", features=random)
    np.save(folder / "mean.npy", np.zeros(16, np.float32))
    return folder


def test_it_is_worth_what_its_predictions_are(finished: RunDir, others: Path) -> None:
    found = examine.examine(finished, others)
    path = Manifest.parse(finished.manifest.read_bytes()).of("best")[0].path
    bundle = artifacts.load((finished.root / path).parent)
    known = [c for c in clips.check(others).used if c.label != "disgust"]
    frames = [files.parse((others / c.path).read_bytes(), c.path).features for c in known]
    guesses = np.argmax(bundle.model(bundle.norm.batch(frames)), axis=1)
    right = sum(bundle.classes[g] == c.label for g, c in zip(guesses, known, strict=True))
    assert found["n"] == len(known) == 33
    assert found["accuracy"] == right / 33
    assert sum(map(sum, found["confusion"])) == 33
    assert sum(one["support"] for one in found["per_class"].values()) == 33


def test_a_class_the_model_does_not_know_is_counted_and_left_out(finished: RunDir, others: Path) -> None:
    found = examine.examine(finished, others)
    assert found["left_out"] == {"disgust": 2}
    assert (found["absent"], found["skipped"]) == ([], 1)
    assert found["classes"] == ["angry", "happy", "neutral", "sad"]
    for path in others.glob("*_sad_*"):
        path.unlink()
    found = examine.examine(finished, others)
    assert found["absent"] == ["sad"]
    assert found["per_class"]["sad"]["recall"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_one_class_alone_can_be_evaluated(finished: RunDir, others: Path) -> None:
    for path in others.iterdir():
        if "_sad_" not in path.name:
            path.unlink()
    found = examine.examine(finished, others)
    assert found["accuracy"] == found["uar"] == found["per_class"]["sad"]["recall"]
    assert found["per_class"]["sad"]["auc"] is None


def test_speakers_of_the_training_are_counted(finished: RunDir, others: Path, small_data: Path) -> None:
    trained = set(clips.check(small_data).speakers)
    heard = {c.speaker for c in clips.check(others).used if c.label != "disgust"}
    found = examine.examine(finished, others)
    # One of the eight is on the validation side.
    assert found["speakers_shared_with_training"] in (len(heard & trained) - 1, len(heard & trained))
    assert not found["trained_on_these_data"]
    whole = examine.examine(finished, small_data)
    assert whole["speakers_shared_with_training"] == 7
    assert whole["trained_on_these_data"]
    assert whole["intervals"]["resampled"] == "speakers"


def test_the_command_prints_one_object_and_disturbs_no_gpu(finished: RunDir, others: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.root.rglob("*")}
    done = subprocess.run(
        [sys.executable, "-m", "trainer.examine", str(finished.root), str(others)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "0"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == examine.examine(finished, others)
    assert {p: p.stat().st_mtime_ns for p in finished.root.rglob("*")} == before


def test_data_that_do_not_fit_the_model_are_refused(
    finished: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, unknown, empty = tmp_path / "small", tmp_path / "unknown", tmp_path / "empty"
    empty.mkdir()
    clip(small, "a.npz", emotion="sad")
    clip(unknown, "a.npz", emotion="calm", features=np.random.default_rng(1).normal(size=(9, 16)))
    with pytest.raises(DataError, match="takes 16 dimensions, 1 clip of other ones"):
        examine.examine(finished, small)
    with pytest.raises(DataError, match="the clips are calm: not one can be evaluated"):
        examine.examine(finished, unknown)
    with pytest.raises(DataError, match="holds no clip"):
        examine.examine(finished, empty)
    assert examine.main([str(finished.root), str(small)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "takes 16 dimensions" in err


def test_features_of_another_name_are_refused(others: Path) -> None:
    report = clips.check(others)
    assert report.misfit(dim=16, key="features") is None
    assert report.misfit(dim=16, key="") is None
    said = report.misfit(dim=16, key="embeddings")
    assert said is not None and "was trained on embeddings, these are features" in said


def test_a_run_without_a_best_model_says_so(finished: RunDir, others: Path, tmp_path: Path) -> None:
    with pytest.raises((FileNotFoundError, ContractError)):
        examine.examine(RunDir(tmp_path), others)
    run = RunDir(tmp_path / "copy")
    shutil.copytree(finished.root, run.root)
    for path in run.artifacts.rglob("*.keras"):
        path.write_bytes(b"damaged")
    with pytest.raises(BundleError, match="cannot be loaded"):
        examine.examine(run, others)
    assert examine.main([str(run.root), str(others)]) == 1


def test_memory_is_what_the_packed_clips_and_a_batch_take(tmp_path: Path) -> None:
    for i, frames in enumerate((10, 20, 30)):
        features = np.random.default_rng(i).normal(size=(frames, 4)).astype(np.float16)
        clip(tmp_path, f"{i}.npz", emotion=("sad", "calm")[i % 2], features=features)
    memory = json.loads(clips.check(tmp_path).to_json())["memory_bytes"]
    assert memory == {"clips": 60 * 4 * 2, "batch": 32 * 29 * 4 * 4, "batch_size": 32}
