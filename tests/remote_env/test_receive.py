"""Data kept by content: nothing comes twice, nothing false is kept, a kill at any instant is repeated."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import remote_env
from orchestrator.stream import pack
from remote_env import receive
from tests.conftest import eventually
from tests.crashes import crash_points
from tests.disks import fill, small_disk

PROGRAM = Path(str(remote_env.__file__)).parent / "receive.py"
FINGERPRINT = "f" * 64
FILES = {
    "a.npz": b"first",
    "deep/er/b.npz": b"second" * 1000,
    "same as a": b"first",
    'it\'s "q" $(touch pwned)': b"third",
    "-rf": b"fourth",
    "ü\n": b"",
    "not-utf-8-\udcff": b"fifth",
}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def listing(files: Mapping[str, bytes]) -> bytes:
    return json.dumps({"files": [[name, len(data), sha(data)] for name, data in files.items()]}).encode()


def tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def ask(
    verb: str, root: Path, stdin: bytes, fingerprint: str = FINGERPRINT
) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-IS", str(PROGRAM), verb, str(root), fingerprint]
    return subprocess.run(argv, input=stdin, capture_output=True, check=False, timeout=120)


def need(root: Path, files: Mapping[str, bytes], fingerprint: str = FINGERPRINT) -> set[str]:
    answer = ask("need", root, listing(files), fingerprint)
    assert answer.returncode == 0, answer.stderr
    return set(json.loads(answer.stdout)["need"])


def accept(root: Path, files: Mapping[str, bytes], needed: set[str], fingerprint: str = FINGERPRINT) -> int:
    members = {sha(data): data for data in files.values() if sha(data) in needed}
    answer = ask("accept", root, tar(members.items()), fingerprint)
    assert answer.returncode == 0, answer.stderr
    return int(json.loads(answer.stdout)["received"])


def send(root: Path, files: Mapping[str, bytes], fingerprint: str = FINGERPRINT) -> int:
    """As `remote.send_data` does; returns how many files were sent."""
    needed = need(root, files, fingerprint)
    return accept(root, files, needed, fingerprint) if needed else 0


def data(root: Path, fingerprint: str = FINGERPRINT) -> dict[str, bytes]:
    folder = root / "data" / fingerprint
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def litter(root: Path) -> list[str]:
    """What is neither a data set, nor a listing, nor an object with its own name."""
    others = [p.name for p in (root / "data").iterdir() if not receive.DIGEST.fullmatch(p.name.split(".")[0])]
    objects = [p for p in (root / "objects").rglob("*") if p.is_file()]
    return others + [p.name for p in objects if sha(p.read_bytes()) != p.name]


def refusal(answer: subprocess.CompletedProcess[bytes]) -> str:
    assert answer.returncode != 0
    said = answer.stderr.decode("utf-8", "replace")
    assert "Traceback" not in said, said
    return said


def test_files_come_under_their_names_byte_for_byte(tmp_path: Path) -> None:
    root = tmp_path / 'it\'s a "root"'
    assert send(root, FILES) == len(set(FILES.values()))
    assert data(root) == FILES
    assert litter(root) == []
    assert not list(tmp_path.rglob("pwned"))
    assert (root / "data" / FINGERPRINT).stat().st_mode & 0o777 == 0o755


def test_where_nothing_was_asked_the_stream_says_what_the_set_is_made_of(tmp_path: Path) -> None:
    root = tmp_path / "root"
    members = {sha(data): data for data in FILES.values()}
    answer = ask("accept", root, tar([("listing", listing(FILES)), *members.items()]))
    assert answer.returncode == 0, answer.stderr
    assert data(root) == dict(FILES)
    assert need(root, FILES) == set()
    assert litter(root) == []


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_what_came_packed_lies_there_unpacked(tmp_path: Path, width: int) -> None:
    root = tmp_path / "root"
    large = {**FILES, "large": bytes(5 << 20) + os.urandom((1 << 20) + 3), "one": b"1"}
    members = [(f"{sha(content)}.z{width}", pack(content, width)) for content in large.values()]
    answer = ask("accept", root, tar([("listing.z1", pack(listing(large), 1)), *members]))
    assert answer.returncode == 0, answer.stderr
    assert data(root) == large
    assert litter(root) == []


@pytest.mark.parametrize("packed", [b"no zlib", zlib.compress(b"first" * 99)[:-9], b"", zlib.compress(b"x")])
def test_what_cannot_be_unpacked_is_refused_and_not_kept(tmp_path: Path, packed: bytes) -> None:
    root = tmp_path / "root"
    need(root, {"a": b"first" * 99})
    said = refusal(ask("accept", root, tar([(f"{sha(b'first' * 99)}.z4", packed)])))
    assert "a file arrived" in said
    assert litter(root) == []


def test_nothing_is_sent_twice(tmp_path: Path) -> None:
    send(tmp_path, FILES)
    assert send(tmp_path, FILES) == 0
    assert send(tmp_path, {**FILES, "new": b"new"}, "e" * 64) == 1
    assert data(tmp_path, "e" * 64) == {**FILES, "new": b"new"}
    assert send(tmp_path, {f"moved/{name}": content for name, content in FILES.items()}, "d" * 64) == 0
    assert len(data(tmp_path, "d" * 64)) == len(FILES)


def test_of_five_hundred_files_the_one_that_changed_is_sent(tmp_path: Path) -> None:
    many = {f"{n}.npz": b"%d" % n for n in range(500)}
    assert send(tmp_path, many) == 500
    assert send(tmp_path, {**many, "7.npz": b"changed"}, "e" * 64) == 1
    assert data(tmp_path)["7.npz"] == b"7"
    assert data(tmp_path, "e" * 64)["7.npz"] == b"changed"


def test_the_same_file_in_two_sets_takes_its_room_once(tmp_path: Path) -> None:
    send(tmp_path, FILES)
    send(tmp_path, FILES, "e" * 64)
    one, other = (tmp_path / "data" / f / "deep/er/b.npz" for f in (FINGERPRINT, "e" * 64))
    assert one.stat().st_ino == other.stat().st_ino


def test_a_file_that_is_not_what_its_name_says_is_refused_and_not_kept(tmp_path: Path) -> None:
    need(tmp_path, FILES)
    answer = ask("accept", tmp_path, tar([(sha(b"first"), b"worst")]))
    assert f"a file arrived as {sha(b'worst')}, not as {sha(b'first')}" in refusal(answer)
    assert not (tmp_path / "data" / FINGERPRINT).exists()
    assert litter(tmp_path) == []
    assert send(tmp_path, FILES)
    assert data(tmp_path) == FILES


def test_a_set_of_which_a_file_is_lacking_does_not_appear(tmp_path: Path) -> None:
    needed = need(tmp_path, FILES)
    answer = ask("accept", tmp_path, tar([(sha(b"third"), b"third")]))
    assert "did not arrive" in refusal(answer)
    assert not (tmp_path / "data" / FINGERPRINT).exists()
    assert need(tmp_path, FILES) == needed - {sha(b"third")}


def test_a_file_of_another_length_is_not_there(tmp_path: Path) -> None:
    send(tmp_path, FILES)
    (receive.object_path(tmp_path, sha(b"third"))).write_bytes(b"half")
    assert need(tmp_path, {"x": b"third"}, "e" * 64) == {sha(b"third")}


HOSTILE_MEMBERS = (
    "../../pwned",
    "/tmp/pwned",
    "a/b",
    "",
    "x" * 64,
    sha(b"x").upper(),
    sha(b"x") + "/..",
    sha(b"x") + ".z",
    sha(b"x") + ".z3",
    sha(b"x") + ".z4.z4",
    "listing/x",
    ".z4",
    "objects",
)


@pytest.mark.parametrize("name", HOSTILE_MEMBERS)
def test_a_member_that_is_not_named_by_its_content_is_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    need(root, FILES)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    answer = ask("accept", root, tar([(name, b"x")]))
    assert "is not a file named by its sha256" in refusal(answer)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_a_member_that_is_no_file_is_refused_whatever_its_name(tmp_path: Path, kind: bytes) -> None:
    root = tmp_path / "root"
    need(root, FILES)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo(sha(b"first"))
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    assert "is not a file named by its sha256" in refusal(ask("accept", root, packed.getvalue()))
    assert not any(p.is_symlink() for p in root.rglob("*"))
    assert not (root / "data" / FINGERPRINT).exists()


HOSTILE_PATHS = ("../x", "/etc/x", "a/../../x", "", "..", ".")


@pytest.mark.parametrize("name", HOSTILE_PATHS)
def test_a_path_out_of_the_data_folder_is_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    answer = ask("need", root, listing({"good": b"x", name: b"x"}))
    assert answer.returncode == 0
    answer = ask("accept", root, tar([(sha(b"x"), b"x")]))
    assert "is not a path below the data folder" in refusal(answer)
    assert not (root / "data" / FINGERPRINT).exists()
    assert litter(root) == []
    assert {p.name for p in tmp_path.iterdir()} == {"root"}


@pytest.mark.parametrize("twice", [["a", "a"], ["a", "./a"], ["a/b", "a//b"]])
def test_a_name_that_is_listed_twice_never_writes_over_an_object(tmp_path: Path, twice: list[str]) -> None:
    """The second was copied onto the first, which is a hard link to what other data sets hold."""
    contents = (b"one", b"two")
    rows = [[name, 3, sha(content)] for name, content in zip(twice, contents, strict=True)]
    ask("need", tmp_path, json.dumps({"files": rows}).encode())
    answer = ask("accept", tmp_path, tar([(sha(c), c) for c in contents]))
    assert "is listed twice" in refusal(answer)
    assert litter(tmp_path) == []


def test_a_file_where_another_needs_a_folder_is_refused(tmp_path: Path) -> None:
    answer = ask("need", tmp_path, listing({"a": b"x", "a/b": b"y"}))
    assert answer.returncode == 0
    assert ask("accept", tmp_path, tar([(sha(b"x"), b"x"), (sha(b"y"), b"y")])).returncode != 0
    assert not (tmp_path / "data" / FINGERPRINT).exists()
    assert litter(tmp_path) == []


@pytest.mark.parametrize("fingerprint", ["../../x", "F" * 64, "f" * 63, "", "f" * 64 + "\n"])
def test_a_fingerprint_of_another_form_is_refused(tmp_path: Path, fingerprint: str) -> None:
    assert "is not a fingerprint" in refusal(ask("need", tmp_path / "root", listing(FILES), fingerprint))
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("end", [100, 700, 6000])
def test_a_stream_that_breaks_off_leaves_what_came_whole(tmp_path: Path, end: int) -> None:
    needed = need(tmp_path, FILES)
    members = {sha(content): content for content in FILES.values()}
    assert ask("accept", tmp_path, tar(members.items())[:end]).returncode != 0
    assert not (tmp_path / "data" / FINGERPRINT).exists()
    assert litter(tmp_path) == []
    left = need(tmp_path, FILES)
    assert left <= needed
    accept(tmp_path, FILES, left)
    assert data(tmp_path) == FILES


def test_killed_in_the_middle_the_next_one_goes_on(tmp_path: Path) -> None:
    big = {f"{n}": bytes([n]) * 300_000 for n in range(20)}
    needed = need(tmp_path, big)
    stream = tar((sha(content), content) for content in big.values())
    argv = [sys.executable, "-IS", str(PROGRAM), "accept", str(tmp_path), FINGERPRINT]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as one:
        assert one.stdin is not None
        one.stdin.write(stream[: len(stream) // 2])
        one.stdin.flush()
        eventually(lambda: len(list((tmp_path / "objects").rglob("?" * 64))) >= 5)
        os.kill(one.pid, signal.SIGKILL)
    assert not (tmp_path / "data" / FINGERPRINT).exists()
    left = need(tmp_path, big)
    assert len(left) <= len(needed) - 5
    assert accept(tmp_path, big, left) == len(left)
    assert data(tmp_path) == big


def test_killed_at_any_write_the_next_one_completes_it(tmp_path: Path) -> None:
    roots = (tmp_path / str(n) for n in range(1000))
    root = tmp_path
    members = tar((sha(content), content) for content in set(FILES.values()))

    def prepare() -> None:
        nonlocal root
        root = next(roots)

    def act() -> None:
        sys.stdin = io.TextIOWrapper(io.BytesIO(listing(FILES)))
        receive.main(["need", str(root), FINGERPRINT])
        sys.stdin = io.TextIOWrapper(io.BytesIO(members))
        receive.main(["accept", str(root), FINGERPRINT])

    for point in crash_points(prepare, act):
        there = root / "data" / FINGERPRINT
        assert not there.exists() or data(root) == FILES, point
        again(root)
        assert data(root) == FILES, point
    assert data(root) == FILES


def again(root: Path) -> None:
    """The same in this process, which is faster than a new one."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    missing = receive.need(root, FINGERPRINT, json.loads(listing(FILES)))["need"]
    by_digest = {sha(content): content for content in FILES.values()}
    for digest in missing:
        receive.take(root, digest, io.BytesIO(by_digest[digest]))
    receive.build(root, FINGERPRINT)


def test_several_at_once_leave_one_whole_set(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: send(tmp_path, FILES), range(6)))
    assert data(tmp_path) == FILES
    assert litter(tmp_path) == []


@pytest.mark.parametrize("size", [50_000, 5_000])
def test_a_full_disk_is_said_and_what_came_before_is_kept(tmp_path: Path, size: int) -> None:
    with small_disk(tmp_path / "disk") as disk:
        send(disk, FILES)
        ballast = fill(disk)
        answer = ask("need", disk, listing(FILES), "e" * 64)
        assert b"No space left on device" in answer.stderr.splitlines()[-1]
        assert litter(disk) == []
        ballast.unlink()
        big = {**FILES, "big": b"x" * size}
        needed = need(disk, big, "e" * 64)
        ballast = fill(disk)
        answer = ask("accept", disk, tar([(sha(big["big"]), big["big"])]), "e" * 64)
        assert answer.returncode != 0
        assert b"No space left on device" in answer.stderr.splitlines()[-1]
        assert data(disk) == FILES
        assert litter(disk) == []
        ballast.unlink()
        assert accept(disk, big, needed, "e" * 64) == 1
        assert data(disk, "e" * 64) == big


def test_where_there_are_no_hard_links_files_are_copied(tmp_path: Path, monkeypatch: Any) -> None:
    send(tmp_path, FILES)
    shutil.rmtree(tmp_path / "data" / FINGERPRINT)

    def none(*_: Any) -> None:
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(os, "link", none)
    receive.build(tmp_path, FINGERPRINT)
    assert data(tmp_path) == FILES
    assert (tmp_path / "data" / FINGERPRINT / "-rf").stat().st_nlink == 1


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("guard.py", set()),  # travels alone, in user data
        ("receive.py", set()),
        *((name, {"remote_env"}) for name in ("supervise.py", "health.py", "kernel.py")),
    ],
)
def test_what_runs_on_the_machine_is_written_for_its_python(name: str, beside: set[str]) -> None:
    source = PROGRAM.with_name(name).read_text()
    tree = ast.parse(source, feature_version=(3, 9))
    imported = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {str(n.module).split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names | beside
