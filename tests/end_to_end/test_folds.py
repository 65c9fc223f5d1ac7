"""`ec2emo deploy --folds` with real runs: one after another, and judged together by what each held out."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import Ec2emo, eventually
from tests.end_to_end.conftest import TINY, Place

FOLDS = ("cv-f1", "cv-f2")


def test_folds_train_one_after_another_and_are_judged_together(ec2emo: Ec2emo, data: Path) -> None:
    place = Place("local", ec2emo, ec2emo.home / "machine", data)
    chosen = ("deploy", "v9_attention", "--data", str(data), "--name", "cv", "--epochs", "1", *TINY)
    planned = json.loads(ec2emo(*chosen, "--folds", "2", "--plan", "--json").out)
    assert planned["folds"] == 2
    told = json.loads(ec2emo(*chosen, "--folds", "2", "--json").out)
    assert [run["run"] for run in told["runs"]] == list(FOLDS)
    for run in FOLDS:
        eventually(lambda run=run: len(place.events(run, "ended")) == 1)  # type: ignore[misc]
    trained = [(place.events(run, "dataset")[0]["t"], place.events(run, "ended")[0]["t"]) for run in FOLDS]
    assert trained[0][1] < trained[1][0]
    sides = [place.events(run, "dataset")[0] for run in FOLDS]
    assert sum(side["test"] for side in sides) == 64
    assert all(side["train"] + side["val"] + side["test"] == 64 for side in sides)

    eventually(lambda: place.see("cv-f2")["state"] == "finished")
    found = json.loads(ec2emo("evaluate", "cv", "--folds", "--json").out)
    assert (found["run"], found["of"], found["missing"], found["synthetic"]) == ("cv", 2, [], True)
    assert [fold["n"] for fold in found["folds"]] == [side["test"] for side in sides]
    right = sum(fold["accuracy"] * fold["n"] for fold in found["folds"])
    assert found["pooled"]["n"] == 64
    assert abs(found["pooled"]["accuracy"] - right / 64) < 1e-9
    assert found["pooled"]["intervals"]["resampled"] == "speakers"
    assert found["pooled"]["intervals"]["speakers"] == 8
    shown = ec2emo("evaluate", "cv-f1", "--folds").out
    for words in ("SYNTHETIC", "2 of 2 folds by speaker", "64 held out, which chose nothing", "±"):
        assert words in shown


def test_a_check_of_data_says_what_each_fold_would_hold_out(ec2emo: Ec2emo, data: Path) -> None:
    found = json.loads(ec2emo("data", "check", str(data), "--folds", "3", "--json").out)["folds"]
    assert [fold["fold"] for fold in found] == [1, 2, 3]
    assert sum(fold["clips"] for fold in found) == 64
    speakers = [name for fold in found for name in fold["speakers"]]
    assert len(speakers) == len(set(speakers)) == 8
    shown = ec2emo("data", "check", str(data), "--folds", "3").out
    assert f"fold 1    {found[0]['clips']} clips, {len(found[0]['speakers'])} speakers, 4 classes" in shown
    assert "need 9 speakers" in ec2emo("data", "check", str(data), "--folds", "9", code=2).err
    by_clip = json.loads(ec2emo("data", "check", str(data), "--folds", "9", "--split", "clip", "--json").out)
    assert [fold["clips"] for fold in by_clip["folds"]] == [8] + [7] * 8


def test_folds_that_cannot_be_are_refused_before_anything_is_written_down(ec2emo: Ec2emo, data: Path) -> None:
    chosen = ("deploy", "v9_attention", "--data", str(data), "--name", "cv")
    said = ec2emo(*chosen, "--folds", "9", code=2).err
    assert "9 folds by speaker need 9 speakers, there are 8: ask for fewer folds, or divide by clip" in said
    assert ec2emo("runs", "--json").out == ""
    assert "no cross-validation yet" in ec2emo("evaluate", "--folds", code=2).err
    assert "name what to evaluate on" in ec2emo("evaluate", code=2).err
