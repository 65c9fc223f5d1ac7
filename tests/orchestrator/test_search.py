"""`ec2emo deploy --search`: it lists what there is, and starts on nothing that nobody chose."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import numpy as np
import pytest

from orchestrator import remote
from orchestrator.shell import Shell
from tests.conftest import PROGRAM, Ec2emo


def clips(folder: Path, *, emotions: tuple[str, ...] = ("angry", "sad"), seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for emotion in emotions:
        for i in range(3):
            np.savez(
                folder / f"{emotion}{i}.npz",
                features=random.normal(size=(9, 3)),
                emotion=emotion,
                speaker=f"s{i}",
            )
    return folder


@pytest.fixture
def home(ec2emo: Ec2emo, tmp_path: Path) -> Path:
    ec2emo.env["HOME"] = str(tmp_path / "person")
    return tmp_path / "person"


SEARCH = ("deploy", "v9_attention_fix", "--on", "local", "--search")


def test_without_a_terminal_it_lists_what_it_found_and_says_what_to_type(ec2emo: Ec2emo, home: Path) -> None:
    clips(ec2emo.cwd / "features")
    clips(home / "audio_emotion" / "models" / "wav2vec", seed=1)
    clips(home / "embeddings", emotions=("sad",), seed=2)
    (home / "wav2vec_features").symlink_to(ec2emo.cwd / "features")
    said = ec2emo(*SEARCH, "--plan", code=2).err
    assert "1  features: 6 clips of 2 emotions, 3 speakers" in said
    assert "2  ~/audio_emotion/models/wav2vec: 6 clips of 2 emotions, 3 speakers" in said
    assert "-  ~/embeddings: 3 files, cannot be trained on: all clips are sad" in said
    assert "wav2vec_features:" not in said
    assert "there is no terminal to ask in: say --data features or --data" in said
    said = ec2emo(*SEARCH, "--yes", "--plan", code=2).err
    assert "2 could be meant" in said
    assert ec2emo("runs", "--json").out == ""


def test_copies_of_clips_are_named_as_such_and_not_offered(ec2emo: Ec2emo, home: Path) -> None:
    clips(ec2emo.cwd / "features")
    clips(home / "features")
    planned = ec2emo(*SEARCH, "--yes", "--plan", "--json")
    assert "-  ~/features: the same clips as features" in planned.err
    assert f'"data": "{ec2emo.cwd}/features"' in planned.out


def test_what_is_odd_about_the_data_is_said_before_anything_starts(ec2emo: Ec2emo, home: Path) -> None:
    folder = clips(ec2emo.cwd / "features")
    with np.load(folder / "sad1.npz") as stored:
        np.savez(folder / "zz.npz", features=stored["features"], emotion="sad", take=np.array(2))
    said = ec2emo("deploy", "v9_attention_fix", "--on", "local", "--data", "features", "--plan").err
    assert "6 clips of 2 emotions, 3 speakers, 1 left out (all: 'ec2emo data check')" in said
    assert "! 1 file left out, duplicate: zz.npz, the same features as sad1.npz" in said


def test_nothing_found_names_where_it_looked(ec2emo: Ec2emo, home: Path) -> None:
    (ec2emo.cwd / "features").mkdir()
    clips(ec2emo.cwd / "elsewhere")
    said = ec2emo(*SEARCH, "--yes", code=2).err
    assert "nothing to train on in features, wav2vec_features, features/wav2vec" in said
    assert "choose one of the two" in ec2emo(*SEARCH, "--data", "elsewhere", code=2).err


@pytest.mark.parametrize(("answer", "code"), [("2", 0), ("", 2), ("3", 2), ("y", 2)])
def test_in_a_terminal_a_person_chooses(ec2emo: Ec2emo, home: Path, answer: str, code: int) -> None:
    clips(ec2emo.cwd / "features")
    clips(home / "features", seed=1)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *SEARCH, "--plan", "--json"],
        cwd=ec2emo.cwd,
        env=ec2emo.env,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    shown = b""
    while b"Which is it to be (1 to 2)?" not in shown:
        shown += os.read(ours, 4096)
    os.write(ours, f"{answer}\n".encode())
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == code
    assert (f'"data": "{home}/features"' in out) == (code == 0)


def test_a_machine_is_asked_for_its_folders_with_counts(shell: Shell, tmp_path: Path) -> None:
    clips(tmp_path / "a b" / "features")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a b")
    asked = [str(tmp_path / name) for name in ("a b/features", "empty", "link/features", "none")]
    assert remote.feature_folders(shell, asked) == [(str(tmp_path / "a b" / "features"), 6)]


def test_folders_are_found_from_the_home_of_the_person_there(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    home = Path(shell.run(["sh", "-c", 'printf %s "$HOME"']).out.decode())
    folder = clips(home / "features" / "found")
    assert remote.feature_folders(shell, ["~/features/found"]) == [(str(folder.resolve()), 6)]
