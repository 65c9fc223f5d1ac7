"""Kills, stops and resumes of real runs."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from trainer import artifacts
from trainer.contract import Manifest, RunDir, publish
from trainer.training import checkpoints

from .runs import ROOT, add_attempt, clip, events, spawn, train, wait_for

NewRun = Callable[..., RunDir]


def copy_of(run: RunDir, target: Path) -> RunDir:
    return RunDir(Path(shutil.copytree(run.root, target)))


def weights(run: RunDir, epoch: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, the optimizer's too."""
    found: dict[str, np.ndarray] = {}
    with h5py.File(run.checkpoints / f"epoch-{epoch:04}" / "last_v9.weights.h5") as file:
        file.visititems(lambda name, x: found.update({name: x[()]}) if isinstance(x, h5py.Dataset) else None)
    return found


def test_a_run_killed_and_resumed_is_to_the_bit_the_run_that_was_not(new_run: NewRun) -> None:
    params = {"warmup": 2, "cosine_from": 4, "plateau_patience": 1}
    whole = new_run("whole", epochs=6, params=params)
    assert train(whole) == 0
    cut = new_run("cut", epochs=6, params=params)
    process = spawn(cut)
    wait_for(lambda: len(events(cut, "epoch")) >= 2)
    process.kill()
    process.wait()
    before = checkpoints.newest(cut)
    assert before is not None
    add_attempt(cut, 2, origin="checkpoint")
    assert train(cut) == 0
    started = events(cut, "started")[1]
    assert (started.attempt, started.first_epoch, started.epochs) == (2, before.state.epoch + 1, 6)
    told = {e.epoch: (e.metrics, e.lr) for e in events(cut, "epoch")}
    assert told == {e.epoch: (e.metrics, e.lr) for e in events(whole, "epoch")}
    first, second = weights(whole, 6), weights(cut, 6)
    assert first.keys() == second.keys()
    assert any("optimizer" in name for name in first)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    ended = [events(run, "ended")[-1] for run in (whole, cut)]
    assert (ended[0].best, ended[0].best_epoch) == (ended[1].best, ended[1].best_epoch)


@pytest.mark.slow
@pytest.mark.parametrize("after", [i / 20 for i in range(20)])
def test_a_kill_at_any_moment_leaves_whole_files_and_a_run_that_goes_on(
    new_run: NewRun, after: float
) -> None:
    run = new_run(epochs=8)
    process = spawn(run)
    wait_for(lambda: bool(events(run, "epoch")))
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if run.manifest.exists():
        for a in Manifest.parse(run.manifest.read_bytes()).artifacts:
            assert (run.root / a.path).stat().st_size == a.bytes
    add_attempt(run, 2, origin="checkpoint")
    assert train(run) == 0
    assert events(run, "epoch")[-1].epoch == 8


def test_the_optimizer_goes_on_counting_its_steps(finished: RunDir, tmp_path: Path) -> None:
    run = copy_of(finished, tmp_path / "run")
    steps = -(-events(run, "dataset")[0].train // 16)
    assert weights(run, 4)["optimizer/vars/0"] == 4 * steps
    add_attempt(run, 2, origin="checkpoint", more_epochs=1)
    assert train(run) == 0
    assert weights(run, 5)["optimizer/vars/0"] == 5 * steps
    assert f"goes on from epoch-0004, after {4 * steps} steps" in [n.text for n in events(run, "note")]


def test_extended_training_starts_at_the_best_and_keeps_it_until_it_is_beaten(
    finished: RunDir, tmp_path: Path
) -> None:
    run = copy_of(finished, tmp_path / "run")
    best = Manifest.parse(run.manifest.read_bytes())
    add_attempt(run, 2, origin="best", lr=1e-9, more_epochs=2)
    assert train(run) == 0
    started, again = events(run, "started")[1], events(run, "epoch")[4:]
    assert (started.first_epoch, started.epochs) == (5, 6)
    assert [e.epoch for e in again] == [5, 6]
    assert [e.lr for e in again] == pytest.approx([1e-9 / 3, 2e-9 / 3])
    # At such a rate nothing moves: the validation score is the best's own, which does not beat the best.
    assert [e.metrics["val_accuracy"] for e in again] == [best.values["best"]] * 2
    after = Manifest.parse(run.manifest.read_bytes())
    # Only what is reported of it is written anew.
    first, second = ({(a.name, a.sha256, a.epoch) for a in m.of("best")} for m in (best, after))
    assert {name for name, _, _ in first ^ second} <= {n.format(tag="v9") for n in artifacts.REPORT.values()}
    assert {a.epoch for a in after.of("last")} == {6}
    history = json.loads((run.checkpoints / "epoch-0006" / "history_v9.json").read_text())
    assert history["epoch"] == [1, 2, 3, 4, 5, 6]


def test_a_run_killed_before_its_first_checkpoint_starts_at_epoch_one(new_run: NewRun) -> None:
    run = new_run(epochs=1)
    process = spawn(run)
    wait_for(lambda: bool(events(run, "dataset")))
    process.kill()
    process.wait()
    assert not events(run, "epoch")
    add_attempt(run, 2, origin="checkpoint")
    assert train(run) == 0
    assert [(e.attempt, e.first_epoch) for e in events(run, "started")] == [(1, 1), (2, 1)]


def test_a_finished_run_resumed_without_more_epochs_has_nothing_to_do(
    finished: RunDir, tmp_path: Path
) -> None:
    run = copy_of(finished, tmp_path / "run")
    add_attempt(run, 2, origin="checkpoint")
    assert train(run) == 0
    assert events(run, "ended")[-1].reason.startswith("all 4 epochs are trained already")
    assert events(run, "ended")[-1].best == events(finished, "ended")[0].best


def other_data(folder: Path, source: Path, *, labels: bool) -> Path:
    """Copies of the clips, one of them changed, or one emotion called another."""
    shutil.copytree(source, folder)
    if not labels:
        clip(folder, "demo-01_angry_1.npz", emotion="angry", speaker="demo-01", features=np.eye(20, 16))
        return folder
    for path in sorted(folder.glob("*_sad_*.npz")):
        with np.load(path) as old:
            clip(folder, path.name, emotion="calm", speaker=str(old["speaker"]), features=old["features"])
    return folder


@pytest.mark.parametrize("what", ["data", "labels", "normaliser", "split", "architecture"])
def test_what_is_not_as_it_was_is_refused_by_name(
    finished: RunDir, small_data: Path, tmp_path: Path, what: str
) -> None:
    run = copy_of(finished, tmp_path / "run")
    spec = json.loads(run.spec.read_bytes())
    params = {"units": 6} if what == "architecture" else {}
    if what in ("data", "labels"):
        from trainer import clips

        spec["data"] = str(other_data(tmp_path / "other", small_data, labels=what == "labels"))
        spec["fingerprint"] = clips.check(Path(spec["data"])).fingerprint
    if what == "split":
        spec["seed"] = 1
    publish(run.spec, json.dumps(spec).encode())
    if what in ("labels", "normaliser"):
        path = run.checkpoints / "epoch-0004" / "state.json"
        state = json.loads(path.read_bytes())
        state["guard"]["data"] = spec["fingerprint"]
        state["guard"]["normaliser"] = "0" * 64
        publish(path, json.dumps(state).encode())
    add_attempt(run, 2, origin="checkpoint", more_epochs=1, params=params)
    assert train(run) == 1
    ended = events(run, "ended")[-1]
    assert f"cannot go on, {what} differ: " in ended.reason
    assert ended.best == events(finished, "ended")[0].best
    if what == "architecture":
        assert "kernel is 16×24 now and was 16×16" in ended.reason
    if what == "labels":
        assert "angry, happy, neutral, sad before, angry, calm, happy, neutral now" in ended.reason


def has_small_disks() -> bool:
    done = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.skipif(not shutil.which("unshare") or not has_small_disks(), reason="needs user namespaces")
def test_a_full_disk_ends_the_run_with_that_reason_and_leaves_the_best_whole(
    new_run: NewRun, tmp_path: Path
) -> None:
    run = new_run(epochs=4)
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    script = f"""
        mount -t tmpfs -o size=3m tmpfs {disk} && cp -r {run.root}/. {disk}/
        {os.sys.executable} -c '
import sys, threading, time
from pathlib import Path
def fill():
    while not list(Path("{disk}/checkpoints").glob("epoch-*")): time.sleep(0.01)
    with open("{disk}/ballast", "wb", buffering=0) as f:
        try:
            while True: f.write(bytes(4096))
        except OSError: pass
        f.truncate(max(0, f.tell() - 20480))
threading.Thread(target=fill, daemon=True).start()
from trainer.__main__ import main
sys.exit(main(["{disk}"]))
'
        code=$?; rm -f {disk}/ballast; cp -r {disk}/. {copy}; exit $code
    """
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    home = RunDir(copy)
    ended = events(home, "ended")
    assert done.returncode == 1, done.stderr[-2000:]
    assert ended[0].status == "failed"
    assert "no space left on the disk" in ended[0].reason
    for a in Manifest.parse(home.manifest.read_bytes()).artifacts:
        assert (home.root / a.path).stat().st_size == a.bytes
    add_attempt(home, 2, origin="checkpoint")
    assert train(home) == 0


def test_a_stopped_run_goes_on_where_it_stopped(new_run: NewRun) -> None:
    run = new_run(epochs=500, params={"patience": 500})
    process = spawn(run)
    wait_for(lambda: len(events(run, "epoch")) >= 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    last = events(run, "epoch")[-1].epoch
    add_attempt(run, 2, origin="checkpoint", more_epochs=1)
    assert train(run) == 0
    assert events(run, "epoch")[-1].epoch == last + 1
