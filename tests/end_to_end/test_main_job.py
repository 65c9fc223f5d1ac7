"""The main job with the real trainer, on this machine and over SSH: deploy, follow, download, resume."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Box, Ec2emo, eventually, free_port
from tests.end_to_end.conftest import Place, in_fresh_python, mostly_here, mostly_over_ssh

REPRODUCE = """
import json, pathlib, sys
import numpy as np
from trainer.artifacts import load
folder, data = map(pathlib.Path, sys.argv[1:])
bundle = load(folder)
clip = sorted(data.glob("*.npz"))[0]
said = bundle.predict(clip)
assert abs(sum(said.values()) - 1) < 1e-5, said
assert list(said) == list(bundle.classes)
print(json.dumps(list(bundle.classes)))
"""


@mostly_over_ssh
def test_deploy_follow_download_resume(place: Place) -> None:
    """The whole story once, step by step, because each step stands on the one before."""
    ec2emo = place.ec2emo
    place.deploy("--follow", name="story", epochs=3)
    seen = place.see("story", code=0)
    assert (seen["state"], seen["epoch"], seen["epochs"], seen["attempt"]) == ("finished", 3, 3, 1)
    told = place.events("story", "epoch")
    assert [e["epoch"] for e in told] == [1, 2, 3]
    best = max(told, key=lambda e: e["metrics"]["val_accuracy"])
    assert seen["best"] == {"epoch": best["epoch"], "val_accuracy": best["metrics"]["val_accuracy"]}
    home = ec2emo.home / "runs" / "story"
    assert (home / "events.jsonl").read_bytes() == (place.dir("story") / "events.jsonl").read_bytes()
    assert (home / "train.log").read_bytes() == (place.dir("story") / "train.log").read_bytes()

    got = json.loads(ec2emo("download", "story", "--best", "--json").out)
    assert (got["epoch"], got["val_accuracy"]) == (seen["best"]["epoch"], seen["best"]["val_accuracy"])
    folder = Path(got["dir"])
    assert folder == ec2emo.cwd / "models" / "story"
    for file in got["files"]:
        assert hashlib.sha256((folder / file["path"]).read_bytes()).hexdigest() == file["sha256"]
    names = {"best_model_v9.keras", "best_v9.weights.h5", "label_classes_v9.npy", "audio_mean_v9.npy"}
    names |= {"audio_std_v9.npy", "history_v9.json", "metrics_v9.json", "manifest.json"}
    assert names <= {p.name for p in folder.iterdir()}
    assert json.loads((folder / "metrics_v9.json").read_text())["synthetic"] is True
    classes = json.loads(in_fresh_python(REPRODUCE, str(folder), str(place.data)))
    assert classes == sorted(classes)
    assert "was here already" in ec2emo("download", "story", "--best").err

    some = ec2emo.cwd / "some"
    some.mkdir()
    for path in sorted(place.data.glob("*.npz"))[::4]:
        (some / path.name).write_bytes(path.read_bytes())
    judged = json.loads(ec2emo("evaluate", "story", "--data", str(some), "--json").out)
    assert (judged["epoch"], judged["n"]) == (seen["best"]["epoch"], len(list(some.iterdir())))

    assert "nothing to resume" in ec2emo("resume", "story").err
    ec2emo("resume", "story", "--lr", "5e-4", "--epochs", "2", "--follow")
    after = place.see("story", code=0)
    assert (after["state"], after["epoch"], after["epochs"], after["attempt"]) == ("finished", 5, 5, 2)
    assert [e["epoch"] for e in place.events("story", "epoch")] == [1, 2, 3, 4, 5]
    assert after["best"]["val_accuracy"] >= seen["best"]["val_accuracy"]
    manifest = json.loads((place.dir("story") / "artifacts" / "manifest.json").read_text())
    assert {a["epoch"] for a in manifest["artifacts"] if a["of"] == "best"} == {after["best"]["epoch"]}

    listed = [json.loads(line) for line in ec2emo("runs", "--json").out.splitlines()]
    assert [(r["run"], r["state"], r["epoch"]) for r in listed] == [("story", "finished", 5)]
    machines = [json.loads(line) for line in ec2emo("machines", "--json").out.splitlines()]
    assert [(m["state"], m["running"]) for m in machines] == [("answers", [])]


def test_a_second_deploy_of_the_same_code_and_data_sends_no_file(
    box: Box, ec2emo: Ec2emo, data: Path
) -> None:
    ec2emo.env["HOME"] = str(box.client_home)
    place = Place(box.where, ec2emo, box.home / ".ec2emo", data)
    place.deploy(name="first", epochs=1)
    kept = ("code", "data", "objects", "env")
    before = {p: p.stat().st_mtime_ns for part in kept for p in (place.root / part).glob("*")}
    assert (
        "sending"
        not in ec2emo(
            *("deploy", "v9_attention", "--on", place.where, "--data", str(data), "--name", "second")
        ).err
    )
    after = {p: p.stat().st_mtime_ns for part in kept for p in (place.root / part).glob("*")}
    assert after == before
    for run in ("first", "second"):
        ec2emo("stop", run, "--now")


def test_the_four_commands_work_as_they_stand_after_init(ec2emo: Ec2emo, data: Path) -> None:
    ec2emo("init", "--on", "local", "--data", str(data))
    ec2emo("deploy", "v9_attention", "--epochs", "2", "--set", "units=4")
    ec2emo("monitor", "--follow")
    ec2emo("download", "--best")
    ec2emo("resume", "--lr", "5e-4", "--epochs", "1", "--follow")
    seen = json.loads(ec2emo("monitor", "--json").out)
    assert (seen["state"], seen["epoch"]) == ("finished", 3)


@mostly_over_ssh
@pytest.mark.parametrize(
    "victims", [("pid",), pytest.param(("pid", "supervisor"), marks=pytest.mark.slow), ("supervisor", "pid")]
)
def test_after_kill_9_resume_goes_on_at_the_right_epoch(place: Place, victims: tuple[str, ...]) -> None:
    place.deploy(name="killed", epochs=60)
    place.await_checkpoint("killed", 2)
    place.kill("killed", *victims)
    eventually(lambda: place.see("killed")["state"] in ("failed", "lost"))
    seen = place.see("killed", code=1)
    assert seen["state"] == ("lost" if len(victims) == 2 else "failed")
    assert ("SIGKILL" in seen["error"]) == (victims == ("pid",))
    told = [e["epoch"] for e in place.events("killed", "epoch")]
    place.ec2emo("resume", "killed")
    place.await_epoch("killed", told[-1] + 2)
    started = place.events("killed", "started")
    assert [s["attempt"] for s in started] == [1, 2]
    assert started[1]["first_epoch"] in (told[-1], told[-1] + 1)
    place.ec2emo("stop", "killed")
    after = place.see("killed", code=0)
    assert after["state"] == "stopped"
    assert after["best"]["val_accuracy"] >= seen["best"]["val_accuracy"]
    place.ec2emo("download", "killed", "--best")


def test_a_rate_for_a_run_that_never_began_is_refused(ec2emo: Ec2emo, data: Path) -> None:
    nowhere = f"ssh://nobody@127.0.0.1:{free_port()}"
    ec2emo("deploy", "v9_attention", "--on", nowhere, "--data", str(data), "--name", "early", code=6)
    assert "no best weights yet" in ec2emo("resume", "early", "--lr", "5e-4", code=2).err
    assert nowhere in ec2emo("resume", "early", code=6).err


@mostly_here
def test_a_stop_is_told_from_a_failure_and_resume_goes_on(place: Place) -> None:
    place.deploy(name="halted", epochs=60)
    place.await_checkpoint("halted", 1)
    assert "stopped" in place.ec2emo("stop", "halted").err
    seen = place.see("halted", code=0)
    assert seen["state"] == "stopped"
    assert "nothing to stop" in place.ec2emo("stop", "halted").err
    place.ec2emo("resume", "halted")
    place.await_epoch("halted", seen["epoch"] + 1)
    assert place.see("halted", code=0)["attempt"] == 2
    assert "is running" in place.ec2emo("resume", "halted", code=2).err
    place.ec2emo("stop", "halted", "--now")


@mostly_here
def test_a_trainer_that_cannot_import_tensorflow_says_so(place: Place) -> None:
    place.deploy(name="broken", epochs=3)
    place.ec2emo("stop", "broken", "--now")
    code = next((place.root / "code").iterdir())
    (code / "tensorflow.py").write_text("raise ImportError('libcublas is missing')\n")
    try:
        place.ec2emo("resume", "broken", "--follow", code=1)
        seen = place.see("broken", code=1)
        assert seen["state"] == "failed"
        assert "libcublas is missing" in seen["error"]
    finally:
        (code / "tensorflow.py").unlink()


@mostly_over_ssh
def test_after_a_restart_of_the_machine_the_run_is_lost_and_resumes(place: Place) -> None:
    place.deploy(name="restarted", epochs=60)
    place.await_checkpoint("restarted", 1)
    place.kill("restarted", "supervisor", "pid")
    process = place.process("restarted")
    (place.dir("restarted") / "process.json").write_text(json.dumps({**process, "boot": "an earlier boot"}))
    eventually(lambda: place.see("restarted")["state"] == "lost")
    assert "restarted" in place.see("restarted", code=1)["error"]
    place.ec2emo("resume", "restarted")
    place.await_epoch("restarted", 3)
    place.ec2emo("stop", "restarted", "--now")


@mostly_here
def test_a_torn_line_is_skipped_and_the_next_attempt_ends_it(place: Place) -> None:
    place.deploy(name="torn", epochs=60)
    place.await_checkpoint("torn", 1)
    place.kill("torn", "pid")
    eventually(lambda: place.see("torn")["state"] == "failed")
    with (place.dir("torn") / "events.jsonl").open("ab") as f:
        f.write(b'{"t": 1, "type": "epo')
    seen = place.see("torn", code=1)
    place.ec2emo("resume", "torn")
    place.await_epoch("torn", seen["epoch"] + 1)
    assert place.see("torn", code=0)["epoch"] > seen["epoch"]
    place.ec2emo("stop", "torn", "--now")


def test_resume_refuses_data_that_have_changed(ec2emo: Ec2emo, data: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for path in data.glob("*.npz"):
        (mine / path.name).write_bytes(path.read_bytes())
    place = Place("local", ec2emo, ec2emo.home / "machine", mine)
    place.deploy("--follow", name="changed", epochs=1)
    next(iter(sorted(mine.glob("*.npz")))).unlink()
    assert "content has changed" in ec2emo("resume", "changed", "--epochs", "1", code=2).err
    shutil.rmtree(mine)
    said = ec2emo("resume", "changed", "--epochs", "1", code=2).err
    assert "no longer on this machine: put it back" in " ".join(said.split())
    assert [s["attempt"] for s in place.events("changed", "started")] == [1]


@mostly_over_ssh
def test_download_works_while_training_goes_on(place: Place) -> None:
    place.deploy(name="under-way", epochs=60)
    place.await_checkpoint("under-way", 1)
    first = json.loads(place.ec2emo("download", "under-way", "--best", "--json").out)
    assert place.see("under-way", code=0)["state"] == "running"
    place.await_checkpoint("under-way", first["epoch"] + 6)
    later = json.loads(place.ec2emo("download", "under-way", "--best", "--json").out)
    assert later["epoch"] >= first["epoch"]
    folder = Path(later["dir"])
    assert json.loads((folder / "manifest.json").read_text())["values"]["best"] == later["val_accuracy"]
    place.ec2emo("stop", "under-way", "--now")


@mostly_here
def test_a_run_that_nobody_followed_is_known_at_home_once_it_is_downloaded(
    place: Place, tmp_path: Path
) -> None:
    place.deploy(name="quiet")
    eventually((place.dir("quiet") / "exit.json").exists)
    place.ec2emo("download", "quiet", "--best")
    place.dir("quiet").rename(tmp_path / "the machine has ended")
    (row,) = [json.loads(line) for line in place.ec2emo("runs", "--json").out.splitlines()]
    assert (row["state"], row["epoch"], row["epochs"]) == ("finished", 3, 3)
    assert row["best"]
    assert "finished: all 3 epochs" in place.ec2emo("monitor", "quiet", "--log", code=None).out


@mostly_over_ssh
def test_two_terminals_see_the_same_and_ctrl_c_leaves_the_run_alone(place: Place) -> None:
    place.deploy(name="watched", epochs=60)
    watchers = [place.ec2emo.start("monitor", "watched", "--follow") for _ in range(2)]
    place.await_epoch("watched", 3)
    home = place.ec2emo.home / "runs" / "watched" / "events.jsonl"
    eventually(lambda: home.read_bytes().count(b'"epoch"') >= 3)
    for watcher in watchers:
        os.kill(watcher.pid, signal.SIGINT)
        _, err = watcher.communicate(timeout=30)
        assert watcher.returncode == 130
        assert "Traceback" not in err
        assert "goes on" in err
    assert place.see("watched", code=0)["state"] == "running"
    place.ec2emo("stop", "watched", "--now")
    place.see("watched")
    assert home.read_bytes() == (place.dir("watched") / "events.jsonl").read_bytes()


def test_a_copy_in_float16_trains_and_is_sent_again_to_a_host_that_lost_its_data(
    own_place: tuple[Place, Box],
) -> None:
    place, _ = own_place
    place.deploy("--float16", "--follow", name="narrow", epochs=1)
    (data,) = (p for p in (place.root / "data").iterdir() if p.is_dir())
    assert {np.load(p)["features"].dtype.name for p in data.glob("*.npz")} == {"float16"}
    for lost in ("data", "objects", "packs"):
        shutil.rmtree(place.root / lost, ignore_errors=True)
    said = place.ec2emo("resume", "narrow", "--epochs", "1", "--follow").err
    assert "sending 64 clips" in said
    assert place.events("narrow", "epoch")[-1]["epoch"] == 2
    assert data.is_dir()
    planned = ("--on", place.where, "--data", str(place.data), "--plan", "--json")
    travels = json.loads(place.ec2emo("deploy", "v9_attention", *planned, "--float16").out)["travels"]
    assert (travels["bytes"], travels["sent_for"]) == (0, "narrow")
    shutil.rmtree(data)
    shutil.rmtree(place.ec2emo.home / "float16")
    said = place.ec2emo("resume", "narrow", "--epochs", "1", code=2).err
    assert "'ec2emo deploy --float16' of the same data makes it again" in " ".join(said.split())
