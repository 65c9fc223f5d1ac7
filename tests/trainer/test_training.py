"""Whole runs: what they write, in which order, and how they end."""

import hashlib
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer import artifacts, clips
from trainer.contract import Manifest, RunDir
from trainer.data import dataset
from trainer.schedule import Plan, Schedule

from .runs import clip, events, spawn, train, wait_for

NewRun = Callable[..., RunDir]


def test_a_run_tells_its_story_in_order(finished: RunDir) -> None:
    run = finished
    story = events(run)
    assert [e.type for e in story[:2]] == ["started", "dataset"]
    assert story[-1].type == "ended"
    started, dataset, ended = story[0], story[1], story[-1]
    assert (started.attempt, started.first_epoch, started.epochs) == (1, 1, 4)
    assert (dataset.used, dataset.dim, dataset.split, dataset.shared_speakers) == (64, 16, "speaker", 0)
    assert dataset.train + dataset.val == 64
    assert dataset.synthetic
    assert (ended.status, ended.reason) == ("finished", "all 4 epochs are trained")
    epochs = events(run, "epoch")
    assert [e.epoch for e in epochs] == [1, 2, 3, 4]
    assert all(set(e.metrics) == {"loss", "accuracy", "val_loss", "val_accuracy"} for e in epochs)
    assert all(e.seconds > 0 for e in epochs)
    best = max(epochs, key=lambda e: e.metrics["val_accuracy"])
    assert (ended.best_epoch, ended.best) == (best.epoch, best.metrics["val_accuracy"])
    kinds = [e.type for e in story if e.type in ("epoch", "saved")]
    assert kinds[:4] == ["epoch", "saved", "saved", "saved"]


def test_every_saved_file_is_there_and_in_the_manifest_by_the_time_it_is_told(new_run: NewRun) -> None:
    run = new_run(epochs=2)
    process = spawn(run)
    seen = 0
    while process.poll() is None:
        for event in events(run, "saved")[seen:]:
            seen += 1
            if event.role == "checkpoint":
                assert (run.root / event.path / "state.json").exists()
            else:
                listed = {a.path for a in Manifest.parse(run.manifest.read_bytes()).artifacts}
                assert event.path in listed
                assert (run.root / event.path).exists()
        time.sleep(0.02)
    assert process.returncode == 0
    assert seen >= 2


def test_all_of_best_and_last_is_listed_with_its_digest_and_of_one_epoch(finished: RunDir) -> None:
    run = finished
    manifest = Manifest.parse(run.manifest.read_bytes())
    common = {"labels", "mean", "std", "history", "metrics", "preprocessing"}
    assert {a.role for a in manifest.of("best")} == {"model", "weights"} | common | set(artifacts.REPORT)
    assert {a.role for a in manifest.of("last")} == {"weights", "config"} | common
    names = {a.name for a in manifest.of("best")}
    assert names >= {"best_model_v9.keras", "best_v9.weights.h5", "label_classes_v9.npy", "audio_std_v9.npy"}
    assert {a.epoch for a in manifest.of("last")} == {4}
    assert len({a.epoch for a in manifest.of("best")}) == 1
    for a in manifest.artifacts:
        data = (run.root / a.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (a.bytes, a.sha256)
        if a.name.endswith(".json"):
            body = json.loads(data)
            assert body["synthetic"] is True
            assert "epoch" not in body or a.role == "history" or body["epoch"] == a.epoch
    metrics = json.loads(
        next((run.root / a.path) for a in manifest.of("best") if a.role == "metrics").read_text()
    )
    assert metrics["val_accuracy"] == manifest.values["best"]
    assert metrics["val_accuracy"] == np.trace(metrics["confusion"]) / metrics["n"]
    assert metrics["uar"] == pytest.approx(np.mean(list(metrics["per_class"].values())))
    assert (metrics["split"], metrics["shared_speakers"]) == ("speaker", 0)
    history = json.loads(
        next((run.root / a.path) for a in manifest.of("last") if a.role == "history").read_text()
    )
    assert history["epoch"] == [1, 2, 3, 4]
    assert {len(column) for name, column in history.items() if name != "synthetic"} == {4}


@pytest.mark.parametrize("of", ["best", "last"])
def test_what_comes_home_predicts_as_it_did_there(
    finished: RunDir, small_data: Path, tmp_path: Path, of: str
) -> None:
    for a in Manifest.parse(finished.manifest.read_bytes()).of(of):
        (tmp_path / a.name).write_bytes((finished.root / a.path).read_bytes())
    bundle = artifacts.load(tmp_path)
    assert bundle.synthetic
    assert bundle.classes == ("angry", "happy", "neutral", "sad")
    packed = dataset.load(small_data, clips.check(small_data).fingerprint)
    right = 0
    val = dataset.divide(packed, "speaker", 42).val
    for used in (packed.report.used[i] for i in val):
        found = bundle.predict(small_data / used.path)
        assert sum(found.values()) == pytest.approx(1, abs=1e-5)
        right += max(found, key=lambda c: found[c]) == used.label
    recorded = json.loads((tmp_path / "metrics_v9.json").read_text())["val_accuracy"]
    assert right / len(val) == recorded


def test_early_stopping_ends_the_run_and_names_the_best_epoch(new_run: NewRun) -> None:
    run = new_run(epochs=30, params={"patience": 2, "low_lr": 1e-12, "high_lr": 1e-12})
    assert train(run) == 0
    ended = events(run, "ended")[0]
    assert ended.reason == "early stopping: no better val_accuracy in 2 epochs since epoch 1"
    assert len(events(run, "epoch")) == 3


@pytest.mark.parametrize(("epochs", "is_best"), [(1, True), (3, False)])
def test_an_epoch_is_saved_once_and_its_checkpoint_has_its_own_weights(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch, epochs: int, is_best: bool
) -> None:
    import keras

    saved = []
    save = keras.Model.save

    def counted(model: Any, path: Any, **more: Any) -> None:
        saved.append(path)
        save(model, path, **more)

    monkeypatch.setattr(keras.Model, "save", counted)
    # Nothing is learnt, so that no later epoch is better than the first.
    run = new_run(epochs=epochs, params={"low_lr": 1e-12, "high_lr": 1e-12})
    assert train(run) == 0
    assert len(saved) == epochs
    manifest = Manifest.parse(run.manifest.read_bytes())
    last, best = (next(a for a in manifest.of(of) if a.role == "weights") for of in ("last", "best"))
    assert (last.epoch, best.epoch) == (epochs, 1)
    assert (last.sha256 == best.sha256) == is_best


def test_two_checkpoints_and_two_bests_are_kept(finished: RunDir) -> None:
    run = finished
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["epoch-0003", "epoch-0004"]
    bests = {p.name for p in run.artifacts.iterdir()} - {"manifest.json"}
    assert 1 <= len(bests) <= 2
    listed = {Path(a.path).parent.name for a in Manifest.parse(run.manifest.read_bytes()).of("best")}
    assert listed <= bests


def test_the_same_seed_is_the_same_run_and_another_is_not(new_run: NewRun) -> None:
    told = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run = new_run(name, epochs=1, seed=seed)
        train(run)
        told.append([e.metrics for e in events(run, "epoch")])
    assert told[0] == told[1] != told[2]


def test_the_rate_that_is_told_is_the_one_that_was_used(finished: RunDir) -> None:
    # Four epochs are fewer than cosine_from: the plan is fitted to them.
    wanted = [Schedule(Plan(epochs=4, warmup=3, cosine_from=50)).rate(epoch) for epoch in (1, 2, 3, 4)]
    assert [e.lr for e in events(finished, "epoch")] == pytest.approx(wanted, rel=1e-6)


def test_a_loss_that_is_no_number_names_the_batch_and_keeps_the_last_good_weights(new_run: NewRun) -> None:
    run = new_run(epochs=30, params={"low_lr": 1e-6, "high_lr": 1e38, "warmup": 2})
    assert train(run) == 1
    ended = events(run, "ended")[0]
    assert ended.status == "failed"
    assert ended.reason.startswith("the loss is nan in batch 2 of epoch 2: what was saved before is kept")
    assert ended.best_epoch == 1
    bundle = artifacts.load(
        run.root / Path(Manifest.parse(run.manifest.read_bytes()).of("best")[0].path).parent
    )
    assert all(np.isfinite(w).all() for w in bundle.model.get_weights())


def test_tensorboard_gets_a_point_per_epoch(finished: RunDir) -> None:
    assert {p.parent.name for p in finished.tensorboard.rglob("events.out.*")} == {"train", "validation"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe": "v9_atention"}, "did you mean v9_attention"),
        ({"params": {"untis": 3}}, "did you mean units"),
        ({"fingerprint": "0" * 64}, "is not the run's"),
        ({"data": "/nowhere"}, "does not exist"),
        ({"split": "sentence"}, "no split 'sentence'"),
    ],
)
def test_a_spec_that_cannot_be_trained_fails_in_a_sentence(
    new_run: NewRun, change: dict[str, object], said: str
) -> None:
    data = change.pop("data", None)
    run = new_run(**change)
    if data:
        run.spec.write_text(run.spec.read_text().replace(json.loads(run.spec.read_text())["data"], str(data)))
    assert train(run) == 1
    story = events(run)
    assert story[0].type == "started"
    assert (story[-1].type, story[-1].status) == ("ended", "failed")
    assert said in story[-1].reason
    assert "\n" not in story[-1].reason


def test_a_run_without_speakers_is_never_quietly_divided_by_clip(new_run: NewRun, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for i in range(8):
        clip(data, f"{i}.npz", emotion=("sad", "calm")[i % 2])
    run = new_run(data=data)
    assert train(run) == 1
    assert "speaker of 0.npz is unknown" in events(run, "ended")[0].reason
    run = new_run("by-clip", data=data, split="clip")
    assert train(run) == 0
    assert events(run, "dataset")[0].shared_speakers is None


def test_started_comes_before_keras_and_within_a_moment(new_run: NewRun) -> None:
    run = new_run()
    began = time.time()
    process = spawn(run)
    wait_for(lambda: bool(events(run, "started")))
    assert events(run)[0].t - began < 0.5
    process.kill()
    process.wait()


def test_a_broken_tensorflow_is_a_failed_run_with_its_import_error(new_run: NewRun, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tensorflow.py").write_text("raise ImportError('libcudart.so.99: no such file')")
    run = new_run()
    assert spawn(run, PYTHONPATH=str(tmp_path / "broken")).wait() == 1
    assert [e.type for e in events(run)] == ["started", "ended"]
    assert "libcudart.so.99" in events(run)[-1].reason
    assert "Traceback" in run.log.read_text()


def test_a_stop_before_training_is_obeyed_at_once(new_run: NewRun) -> None:
    run = new_run(epochs=50)
    process = spawn(run)
    wait_for(lambda: bool(events(run, "started")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert (events(run)[-1].type, events(run)[-1].status) == ("ended", "stopped")
    assert not events(run, "epoch")


def test_a_stop_while_training_ends_after_the_batch_with_everything_whole(new_run: NewRun) -> None:
    run = new_run(epochs=5000, params={"patience": 5000})
    process = spawn(run)
    wait_for(lambda: len(events(run, "epoch")) >= 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    ended = events(run)[-1]
    assert (ended.type, ended.status) == ("ended", "stopped")
    last = events(run, "epoch")[-1].epoch
    assert (run.checkpoints / f"epoch-{last:04}" / "state.json").exists()
    assert ended.best is not None
    artifacts.load(run.root / Path(Manifest.parse(run.manifest.read_bytes()).of("best")[0].path).parent)
    assert "Epoch 1/5000" in run.log.read_text()
    assert "Traceback" not in run.log.read_text()


def test_validation_is_scored_as_keras_scores_it(finished: RunDir, small_data: Path) -> None:
    import keras

    packed = dataset.load(small_data, clips.check(small_data).fingerprint)
    split = dataset.divide(packed, "speaker", 42)
    norm = dataset.normaliser(packed, split.train)
    last = finished.checkpoints / "epoch-0004"
    model = keras.models.model_from_json((last / "model_config_v9.json").read_text())
    model.load_weights(last / "last_v9.weights.h5")
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    x = norm.batch([packed.clip(i) for i in split.val])
    loss, accuracy = model.evaluate(x, packed.labels[split.val], batch_size=16, verbose=0)
    told = events(finished, "epoch")[-1].metrics
    assert told["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert told["val_accuracy"] == pytest.approx(accuracy)
