"""The code that is sent: named by its content, nothing but code."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import remote_env
import trainer
from orchestrator import bundle

PACKAGES = {"trainer": trainer, "remote_env": remote_env}


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both packages, where a test may change them."""
    for name, package in PACKAGES.items():
        shutil.copytree(Path(str(package.__file__)).parent, tmp_path / name)
        monkeypatch.setattr(package, "__file__", str(tmp_path / name / "__init__.py"))
    return tmp_path


def test_the_same_content_has_the_same_name_and_bytes_whenever_and_wherever(copy: Path) -> None:
    first = bundle.make()
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    assert bundle.make() == first


def test_the_order_in_which_files_came_to_the_disk_does_not_matter(copy: Path) -> None:
    first = bundle.make()
    for path in sorted(copy.rglob("*.py"), reverse=True):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    assert bundle.make().hash == first.hash


@pytest.mark.parametrize("change", ["content", "name", "more", "less", "moved"])
def test_any_change_of_the_code_is_another_name(copy: Path, change: str) -> None:
    first, path = bundle.make(), copy / "trainer" / "clips" / "labels.py"
    if change == "content":
        path.write_bytes(path.read_bytes() + b"#")
    elif change == "name":
        path.rename(path.with_name("label.py"))
    elif change == "moved":
        path.rename(copy / "trainer" / "recipes" / "labels.py")
    elif change == "more":
        (copy / "trainer" / "recipes" / "mine.py").write_text("")
    else:
        path.unlink()
    assert bundle.make().hash != first.hash


def test_nothing_but_code_is_sent(copy: Path) -> None:
    first = bundle.make()
    for name in (
        ".env",
        "id_rsa",
        "key.pem",
        "data.npz",
        "notes.md",
        "x.pyc",
        "py",
        ".aws/credentials",
        "a.py~",
    ):
        for package in PACKAGES:
            path = copy / package / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("secret")
    (copy / "trainer" / "folder.py").mkdir()
    (copy / "trainer" / "dead.py").symlink_to(copy / "nowhere")
    assert bundle.make().hash == first.hash
    assert {Path(name).suffix for name in first.files} == {".py", ".sh", ".lock"}
    assert {name.split("/")[0] for name in first.files} == set(PACKAGES)


def test_the_archive_holds_what_is_listed_and_belongs_to_nobody() -> None:
    made = bundle.make()
    with tarfile.open(fileobj=io.BytesIO(made.archive)) as tar:
        members = tar.getmembers()
        held = {m.name: tar.extractfile(m).read() for m in members}  # type: ignore[union-attr]
    assert held == made.files
    assert all(m.isreg() and (m.uid, m.gid, m.mtime) == (0, 0, 0) for m in members)
    assert {m.name for m in members if m.mode == 0o755} == {n for n in held if n.endswith(".sh")}
    assert len(made.archive) < 1_000_000
    assert made.archive[4:8] == bytes(4)  # gzip's own note of the time


def test_what_was_unpacked_elsewhere_runs_and_imports_nothing_of_here(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(bundle.make().archive)) as tar:
        tar.extractall(tmp_path, filter="data")
    argv = [sys.executable, "-P", "-c", "import trainer.clips.labels as m; print(m.__file__)"]
    done = subprocess.run(
        argv,
        cwd=tmp_path / "trainer",
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(tmp_path / "trainer" / "clips" / "labels.py")


def test_the_hash_of_a_lock_is_that_of_its_bytes() -> None:
    made = bundle.make()
    path = Path(str(remote_env.__file__)).parent / "requirements-cpu.lock"
    assert made.lock_hash("requirements-cpu.lock") == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
