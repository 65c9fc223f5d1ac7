"""The one file that all clips of a content become."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer import clips
from trainer.clips import DataError
from trainer.data import dataset, pack
from trainer.data.dataset import Packed

from .runs import ROOT, clip
from .test_dataset import corpus


def load(folder: Path, packs: Path | None) -> Packed:
    return dataset.load(folder, clips.check(folder).fingerprint, packs)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    corpus(folder)
    return folder


def the_pack(packs: Path) -> Path:
    (found,) = (p for p in packs.iterdir() if p.is_dir())
    return found


def test_out_of_a_pack_come_the_clips_that_went_in(data: Path, tmp_path: Path) -> None:
    plain = load(data, None)
    for again in (load(data, tmp_path / "packs"), load(data, tmp_path / "packs")):
        assert isinstance(again.frames, np.memmap)
        assert again.frames.dtype == plain.frames.dtype == np.float16
        assert np.array_equal(again.frames, plain.frames)
        assert np.array_equal(again.offsets, plain.offsets)
        assert np.array_equal(again.labels, plain.labels)


def test_a_pack_is_made_once_and_the_clips_are_not_read_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(data, tmp_path / "packs")
    fingerprint = before.report.fingerprint
    monkeypatch.setattr(clips.files, "parse", None)
    monkeypatch.setattr(clips, "look", None)
    assert np.array_equal(dataset.load(data, fingerprint, tmp_path / "packs").frames, before.frames)


def test_other_data_have_another_pack(data: Path, tmp_path: Path) -> None:
    load(data, tmp_path / "packs")
    clip(data, "more.npz", emotion="calm", speaker="s1", features=np.eye(7, 3, dtype=np.float16))
    assert len(load(data, tmp_path / "packs").labels) == 81
    assert sum(p.is_dir() for p in (tmp_path / "packs").iterdir()) == 2


@pytest.mark.parametrize("what", [pack.FRAMES, pack.INDEX])
@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_a_damaged_pack_is_made_anew(data: Path, tmp_path: Path, what: str, how: str) -> None:
    before = np.array(load(data, tmp_path / "packs").frames)
    file = the_pack(tmp_path / "packs") / what
    raw = bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(raw[: len(raw) // 2])
    else:
        # A digit for another one, so that JSON stays JSON.
        raw[-3] = ord("1") if raw[-3] == ord("0") else ord("0")
        file.write_bytes(raw)
    assert np.array_equal(load(data, tmp_path / "packs").frames, before)
    assert json.loads((the_pack(tmp_path / "packs") / pack.INDEX).read_bytes())["crc32"]


def test_where_no_pack_can_be_kept_the_clips_are_read(data: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "packs"
    nowhere.write_text("a file where the folder would be")
    packed = load(data, nowhere)
    assert not isinstance(packed.frames, np.memmap)
    assert np.array_equal(packed.frames, load(data, None).frames)


def test_a_clip_that_changes_between_look_and_reading_is_named(data: Path, tmp_path: Path) -> None:
    report = clips.check(data)
    other = report.used[3].path
    with np.load(data / other) as stored:
        arrays = {key: stored[key] for key in stored.files}
    np.savez(data / other, **{**arrays, "features": arrays["features"] + 1})
    with pytest.raises(DataError, match=f"{other} changed while it was read"):
        pack.frames_of(report, tmp_path / "packs")
    assert not [p for p in (tmp_path / "packs").iterdir() if p.is_dir()], "something was left aside"


KILLED = """
import os, signal, sys
from pathlib import Path
from trainer import clips
from trainer.data import pack
wrote = pack._read_all
def killed(*args):
    wrote(*args)
    os.kill(os.getpid(), signal.SIGKILL)
pack._read_all = killed
pack.frames_of(clips.check(Path(sys.argv[1])), Path(sys.argv[2]))
"""


LOADED = """
import sys, zlib
from pathlib import Path
from trainer import clips
from trainer.data import pack
print(zlib.crc32(pack.frames_of(clips.check(Path(sys.argv[1])), Path(sys.argv[2]))[0].tobytes()))
"""


def test_a_kill_while_it_is_made_leaves_no_pack(data: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", KILLED, str(data), str(tmp_path / "packs")]
    done = subprocess.run(argv, cwd=ROOT, check=False, env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    left = [p for p in (tmp_path / "packs").iterdir() if p.is_dir()]
    assert left
    assert all(p.name.startswith(".") for p in left)
    assert np.array_equal(load(data, tmp_path / "packs").frames, load(data, None).frames)
    assert not left[0].exists()


def test_two_that_make_it_at_once_make_it_once(data: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", LOADED, str(data), str(tmp_path / "packs")]
    both = [subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    told = [process.communicate()[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told[0] == told[1] != b""
    assert the_pack(tmp_path / "packs")
