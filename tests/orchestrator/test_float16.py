"""`ec2emo deploy --float16`: the copy that it trains on, and what the plan says of both."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import data, float16
from orchestrator.errors import BadRequest
from orchestrator.run import Asked
from orchestrator.store import Store
from tests.conftest import Ec2emo
from tests.crashes import crash_points
from tests.orchestrator import snapshots
from trainer.clips import Report

PLAN = ("deploy", "v9_attention", "--data", "features", "--plan", "--json")


def write(path: Path, seed: int, dtype: str = "float32", scale: float = 1.0) -> None:
    features = np.random.default_rng(seed).standard_normal((40, 6)) * scale
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, features=features.astype(dtype), emotion=("sad", "calm")[seed % 2])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in range(6):
        write(tmp_path / "features" / ("deep/er" if n % 3 else ".") / f"{n}.npz", n)
    return tmp_path / "features"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def look(folder: Path, store: Store) -> Report:
    return data.look(folder, store)


def make(folder: Path, store: Store) -> tuple[Report, int]:
    """What is in the copy, and how many clips were converted for it."""
    told = [0]
    place = float16.make(look(folder, store), store, lambda done, total: told.append(done))
    return look(place, store), told[-1]


def same(copy: Report, folder: Path, store: Store) -> None:
    """The copy has the clips of the folder, in float16, and no other file."""
    source = look(folder, store)
    assert [(c.path, c.label) for c in copy.used] == [(c.path, c.label) for c in source.used]
    for clip in source.used:
        with np.load(folder / clip.path) as wide, np.load(copy.folder / clip.path) as narrow:
            assert narrow["features"].dtype == np.float16
            np.testing.assert_array_equal(narrow["features"], wide["features"].astype(np.float16))
    there = {p.relative_to(copy.folder).as_posix() for p in copy.folder.rglob("*") if p.is_file()}
    assert there == {c.path for c in source.used}


def test_the_copy_has_every_clip_under_its_path(folder: Path, store: Store) -> None:
    copy, converted = make(folder, store)
    assert converted == 6
    same(copy, folder, store)
    assert copy.folder.is_relative_to(store.root / "float16")


def test_a_second_time_nothing_is_converted_and_then_what_changed(folder: Path, store: Store) -> None:
    copy, _ = make(folder, store)
    before = {p: p.stat().st_mtime_ns for p in copy.folder.rglob("*.npz")}
    again, converted = make(folder, store)
    assert (converted, again.fingerprint) == (0, copy.fingerprint)
    assert float16.made(look(folder, store), store) == copy.folder
    write(folder / "0.npz", 20)
    assert float16.made(look(folder, store), store) is None
    changed, converted = make(folder, store)
    assert converted == 1
    same(changed, folder, store)
    after = {p: p.stat().st_mtime_ns for p in copy.folder.rglob("*.npz")}
    assert [p.name for p in after if after[p] != before[p]] == ["0.npz"]


def test_files_that_went_moved_or_became_folders_leave_nothing(folder: Path, store: Store) -> None:
    make(folder, store)
    (folder / "0.npz").rename(folder / "deep" / "0.npz")
    (folder / "deep" / "er" / "1.npz").unlink()
    (folder / "3.npz").unlink()
    write(folder / "3.npz" / "7.npz", 7)
    same(make(folder, store)[0], folder, store)
    (folder / "3.npz" / "7.npz").unlink()
    (folder / "3.npz").rmdir()
    write(folder / "3.npz", 3)
    same(make(folder, store)[0], folder, store)


def test_two_files_that_change_places_are_copied_anew(folder: Path, store: Store) -> None:
    make(folder, store)
    (folder / "0.npz").rename(folder / "x")
    (folder / "3.npz").rename(folder / "0.npz")
    (folder / "x").rename(folder / "3.npz")
    copy, converted = make(folder, store)
    assert converted == 2
    same(copy, folder, store)


def test_clips_behind_links_are_copied_as_they_are_looked_at(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    write(tmp_path / "elsewhere" / "8.npz", 8)
    (folder / "there").symlink_to(tmp_path / "elsewhere")
    (folder / "same.npz").symlink_to(folder / "0.npz")
    copy, _ = make(folder, store)
    same(copy, folder, store)
    assert (copy.folder / "there" / "8.npz").is_file()
    assert not any(p.is_symlink() for p in copy.folder.rglob("*"))


def test_files_in_float16_pass_as_they_are(folder: Path, store: Store) -> None:
    write(folder / "0.npz", 0, "float16")
    copy, _ = make(folder, store)
    assert (copy.folder / "0.npz").read_bytes() == (folder / "0.npz").read_bytes()
    assert not float16.is_narrow(look(folder, store))
    assert float16.is_narrow(copy)


def test_what_float16_cannot_hold_is_refused_and_named(folder: Path, store: Store) -> None:
    write(folder / "3.npz", 3, scale=1e5)
    with pytest.raises(
        BadRequest, match=r"features/3\.npz cannot be float16, it has a value of .*without --float16"
    ):
        make(folder, store)
    write(folder / "3.npz", 3)
    same(make(folder, store)[0], folder, store)


def test_a_file_that_changes_meanwhile_is_named(folder: Path, store: Store) -> None:
    report = look(folder, store)
    write(folder / "3.npz", 33)
    with pytest.raises(BadRequest, match=r"3\.npz changed while it was read: repeat the command"):
        float16.make(report, store, lambda *_: None)


@pytest.mark.parametrize("listed", [b"", b"[]", b'{"version": 1}', b'{"version": 1, "files": [1]}', b"\xff"])
def test_a_list_that_cannot_be_read_is_no_list(folder: Path, store: Store, listed: bytes) -> None:
    copy, _ = make(folder, store)
    copy.folder.with_suffix(".json").write_bytes(listed)
    again, converted = make(folder, store)
    assert (converted, again.fingerprint) == (6, copy.fingerprint)


def test_killed_at_any_write_nothing_half_written_is_believed(folder: Path, tmp_path: Path) -> None:
    """Old contents come back after the kill, which a list that was written too late would take for copied."""
    old = {n: (folder / f"{n}.npz").read_bytes() for n in (0, 3)}
    homes = (tmp_path / f"home-{n}" for n in range(1000))
    store = Store(tmp_path)

    def prepare() -> None:
        nonlocal store
        store = Store(next(homes))
        for n, content in old.items():
            (folder / f"{n}.npz").write_bytes(content)
        make(folder, store)
        write(folder / "0.npz", 20)
        write(folder / "3.npz", 23)
        look(folder, store)

    for point in crash_points(prepare, lambda: make(folder, store)):
        if point % 2:
            (folder / "0.npz").write_bytes(old[0])
        made = float16.made(look(folder, store), store)
        if made:
            same(look(made, store), folder, store)
        same(make(folder, store)[0], folder, store)


def test_several_sizes_are_foretold(folder: Path, store: Store) -> None:
    write(folder / "0.npz", 0, "float64")
    write(folder / "3.npz", 3, "float16")
    report = look(folder, store)
    copy, _ = make(folder, store)
    for clip, copied in zip(report.used, copy.used, strict=True):
        assert abs(float16.bytes_of(clip) - copied.bytes) <= 64


# The command


def planned(ec2emo: Ec2emo, *options: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(ec2emo(*PLAN, *options).out)
    travels: dict[str, Any] = body["travels"]
    return travels


def test_the_plan_says_what_travels_and_what_it_would_be_in_float16(ec2emo: Ec2emo, folder: Path) -> None:
    folder.rename(ec2emo.cwd / "features")
    there = ("--on", "ssh://nobody@nowhere.invalid")
    whole = sum(p.stat().st_size for p in (ec2emo.cwd / "features").rglob("*.npz"))
    said = planned(ec2emo, *there)
    assert (said["bytes"], said["files"], said["streams"], said["sent_for"]) == (whole, 6, 1, None)
    assert said["bytes_in_float16"] == whole - 6 * 40 * 6 * 2
    narrow = planned(ec2emo, *there, "--float16")
    assert (narrow["bytes"], narrow["bytes_in_float16"]) == (said["bytes_in_float16"], None)
    assert not (ec2emo.home / "float16").exists()
    here = planned(ec2emo, "--on", "local")
    assert (here["bytes"], here["files"], here["streams"]) == (0, 0, 0)


def test_the_plan_names_the_run_for_which_the_same_data_were_sent(ec2emo: Ec2emo, folder: Path) -> None:
    folder.rename(ec2emo.cwd / "features")
    where = "ssh://nobody@nowhere.invalid"
    store = Store(ec2emo.home)
    fingerprint = look(ec2emo.cwd / "features", store).fingerprint
    run = snapshots.run()
    spec = dataclasses.replace(run.spec, fingerprint=fingerprint)
    asked = (Asked("t", 1.0, "c", 1),)
    store.create(dataclasses.replace(run, spec=spec, where=where, attempts=asked))
    said = planned(ec2emo, "--on", where)
    assert (said["bytes"], said["sent_for"]) == (0, run.id)
    assert planned(ec2emo, "--on", "ssh://another.invalid")["sent_for"] is None


def test_features_on_the_machine_cannot_be_copied_here(ec2emo: Ec2emo) -> None:
    asked = ("deploy", "v9_attention", "--on", "ssh://nobody@nowhere.invalid", "--float16")
    assert "deploy without it" in ec2emo(*asked, "--data", "remote:/data", code=2).err


def test_synthetic_data_stay_synthetic_and_a_folder_in_float16_is_taken_as_it_is(ec2emo: Ec2emo) -> None:
    store = Store(ec2emo.home)
    copy, converted = make(data.folder_of("demo", store), store)
    assert converted == len(copy.used) == 256
    assert copy.synthetic
    asked = ("deploy", "v9_attention", "--on", "local", "--plan", "--json", "--float16")
    for named in ("demo", str(copy.folder)):
        said = json.loads(ec2emo(*asked, "--data", named).out)
        assert (said["data"], said["synthetic"]) == (str(copy.folder), True)
