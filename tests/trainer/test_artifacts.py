import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from trainer import artifacts, clips, recipes
from trainer.artifacts import Identity, Proof, Result, Unfit
from trainer.artifacts.model import BundleError
from trainer.contract import Manifest, RunDir
from trainer.data import dataset
from trainer.data.batches import Validation
from trainer.scores import evaluate
from trainer.scores.evaluate import Score

from .runs import TINY, clip


@dataclasses.dataclass
class Measured:
    """A model, and what it is worth on the validation clips."""

    model: Any
    who: Identity
    result: Result
    proof: Proof
    val: Validation

    def score(self, more: int = 0) -> Score:
        found = evaluate.score(self.val.labels, self.val.predict(self.model), self.who.classes)
        return dataclasses.replace(found, correct=found.correct + more)

    def publish(self, run: RunDir, result: Result | None = None) -> Path:
        return artifacts.publish_best(run, self.model, self.who, result or self.result, self.proof)


@pytest.fixture
def measured(small_data: Path) -> Measured:
    packed = dataset.load(small_data, clips.check(small_data).fingerprint)
    split = dataset.divide(packed, "speaker", 42)
    norm = dataset.normaliser(packed, split.train)
    val = Validation(packed, split.val, norm, batch_size=16)
    v9 = recipes.load("v9_attention")
    # Of untrained weights some have no unit alive, so that all classes tie and any score can be reproduced.
    keras.utils.set_random_seed(9)
    model = v9.build((norm.frames, packed.dim), 4, recipes.make_params(v9, TINY))
    score = evaluate.score(val.labels, val.predict(model), packed.classes)
    preprocessing = {"split": "speaker", "speakers": 8, "shared_speakers": 0}
    who = Identity("r", "v9_attention", "v9", packed.classes, norm, preprocessing, synthetic=True)
    result = Result(1, score.accuracy, 1.0, score, [{"epoch": 1, "val_accuracy": score.accuracy}])
    return Measured(model, who, result, Proof(val), val)


def test_what_cannot_reproduce_its_score_after_loading_is_not_published(
    measured: Measured, tmp_path: Path
) -> None:
    run = RunDir(tmp_path)
    better = dataclasses.replace(measured.result.score, correct=measured.result.score.correct + 1)
    claimed = dataclasses.replace(measured.result, score=better)
    with pytest.raises(Unfit, match="validation clips right after loading, and"):
        measured.publish(run, claimed)
    assert list(run.artifacts.iterdir()) == []
    assert measured.publish(run).exists()


def test_a_later_best_is_proved_by_its_own_weights_in_the_model_that_the_first_was_loaded_as(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path)
    file = measured.publish(run) / "best_model_v9.keras"
    monkeypatch.setattr(keras.models, "load_model", None)
    before = measured.model.get_weights()
    measured.model.set_weights([w + 0.25 for w in before])
    with pytest.raises(Unfit, match="does not hold the weights that were measured"):
        measured.proof.of(file, measured.model, measured.result)
    with pytest.raises(Unfit, match="validation clips right after loading, and"):
        measured.publish(run, dataclasses.replace(measured.result, score=measured.score(-1)))
    assert measured.publish(run, dataclasses.replace(measured.result, score=measured.score())).exists()


def test_a_best_of_another_architecture_is_proved_by_its_file_alone(
    measured: Measured, tmp_path: Path
) -> None:
    first = measured.publish(RunDir(tmp_path))
    v9 = recipes.load("v9_attention")
    wider = v9.build(measured.model.input_shape[1:], 4, recipes.make_params(v9, TINY | {"dense1": 7}))
    measured.model = wider
    result = dataclasses.replace(measured.result, score=measured.score())
    assert measured.publish(RunDir(tmp_path), result) != first


def test_weights_that_are_no_numbers_are_never_the_best(measured: Measured, tmp_path: Path) -> None:
    values = measured.model.get_weights()
    values[3].flat[0] = np.nan
    measured.model.set_weights(values)
    with pytest.raises(Unfit, match="not all finite"):
        artifacts.publish_best(
            RunDir(tmp_path), measured.model, measured.who, measured.result, measured.proof
        )


def test_a_best_that_the_manifest_may_list_is_not_written_over(measured: Measured, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    first, second = (
        artifacts.publish_best(run, measured.model, measured.who, measured.result, measured.proof)
        for _ in "12"
    )
    assert (first.name, second.name) == ("best-0001", "best-0001-2")


@pytest.fixture
def home(finished: RunDir, tmp_path: Path) -> Path:
    """The best of the finished run, as `download` leaves it."""
    for a in Manifest.parse(finished.manifest.read_bytes()).of("best"):
        shutil.copy(finished.root / a.path, tmp_path / a.name)
    return tmp_path


def test_a_bundle_predicts_files_and_arrays_alike(home: Path, small_data: Path) -> None:
    bundle = artifacts.load(str(home))
    path = sorted(small_data.glob("*.npz"))[0]
    with np.load(path) as stored:
        features = stored["features"]
    assert bundle.predict(str(path)) == bundle.predict(path) == bundle.predict(features)
    assert list(bundle.predict(path)) == list(bundle.classes)
    longer = np.concatenate([features] * 9)
    assert bundle.predict(longer) == bundle.predict(longer[: bundle.norm.frames])


def test_a_model_of_any_length_is_refused_without_the_length_it_was_trained_on(home: Path) -> None:
    (home / "preprocessing_v9.json").write_text("{}")
    with pytest.raises(BundleError, match=r"nothing in .* says how many frames"):
        artifacts.load(home)


def test_labels_come_home_without_pickles(home: Path) -> None:
    assert np.load(home / "label_classes_v9.npy", allow_pickle=False).dtype.kind == "U"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("label_classes_v9.npy", np.array(["a", "b"]), "has 2 labels, its model tells 4 apart"),
        ("audio_mean_v9.npy", np.zeros(3, np.float32), r"statistics of shapes \(3,\)"),
        ("audio_std_v9.npy", np.zeros((1, 16), np.float32), "statistics of shapes"),
        ("audio_std_v9.npy", np.zeros(16, np.float32), "a deviation is not above 0"),
        ("audio_mean_v9.npy", np.full(16, np.nan, np.float32), "not all finite"),
        ("audio_mean_v9.npy", np.array([{}], dtype=object), "cannot be read"),
        ("audio_mean_v9.npy", None, "cannot be read"),
        ("best_model_v9.keras", b"not a model", "cannot be loaded"),
        ("best_model_v9.keras", None, "cannot be loaded"),
        ("label_classes_v9.npy", None, "holds no model"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(home: Path, name: str, value: Any, said: str) -> None:
    if value is None:
        (home / name).unlink()
    elif isinstance(value, bytes):
        (home / name).write_bytes(value)
    else:
        np.save(home / name, value, allow_pickle=value.dtype == object)
    with pytest.raises(BundleError, match=said):
        artifacts.load(home)


def test_two_models_in_a_folder_are_not_guessed_at(home: Path) -> None:
    shutil.copy(home / "label_classes_v9.npy", home / "label_classes_v8.npy")
    with pytest.raises(BundleError, match="holds 2 models"):
        artifacts.load(home)


def test_weights_that_are_no_numbers_are_refused_at_home_too(home: Path) -> None:
    import keras

    model = keras.models.load_model(home / "best_model_v9.keras")
    values = model.get_weights()
    values[0][:] = np.inf
    model.set_weights(values)
    model.save(home / "best_model_v9.keras")
    with pytest.raises(BundleError, match=r"the weights .* are not all finite"):
        artifacts.load(home)


def test_a_clip_of_another_kind_is_refused(home: Path) -> None:
    bundle = artifacts.load(home)
    with pytest.raises(BundleError, match=r"takes clips of shape \(frames, 16\), this one is \(9, 4\)"):
        bundle.predict(np.zeros((9, 4)))
    with pytest.raises(BundleError, match="this one is"):
        bundle.predict(np.zeros((0, 16)))
    broken = clip(home, "broken.npz", features=np.full((9, 16), np.nan))
    with pytest.raises(BundleError, match="is no clip: it has NaN"):
        bundle.predict(broken)


def test_the_weights_and_the_archive_are_the_same_model(home: Path) -> None:
    import keras

    whole = keras.models.load_model(home / "best_model_v9.keras")
    steps = int(whole.optimizer.iterations)
    again = keras.models.model_from_json(whole.to_json())
    again.optimizer.build(again.trainable_variables)
    again.load_weights(home / "best_v9.weights.h5")
    assert all(np.array_equal(a, b) for a, b in zip(whole.get_weights(), again.get_weights(), strict=True))
    assert int(again.optimizer.iterations) == steps > 0


def test_everything_synthetic_says_so(home: Path) -> None:
    for path in home.glob("*.json"):
        assert json.loads(path.read_text())["synthetic"] is True
