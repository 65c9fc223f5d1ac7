"""A download is all of one epoch, verified, or nothing: over both shells, real folders at both ends."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pickle
import shutil
import tempfile
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.connect import open_shell
from orchestrator.errors import ArtifactsIncomplete, BadRequest, ContactLost, Ec2emoError
from orchestrator.fetch import Fetched, _array, fetch
from orchestrator.machine import Machine
from orchestrator.run import Run
from orchestrator.shell import LocalShell, Shell, Sink
from tests.conftest import Box
from tests.crashes import crash_points
from tests.disks import fill, read_only, small_disk
from trainer import contract
from trainer.contract import Artifact, Manifest, Spec

CLASSES = ["angry", "calm", "ü"]
DIM = 4


def npy(values: Any, **options: Any) -> bytes:
    whole = io.BytesIO()
    np.save(whole, values, **options)
    return whole.getvalue()


def files(epoch: int, size: int = 3000) -> dict[str, tuple[str, bytes]]:
    """Role to name and content, as a trainer leaves them; the content tells the epoch."""
    about = {"classes": CLASSES, "dim": DIM, "epoch": epoch}
    return {
        "weights": ("best_v9.weights.h5", bytes([epoch]) * size),
        "model": ("best_model_v9.keras", bytes([epoch, 255]) * (size // 4)),
        "labels": ("label_classes_v9.npy", npy(np.array(CLASSES))),
        "mean": ("audio_mean_v9.npy", npy(np.full(DIM, float(epoch), np.float32))),
        "std": ("audio_std_v9.npy", npy(np.full(DIM, epoch + 0.5, np.float32))),
        "history": ("history_v9.json", json.dumps({"epoch": list(range(epoch))}).encode()),
        "metrics": ("metrics_v9.json", b"{}"),
        "preprocessing": ("preprocessing_v9.json", json.dumps(about).encode()),
    }


class Remote:
    """A run folder on the machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "runs" / "a-run"
        spec = Spec("a-run", "v9_attention", "/d", "f", 3, 8)
        machine = Machine("attached", host="h")
        self.run = Run("a-run", spec, "ssh://h", "/d", 1.0, machine, root=str(root), python="/p")
        self.manifest = Manifest("a-run", "v9_attention", "val_accuracy", (), {})

    def publish(self, epoch: int, of: str = "best", size: int = 3000, **changed: bytes) -> None:
        """As the trainer does: files first, then the manifest, then the older ones go."""
        folder = f"artifacts/{of}-{epoch:04}"
        (self.folder / folder).mkdir(parents=True)
        rows = []
        for role, (name, content) in files(epoch, size).items():
            data = changed.get(role, content)
            (self.folder / folder / name).write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            rows.append(Artifact(of, role, name, f"{folder}/{name}", len(data), digest, epoch))  # type: ignore[arg-type]
        others = tuple(a for a in self.manifest.artifacts if a.of != of)
        values = {**self.manifest.values, of: epoch / 100}
        self.write(dataclasses.replace(self.manifest, artifacts=(*others, *rows), values=values))
        for older in (self.folder / "artifacts").glob(f"{of}-*"):
            if older.name != f"{of}-{epoch:04}":
                shutil.rmtree(older)

    def write(self, manifest: Manifest) -> None:
        self.manifest = manifest
        contract.publish(self.folder / "artifacts" / "manifest.json", manifest.to_json())

    def alter(self, **changes: Any) -> None:
        """Say something else of the first artifact."""
        first, *rest = self.manifest.artifacts
        altered = dataclasses.replace(first, **changes)
        self.write(dataclasses.replace(self.manifest, artifacts=(altered, *rest)))

    def path(self, role: str) -> Path:
        return self.folder / next(a.path for a in self.manifest.artifacts if a.role == role)


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    made = Remote(tmp_path / "machine")
    made.publish(3)
    return made


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "models" / "a-run"


def nothing(done: int, total: int) -> None:
    """Who watches nothing."""


def whole(folder: Path, epoch: int, size: int = 3000) -> bool:
    """Whether all files of one epoch, and they alone, are there."""
    expected = dict(files(epoch, size).values())
    there = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}
    kept = Manifest.parse((folder / "manifest.json").read_bytes())
    return there == expected and {a.epoch for a in kept.artifacts} == {epoch}


def beside(folder: Path) -> list[str]:
    """What lies about where downloads land."""
    return sorted(p.name for p in folder.parent.iterdir() if p.name != folder.name)


class Counting(LocalShell):
    """This machine; the files it sends are counted, the manifest aside."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []

    def get(self, path: str, offset: int, into: Sink) -> None:
        if not path.endswith("/artifacts/manifest.json"):
            self.sent.append((Path(path).name, offset))
        super().get(path, offset, into)


class Gone(LocalShell):
    """A machine that does not answer."""

    def get(self, path: str, offset: int, into: Sink) -> None:
        raise ContactLost("gone")


# What comes home


def test_the_best_comes_home_whole_and_says_what_it_is(shell: Shell, remote: Remote, to: Path) -> None:
    remote.publish(7, of="last")
    told: list[tuple[int, int]] = []
    got = fetch(remote.run, shell, "best", to, lambda done, total: told.append((done, total)))
    assert whole(to, 3)
    assert (got.run, got.epoch, got.value, got.dir, got.already) == ("a-run", 3, 0.03, to, False)
    assert {a.role for a in got.files} == set(files(3))
    assert beside(to) == []
    total = sum(len(content) for _, content in files(3).values())
    assert told == sorted(told)
    assert told[-1] == (total, total)


def test_the_last_is_another_set_and_takes_the_place_of_the_best(
    shell: Shell, remote: Remote, to: Path
) -> None:
    remote.publish(7, of="last")
    fetch(remote.run, shell, "best", to, nothing)
    assert fetch(remote.run, shell, "last", to, nothing).epoch == 7
    assert whole(to, 7)
    assert beside(to) == []


def test_without_a_folder_it_is_models_and_the_run_here(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fetch(remote.run, LocalShell(), "best", None, nothing).dir == tmp_path / "models" / "a-run"


def test_what_is_here_already_is_not_sent_again(remote: Remote, to: Path) -> None:
    shell = Counting()
    fetch(remote.run, shell, "best", to, nothing)
    sent = len(shell.sent)
    got = fetch(remote.run, shell, "best", to, nothing)
    assert (got.already, len(shell.sent)) == (True, sent)
    (to / "audio_mean_v9.npy").write_bytes(b"damaged since")
    again = fetch(remote.run, shell, "best", to, nothing)
    assert not again.already
    assert whole(to, 3)


def test_synthetic_is_said(remote: Remote, to: Path) -> None:
    remote.write(dataclasses.replace(remote.manifest, synthetic=True))
    assert fetch(remote.run, LocalShell(), "best", to, nothing).synthetic
    assert Manifest.parse((to / "manifest.json").read_bytes()).synthetic


# Half ways


class Metered:
    """Another shell, and how many bytes of files came over it."""

    def __init__(self, shell: Shell) -> None:
        self.run, self.read, self.close = shell.run, shell.read, shell.close
        self._shell = shell
        self.came = 0

    def get(self, path: str, offset: int, into: Sink) -> None:
        """Count on the way."""
        if path.endswith("/artifacts/manifest.json"):
            return self._shell.get(path, offset, into)
        meter, self._into = self, into
        return self._shell.get(path, offset, meter)

    def write(self, data: bytes) -> None:
        self.came += len(data)
        self._into.write(data)


@pytest.mark.parametrize("percent", [10, 50, 99])
def test_a_cut_connection_costs_less_than_a_tenth_more(
    own_box: Box, tmp_path: Path, to: Path, percent: int
) -> None:
    remote = Remote(tmp_path / "machine")
    remote.publish(2, size=20_000_000)
    total = sum(a.bytes for a in remote.manifest.artifacts)
    came = 0
    for at in (percent, 101):

        def cut(done: int, of: int, at: int = at) -> None:
            if done * 100 > of * at:
                own_box.stop()

        with open_shell(own_box.machine) as shell:
            metered: Any = Metered(shell)
            try:
                fetch(remote.run, metered, "best", to, cut)
            except ContactLost:
                assert not to.exists()
                own_box.start()
            came += metered.came
    assert whole(to, 2, 20_000_000)
    assert total <= came < total * 1.1
    assert beside(to) == []


def half(remote: Remote, to: Path, role: str = "weights", length: int = 1000) -> Path:
    """What a download that was cut short left; returns the half file."""

    def cut(done: int, of: int) -> None:
        raise ContactLost("cut")

    with pytest.raises(ContactLost):
        fetch(remote.run, LocalShell(), "best", to, cut)
    (part,) = (p for p in to.parent.rglob("best_v9.weights.h5"))
    part.write_bytes(files(3)["weights"][1][:length])
    return part


def test_a_half_file_goes_on_from_its_end(remote: Remote, to: Path) -> None:
    half(remote, to)
    counting = Counting()
    fetch(remote.run, counting, "best", to, nothing)
    assert counting.sent[0] == ("best_v9.weights.h5", 1000)
    assert whole(to, 3)


def test_a_half_file_goes_on_over_both_shells(shell: Shell, remote: Remote, to: Path) -> None:
    half(remote, to)
    fetch(remote.run, shell, "best", to, nothing)
    assert whole(to, 3)


@pytest.mark.parametrize("content", [b"x" * 1000, b"\x03" * 999 + b"x", b"x" * 3000, b"x" * 5000, b""])
def test_a_half_file_with_other_bytes_in_it_is_taken_anew(
    shell: Shell, remote: Remote, to: Path, content: bytes
) -> None:
    half(remote, to).write_bytes(content)
    fetch(remote.run, shell, "best", to, nothing)
    assert whole(to, 3)


def test_a_link_in_the_way_of_a_half_file_is_never_written_through(remote: Remote, to: Path) -> None:
    part = half(remote, to)
    precious = to.parent / "precious"
    precious.write_bytes(b"do not touch")
    part.unlink()
    part.symlink_to(precious)
    (part.parent / "audio_mean_v9.npy").mkdir()
    fetch(remote.run, LocalShell(), "best", to, nothing)
    assert precious.read_bytes() == b"do not touch"
    assert not (to / part.name).is_symlink()
    assert whole(to, 3)


# What is not what it should be


def test_a_flipped_byte_on_the_machine_is_named_and_nothing_is_taken(
    shell: Shell, remote: Remote, to: Path
) -> None:
    path = remote.path("model")
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    with pytest.raises(ArtifactsIncomplete, match=r"best_model_v9\.keras of a-run is missing or not what"):
        fetch(remote.run, shell, "best", to, nothing)
    assert not to.exists()
    assert not list(to.parent.rglob("best_model_v9.keras"))


def test_a_file_that_is_gone_is_named(shell: Shell, remote: Remote, to: Path) -> None:
    remote.path("weights").unlink()
    with pytest.raises(ArtifactsIncomplete, match=r"best_v9\.weights\.h5 of a-run is missing or not what"):
        fetch(remote.run, shell, "best", to, nothing)
    assert not to.exists()


def test_of_a_file_without_end_no_more_comes_than_the_manifest_says(
    shell: Shell, remote: Remote, to: Path
) -> None:
    path = remote.path("weights")
    os.truncate(path, 1 << 40)
    told: list[int] = []
    with pytest.raises(ArtifactsIncomplete, match=r"best_v9\.weights\.h5 of a-run is missing or not what"):
        fetch(remote.run, shell, "best", to, lambda done, total: told.append(done))
    assert max(told, default=0) <= sum(a.bytes for a in remote.manifest.artifacts)
    assert not to.exists()


def test_a_newer_set_in_the_middle_comes_instead_and_never_a_mix(
    shell: Shell, remote: Remote, to: Path
) -> None:
    fetch(remote.run, shell, "best", to, nothing)
    remote.publish(4)
    published = []

    def publish_once(done: int, total: int) -> None:
        if not published:
            published.append(done)
            remote.publish(5)

    got = fetch(remote.run, shell, "best", to, publish_once)
    assert got.epoch == 5
    assert whole(to, 5)
    assert beside(to) == []


def test_sets_that_are_replaced_again_and_again_are_given_up_with_a_sentence(
    shell: Shell, remote: Remote, to: Path
) -> None:
    fetch(remote.run, shell, "best", to, nothing)
    epochs = iter(range(10, 200))
    remote.publish(next(epochs))
    with pytest.raises(
        ArtifactsIncomplete, match="were replaced 3 times while they came: repeat the command"
    ):
        fetch(remote.run, shell, "best", to, lambda done, total: remote.publish(next(epochs)))
    assert whole(to, 3)
    latest = remote.manifest.artifacts[0].epoch
    fetch(remote.run, shell, "best", to, nothing)
    assert whole(to, latest)
    assert beside(to) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has nothing to download yet"),
        (b"", "has nothing to download yet"),
        (b"{", "is not readable"),
        (b"[]", "is not readable"),
        (b'{"artifacts": [1]}', "is not readable"),
        (b"[" * 3_000_000, "is not readable"),
        (b'{"contract": "2.0"}', "upgrade ec2emo on this side"),
    ],
)
def test_a_manifest_that_is_none_is_a_sentence(
    shell: Shell, remote: Remote, to: Path, content: bytes | None, said: str
) -> None:
    path = remote.folder / "artifacts" / "manifest.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactsIncomplete, match=said):
        fetch(remote.run, shell, "best", to, nothing)
    assert not to.exists()
    assert beside(to) == []


def test_another_runs_manifest_is_not_taken(remote: Remote, to: Path) -> None:
    remote.write(dataclasses.replace(remote.manifest, run="other"))
    with pytest.raises(ArtifactsIncomplete, match="the manifest of a-run is that of 'other'"):
        fetch(remote.run, LocalShell(), "best", to, nothing)


def test_without_a_last_the_best_is_offered(remote: Remote, to: Path) -> None:
    with pytest.raises(ArtifactsIncomplete, match="a-run has no last model: try --best"):
        fetch(remote.run, LocalShell(), "last", to, nothing)


HOSTILE_NAMES = [
    *("../../x", "/etc/passwd", "..", ".", "", ".hidden", "-rf", "a/b", "a\\b", "C:evil", "a\nb", "a\0b"),
    *("manifest.json", "MANIFEST.JSON", "x" * 200, "ü", "a b", "$(touch pwned)"),
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_is_refused_before_anything_is_sent(remote: Remote, to: Path, name: str) -> None:
    remote.alter(name=name)
    shell = Counting()
    with pytest.raises(ArtifactsIncomplete, match="as a name: nothing was taken"):
        fetch(remote.run, shell, "best", to, nothing)
    assert not shell.sent
    assert beside(to) == []
    assert not to.exists()


@pytest.mark.parametrize(
    "path", ["../../../etc/passwd", "/etc/passwd", "a/../../x", "", "a//b", "-n", "a\0b", "a b"]
)
def test_a_path_out_of_the_run_is_refused_before_anything_is_sent(
    remote: Remote, to: Path, path: str
) -> None:
    remote.alter(path=path)
    shell = Counting()
    with pytest.raises(ArtifactsIncomplete, match="points at"):
        fetch(remote.run, shell, "best", to, nothing)
    assert not shell.sent


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epoch": 4}, "mixes epochs"),
        ({"name": "audio_mean_v9.npy"}, "names a file twice"),
        ({"name": "AUDIO_mean_v9.npy"}, "names a file twice"),
        ({"role": "mean"}, "names a file twice"),
        ({"role": "something"}, "lacks weights"),
        ({"of": "last"}, "lacks weights"),
        ({"bytes": -1}, "-1 bytes"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    remote: Remote, to: Path, changes: dict[str, Any], said: str
) -> None:
    remote.alter(**changes)
    with pytest.raises(ArtifactsIncomplete, match=said):
        fetch(remote.run, LocalShell(), "best", to, nothing)
    assert not to.exists()


def archive() -> bytes:
    packed = io.BytesIO()
    np.savez(packed, np.array(CLASSES))
    return packed.getvalue()


def huge(count: int = 2 * 1024**4) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (count,)})
    return header.getvalue() + bytes(100)


MEANINGLESS = {
    "labels of objects": {"labels": npy(np.array(CLASSES, dtype=object), allow_pickle=True)},
    "labels pickled": {"labels": pickle.dumps(CLASSES)},
    "labels in an archive": {"labels": archive()},
    "labels as numbers": {"labels": npy(np.arange(3))},
    "labels as bytes": {"labels": npy(np.array([b"angry", b"calm", b"x"]))},
    "one label too few": {"labels": npy(np.array(CLASSES[:2]))},
    "labels in another order": {"labels": npy(np.array(CLASSES[::-1]))},
    "labels as one text": {"labels": npy(np.array("angry"))},
    "no labels": {"labels": b""},
    "half a header": {"labels": npy(np.array(CLASSES))[:60]},
    "half an array": {"mean": npy(np.zeros(DIM, np.float32))[:-4]},
    "mean of another length": {"mean": npy(np.zeros(DIM + 1, np.float32))},
    "mean and std of another length": {"mean": npy(np.zeros(5)), "std": npy(np.ones(5))},
    "mean in two dimensions": {"mean": npy(np.zeros((DIM, 1)))},
    "mean not finite": {"mean": npy(np.full(DIM, np.nan))},
    "std not finite": {"std": npy(np.full(DIM, np.inf))},
    "std of zero": {"std": npy(np.array([1.0, 1.0, 0.0, 1.0]))},
    "std negative": {"std": npy(np.full(DIM, -1.0))},
    "mean of texts": {"mean": npy(np.array(["a"] * DIM))},
    "mean of eight terabytes": {"mean": huge()},
    "no preprocessing": {"preprocessing": b"{}"},
    "preprocessing no JSON": {"preprocessing": b"{"},
    "preprocessing a list": {"preprocessing": b"[]"},
    "preprocessing too deep": {"preprocessing": b"[" * 100_000},
    "preprocessing not text": {"preprocessing": b"\xff\xfe\x00"},
}


@pytest.mark.parametrize("wrong", MEANINGLESS)
def test_parts_that_do_not_fit_each_other_are_refused_as_a_set(remote: Remote, to: Path, wrong: str) -> None:
    fetch(remote.run, LocalShell(), "best", to, nothing)
    remote.publish(4, **MEANINGLESS[wrong])
    with pytest.raises(ArtifactsIncomplete, match=r"nothing was taken"):
        fetch(remote.run, LocalShell(), "best", to, nothing)
    assert whole(to, 3)
    remote.publish(5)
    fetch(remote.run, LocalShell(), "best", to, nothing)
    assert whole(to, 5)
    assert beside(to) == []


def test_a_header_that_claims_a_gigabyte_is_never_believed(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(huge(2**28))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"x\.npy: mmap length is greater than file size"):
            _array(tmp_path / "x.npy")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 200), st.sampled_from(["labels", "mean"]))
def test_a_damaged_array_is_no_array_and_nothing_worse(noise: bytes, at: int, role: str) -> None:
    data = files(3)[role][1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        path.write_bytes(data[:at] + noise + data[at + len(noise) :])
        with contextlib.suppress(ValueError):
            _array(path)


# Where it lands


def foreign_folder(to: Path) -> None:
    to.mkdir(parents=True)
    (to / "thesis.tex").write_text("years of work")


def foreign_download(to: Path) -> None:
    to.mkdir(parents=True)
    (to / "manifest.json").write_bytes(Manifest("other", "r", "m", (), {}).to_json())


def a_file(to: Path) -> None:
    to.parent.mkdir(parents=True)
    to.write_text("years of work")


def a_link(to: Path) -> None:
    (to.parent / "elsewhere").mkdir(parents=True)
    to.symlink_to(to.parent / "elsewhere")


def a_dead_link(to: Path) -> None:
    to.parent.mkdir(parents=True)
    to.symlink_to(to.parent / "nowhere")


@pytest.mark.parametrize("make", [foreign_folder, foreign_download, a_file, a_link, a_dead_link])
def test_what_is_not_ours_is_never_replaced(remote: Remote, to: Path, make: Callable[[Path], None]) -> None:
    make(to)
    before = sorted((str(p), p.lstat().st_ino) for p in to.parent.rglob("*"))
    shell = Counting()
    with pytest.raises(BadRequest, match=r"is in the way|holds something other than a download of a-run"):
        fetch(remote.run, shell, "best", to, nothing)
    assert sorted((str(p), p.lstat().st_ino) for p in to.parent.rglob("*")) == before
    assert not shell.sent


def test_what_a_person_put_beside_the_files_is_never_lost(remote: Remote, to: Path) -> None:
    fetch(remote.run, LocalShell(), "best", to, nothing)
    (to / "predictions.csv").write_text("mine")
    (to / ".DS_Store").touch()
    remote.publish(4)
    with pytest.raises(BadRequest, match=r"also holds 'predictions\.csv', which would be lost: move it away"):
        fetch(remote.run, LocalShell(), "best", to, nothing)
    assert (to / "predictions.csv").read_text() == "mine"
    (to / "predictions.csv").unlink()
    fetch(remote.run, LocalShell(), "best", to, nothing)
    assert whole(to, 4)


def test_an_empty_folder_may_be_landed_in(remote: Remote, to: Path) -> None:
    to.mkdir(parents=True)
    fetch(remote.run, LocalShell(), "best", to, nothing)
    assert whole(to, 3)


@pytest.mark.parametrize("named", [".", "..", "../here", "/", "../.."])
def test_the_folder_one_stands_in_is_not_pulled_away(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    (tmp_path / "there" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "there" / "here")
    with pytest.raises(BadRequest, match="cannot be replaced while you stand in it"):
        fetch(remote.run, LocalShell(), "best", Path(named), nothing)


def test_a_folder_beside_may_be_named_with_dots(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert fetch(remote.run, LocalShell(), "best", Path("../x[1] *"), nothing).dir == tmp_path / "x[1] *"
    assert whole(tmp_path / "x[1] *", 3)


def test_folders_that_look_like_ours_are_left_alone(remote: Remote, to: Path) -> None:
    others = [to.parent / name for name in (".a-run.old", ".a-run.best-1.part", ".b-run.ec2emo")]
    for other in others:
        other.mkdir(parents=True)
        (other / "mine").touch()
    fetch(remote.run, LocalShell(), "best", to, nothing)
    assert all((other / "mine").exists() for other in others)


def test_two_at_once_are_told_apart(remote: Remote, to: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    ended: list[Fetched] = []

    def wait(done: int, total: int) -> None:
        begun.set()
        assert go_on.wait(60)

    first = threading.Thread(target=lambda: ended.append(fetch(remote.run, LocalShell(), "best", to, wait)))
    first.start()
    assert begun.wait(60)
    try:
        with pytest.raises(BadRequest, match="another ec2emo is downloading to"):
            fetch(remote.run, LocalShell(), "best", to, nothing)
        beside_it = fetch(remote.run, LocalShell(), "best", to.parent / "other", nothing)
        assert not beside_it.already
    finally:
        go_on.set()
        first.join()
    assert ended
    assert whole(to, 3)
    assert fetch(remote.run, LocalShell(), "best", to, nothing).already


def test_a_folder_that_cannot_be_written_is_named(remote: Remote, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        fetch(remote.run, LocalShell(), "best", disk / "a-run", nothing)
        read_only(disk)
        remote.publish(4)
        with pytest.raises(ArtifactsIncomplete, match=r"cannot write to .*Read-only file system"):
            fetch(remote.run, LocalShell(), "best", disk / "a-run", nothing)
        assert whole(disk / "a-run", 3)


def test_no_room_is_said_before_anything_is_sent(shell: Shell, remote: Remote, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=512) as disk:
        fetch(remote.run, shell, "best", disk / "a-run", nothing)
        remote.publish(4, size=2_000_000)
        with pytest.raises(BadRequest, match=r"has 0\.\d MB free and 3\.0 MB have to come: make room"):
            fetch(remote.run, shell, "best", disk / "a-run", nothing)
        assert whole(disk / "a-run", 3)
        assert beside(disk / "a-run") == []


def test_a_disk_that_fills_meanwhile_leaves_the_old_set_and_later_goes_on(
    shell: Shell, remote: Remote, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", kilobytes=4096) as disk:
        to = disk / "a-run"
        fetch(remote.run, shell, "best", to, nothing)
        remote.publish(4, size=1_000_000)
        ballast: list[Path] = []

        def fill_up(done: int, total: int) -> None:
            if not ballast:
                ballast.append(fill(disk))

        with pytest.raises(
            ArtifactsIncomplete, match=r"No space left.*what came before is untouched.*goes on"
        ):
            fetch(remote.run, shell, "best", to, fill_up)
        assert whole(to, 3)
        here = sum(p.stat().st_size for p in disk.glob(".a-run.ec2emo/*/*"))
        assert here > 0
        ballast[0].unlink()
        first: list[int] = []
        fetch(remote.run, shell, "best", to, lambda done, total: first.append(done))
        assert first[0] > here - 300_000
        assert whole(to, 4, 1_000_000)
        assert beside(to) == []


# A kill at any instant


def test_killed_at_any_instant_the_next_command_finds_the_old_set_or_the_new_whole(tmp_path: Path) -> None:
    turn = 0
    remote, to = Remote(tmp_path), tmp_path

    def prepare() -> None:
        nonlocal turn, remote, to
        turn += 1
        remote, to = Remote(tmp_path / f"machine{turn}"), tmp_path / f"models{turn}" / "a-run"
        remote.publish(3)
        fetch(remote.run, LocalShell(), "best", to, nothing)
        remote.publish(4)

    seen = set()
    for point in crash_points(prepare, lambda: fetch(remote.run, LocalShell(), "best", to, nothing)):
        present = to.exists()
        with pytest.raises(ContactLost):
            fetch(remote.run, Gone(), "best", to, nothing)
        epoch = 4 if (to / "audio_mean_v9.npy").read_bytes() == files(4)["mean"][1] else 3
        assert whole(to, epoch), point
        seen.add((present, epoch))
        fetch(remote.run, LocalShell(), "best", to, nothing)
        assert whole(to, 4), point
        assert beside(to) == [], point
    assert seen == {(True, 3), (False, 3), (True, 4)}
    assert whole(to, 4)
    assert beside(to) == []


def test_killed_at_any_instant_a_first_download_is_not_there_or_whole(tmp_path: Path) -> None:
    turn = 0
    remote, to = Remote(tmp_path), tmp_path

    def prepare() -> None:
        nonlocal turn, remote, to
        turn += 1
        remote, to = Remote(tmp_path / f"machine{turn}"), tmp_path / f"models{turn}" / "a-run"
        remote.publish(3)

    for point in crash_points(prepare, lambda: fetch(remote.run, LocalShell(), "best", to, nothing)):
        assert not to.exists() or whole(to, 3), point
        fetch(remote.run, LocalShell(), "best", to, nothing)
        assert whole(to, 3), point
        assert beside(to) == [], point


def test_an_old_set_that_was_half_removed_is_not_put_back(remote: Remote, to: Path) -> None:
    fetch(remote.run, LocalShell(), "best", to, nothing)
    work = to.parent / ".a-run.ec2emo"
    work.mkdir()
    to.rename(work / "old")
    (work / "old" / "manifest.json").unlink()
    with pytest.raises(ContactLost):
        fetch(remote.run, Gone(), "best", to, nothing)
    assert not to.exists()
    assert not work.exists()


def test_every_refusal_is_one_sentence_of_ours(remote: Remote, to: Path) -> None:
    """Nothing that a manifest can say ends in anything else."""
    for field in dataclasses.fields(Artifact):
        for wrong in (None, [], {}, "", "x", -1, 0, 10**30, True, "\ud800"):
            body = json.loads(remote.manifest.to_json())
            body["artifacts"][0][field.name] = wrong
            path = remote.folder / "artifacts" / "manifest.json"
            path.write_bytes(json.dumps(body).encode())
            try:
                fetch(remote.run, LocalShell(), "best", to, nothing)
            except Ec2emoError as e:
                assert len(str(e)) < 500
            else:
                assert field.name in ("name", "role", "epoch")
                shutil.rmtree(to)
    assert os.listdir(remote.root) == ["runs"]  # noqa: PTH208
