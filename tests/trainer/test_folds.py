"""Folds: what is held out chooses nothing and trains nothing, and every clip is held out once."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer import clips, pool
from trainer.clips import DataError, folds
from trainer.contract import ContractError, Manifest, RunDir
from trainer.data import dataset
from trainer.data.preparation import Preparation

from .runs import add_attempt, clip, events, spawn, train, wait_for
from .test_dataset import corpus, packed_of

NewRun = Callable[..., RunDir]


@pytest.mark.parametrize("seed", range(8))
def test_whole_speakers_are_divided_as_scikit_learn_divides_them(seed: int) -> None:
    from sklearn.model_selection import StratifiedGroupKFold

    random = np.random.default_rng(seed)
    groups = np.sort(random.integers(0, 14, 300)).astype(str)
    labels = random.choice(5, 300, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    count = 3 + seed % 4
    theirs = StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(labels, labels, groups)
    ours = folds.by_group(labels, groups, count, seed)
    assert [f.tolist() for f in ours] == [sorted(test) for _, test in theirs]


def test_clips_are_dealt_out_so_that_folds_differ_by_one_of_a_class_at_most() -> None:
    labels = np.array([0] * 11 + [1] * 7 + [2] * 5)
    found = folds.by_class(labels, 4, 1)
    assert sorted(np.concatenate(found)) == list(range(23))
    counts = np.array([np.bincount(labels[f], minlength=3) for f in found])
    assert (np.ptp(counts, axis=0) <= 1).all()
    assert np.ptp(counts.sum(axis=1)) <= 1


@pytest.mark.parametrize("how", ["speaker", "clip"])
def test_every_clip_is_held_out_once_and_trains_in_every_other_fold(tmp_path: Path, how: str) -> None:
    packed = corpus(tmp_path)
    splits = [dataset.divide(packed, how, 42, fold=(i, 4)) for i in range(1, 5)]
    assert sorted(np.concatenate([s.test for s in splits])) == list(range(80))
    for split in splits:
        assert sorted([*split.train, *split.val, *split.test]) == list(range(80))
        assert set(packed.labels[split.train]) == set(packed.labels[split.test]) == {0, 1}
        assert split.judged is split.test


@pytest.mark.parametrize("adaptive", [False, True])
def test_no_speaker_who_is_held_out_trains_or_chooses(tmp_path: Path, adaptive: bool) -> None:
    packed = corpus(tmp_path)
    for i in range(1, 5):
        asked = Preparation(validation=0.2, adaptive=adaptive)
        split = dataset.divide(packed, "speaker", 42, asked, fold=(i, 4))
        train, val, test = (
            {packed.report.used[i].speaker for i in side} for side in (split.train, split.val, split.test)
        )
        assert not train & val and not train & test and not val & test
        assert split.shared_speakers == 0


def test_folds_are_of_the_content_and_the_seed_and_not_of_the_order_of_files(tmp_path: Path) -> None:
    packed = corpus(tmp_path)
    found = [f.tolist() for f in folds.held_out(packed.report, "speaker", 4, 42)]
    again = [f.tolist() for f in folds.held_out(clips.check(tmp_path), "speaker", 4, 42)]
    assert found == again
    assert found != [f.tolist() for f in folds.held_out(packed.report, "speaker", 4, 43)]


def test_without_a_fold_the_validation_clips_are_judged(tmp_path: Path) -> None:
    split = dataset.divide(corpus(tmp_path), "speaker", 42)
    assert not len(split.test)
    assert split.judged is split.val


def test_folds_that_cannot_be_are_refused_in_one_sentence(tmp_path: Path) -> None:
    report = corpus(tmp_path, speakers=4).report
    with pytest.raises(DataError, match="5 folds by speaker need 5 speakers, there are 4: ask for fewer"):
        folds.held_out(report, "speaker", 5, 42)
    for i in range(3):
        clip(tmp_path, f"x{i}.npz", emotion="sad", speaker="s1", features=np.eye(7 + i, 3))
    with pytest.raises(DataError, match=r"fold \d of 4 would leave too few clips of sad to train on"):
        folds.held_out(clips.check(tmp_path), "speaker", 4, 42)
    with pytest.raises(DataError, match="fold 1 of 2 would leave too few clips of sad"):
        folds.held_out(clips.check(tmp_path), "clip", 2, 42)
    clip(tmp_path, "y.npz", emotion="calm", features=np.eye(12, 3))
    with pytest.raises(DataError, match=r"the speaker of y\.npz is unknown: divide by clip"):
        dataset.divide(packed_of(tmp_path), "speaker", 42, fold=(1, 3))


@pytest.fixture(scope="module")
def of_fold_two(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> RunDir:
    from .conftest import make_run

    run = make_run(tmp_path_factory.mktemp("fold") / "cv-f2", small_data, epochs=2, fold=2, folds=4)
    assert train(run) == 0
    return run


def artifact(run: RunDir, role: str) -> bytes:
    best = Manifest.parse(run.manifest.read_bytes()).of("best")
    return (run.root / next(a.path for a in best if a.role == role)).read_bytes()


def test_a_run_of_a_fold_is_judged_by_the_clips_it_held_out(of_fold_two: RunDir, small_data: Path) -> None:
    packed = dataset.load(small_data, clips.check(small_data).fingerprint)
    split = dataset.divide(packed, "speaker", 42, fold=(2, 4))
    said = events(of_fold_two, "dataset")[0]
    assert (said.train, said.val, said.test) == (len(split.train), len(split.val), len(split.test))
    body = json.loads(artifact(of_fold_two, "evaluation"))
    assert (body["chose_epoch"], body["fold"], body["folds"]) == (False, 2, 4)
    assert (body["train"], body["val"], body["n"]) == (said.train, said.val, said.test)
    metrics = json.loads(artifact(of_fold_two, "metrics"))
    assert metrics["n"] == said.val
    rows = list(csv.DictReader(artifact(of_fold_two, "predictions").decode().splitlines()))
    assert [row["clip"] for row in rows] == [packed.report.used[i].path for i in split.test]
    right = sum(row["label"] == row["taken_for"] for row in rows)
    assert right / len(rows) == pytest.approx(body["accuracy"])
    for row in rows:
        shares = {name: float(row[name]) for name in body["classes"]}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert max(shares, key=shares.__getitem__) == row["taken_for"]


def test_its_report_says_that_these_clips_chose_nothing(of_fold_two: RunDir) -> None:
    page = artifact(of_fold_two, "report").decode()
    assert "neither trained it nor chose its epoch: fold 2 of 4" in " ".join(page.split())
    assert "chose the epoch too" not in page


def test_it_cannot_go_on_as_another_fold(of_fold_two: RunDir, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    shutil.copytree(of_fold_two.root, run.root)
    spec = json.loads(run.spec.read_bytes())
    run.spec.write_text(json.dumps({**spec, "fold": 3}))
    add_attempt(run, 2, origin="checkpoint", more_epochs=1)
    assert train(run) == 1
    assert "split differ" in events(run, "ended")[-1].reason


def test_folds_are_pooled_clip_by_clip_and_only_with_folds_of_the_same_division(
    of_fold_two: RunDir, tmp_path: Path
) -> None:
    """A second fold is made of the first one's files: its clips are right where the first's are wrong."""
    other = RunDir(tmp_path / "cv-f1")
    shutil.copytree(of_fold_two.root, other.root)
    there = {a.role: other.root / a.path for a in Manifest.parse(other.manifest.read_bytes()).of("best")}
    about = json.loads(there["evaluation"].read_bytes())
    there["evaluation"].write_text(json.dumps({**about, "run": "cv-f1", "accuracy": 1.0}))
    rows = list(csv.DictReader(there["predictions"].read_text().splitlines()))
    for row in rows:
        row.update(dict.fromkeys(about["classes"], "0") | {row["label"]: "1"})
    with there["predictions"].open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    found = pool.pool([other, of_fold_two, RunDir(tmp_path / "cv-f3")])
    assert found["missing"] == ["cv-f3"]
    assert (found["of"], found["best"], found["pooled"]["n"]) == (4, "cv-f1", 2 * about["n"])
    assert found["pooled"]["accuracy"] == pytest.approx((1 + about["accuracy"]) / 2)
    assert found["mean"]["accuracy"] == pytest.approx((1 + about["accuracy"]) / 2)
    assert found["deviation"]["accuracy"] == pytest.approx((1 - about["accuracy"]) / 2**0.5)
    there["evaluation"].write_text(json.dumps({**about, "run": "cv-f1", "seed": 7}))
    with pytest.raises(ContractError, match="cv-f2 and cv-f1 are no folds of one division: seed differs"):
        pool.pool([other, of_fold_two])


def test_what_holds_out_nothing_is_not_pooled(
    finished: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pool.main([str(finished.root)]) == 2
    assert "run holds out no fold" in capsys.readouterr().err
    assert pool.main([str(tmp_path)]) == 2
    assert "no fold is evaluated yet" in capsys.readouterr().err


def held(run: RunDir) -> Any:
    """The lock of a run that lives, as its supervisor holds it."""
    run.root.mkdir()
    lock = run.lock.open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def test_a_run_waits_until_those_before_it_have_ended_however_they_do(
    new_run: NewRun, tmp_path: Path
) -> None:
    first, second = (held(RunDir(tmp_path / name)) for name in ("cv-f1", "cv-f2"))
    run = new_run("cv-f3", epochs=1, after=["cv-f1", "cv-f2", "never-launched"])
    process = spawn(run)
    wait_for(lambda: "waits for cv-f1 to end" in [n.text for n in events(run, "note")])
    second.close()
    assert not events(run, "dataset")
    first.close()
    wait_for(lambda: bool(events(run, "dataset")), 180)
    process.kill()
    process.wait()
    assert [n.text for n in events(run, "note")][:2] == ["waits for cv-f1 to end", "cv-f1 has ended"]


def test_a_run_that_waits_can_be_stopped(new_run: NewRun, tmp_path: Path) -> None:
    lock = held(RunDir(tmp_path / "cv-f1"))
    run = new_run("cv-f2", after=["cv-f1"])
    process = spawn(run)
    wait_for(lambda: bool(events(run, "note")))
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(10) == 0
    assert events(run, "ended")[-1].status == "stopped"
    lock.close()
