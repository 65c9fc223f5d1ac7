"""Clips as one tar stream."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from orchestrator import stream
from orchestrator.errors import BadRequest
from remote_env import receive
from tests.orchestrator.test_remote import clip, nothing
from trainer.clips.files import Clip


def some(folder: Path, count: int, features: bool = True) -> list[Clip]:
    """Clips of normal numbers in float32, or of bytes that nothing makes smaller."""
    numbers = np.random.default_rng(0)
    folder.mkdir()
    for n in range(count):
        values = numbers.standard_normal(20_000, dtype=np.float32).tobytes()
        (folder / f"{n}.npz").write_bytes(values if features else numbers.bytes(80_000))
    return [clip(folder, f"{n}.npz")._replace(dtype="float32") for n in range(count)]


class Line:
    """A line that takes `seconds` for each piece, by a clock of its own; `worked` is what packing cost."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.worked = seconds, 0.0, 0.0

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.worked

    def carry(self, pieces: Iterator[bytes]) -> bytes:
        carried = bytearray()
        for piece in pieces:
            carried += piece
            self.now += self.seconds
        return bytes(carried)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    made = Line(0.0)
    monkeypatch.setattr(stream, "time", made)
    return made


def taken(folder: Path, clips: list[Clip], line: Line) -> tuple[list[str], dict[str, bytes]]:
    """The members' names, and the contents under their digests."""
    names, contents = [], {}
    with tarfile.open(fileobj=io.BytesIO(line.carry(stream.tar(folder, clips, nothing)))) as archive:
        for member in archive:
            source = archive.extractfile(member)
            assert source is not None
            data = source.read()
            names.append(member.name)
            digest, *width = member.name.split(".z")
            contents[digest] = receive.unpacked(data, int(width[0])) if width else data
    return names, contents


def test_files_go_packed_while_the_line_is_slow(tmp_path: Path, line: Line) -> None:
    clips = some(tmp_path / "here", 8)
    line.seconds = 0.02
    names, contents = taken(tmp_path / "here", clips, line)
    assert names == [f"{c.sha256}.z4" for c in clips]
    assert all(hashlib.sha256(data).hexdigest() == digest for digest, data in contents.items())


@pytest.mark.parametrize(("packing", "sending", "packed"), [(0.01, 0.015, 1), (0.01, 0.05, 8), (0.0, 0.0, 1)])
def test_a_line_as_fast_as_packing_does_not_wait_for_it(
    tmp_path: Path, line: Line, monkeypatch: pytest.MonkeyPatch, packing: float, sending: float, packed: int
) -> None:
    """The first shows what packing takes; that the machine is busy meanwhile says nothing about it."""
    clips = some(tmp_path / "here", 8)
    pack, line.seconds = stream.pack, sending

    def slow(data: bytes, width: int) -> bytes:
        line.worked += packing
        line.now += 100 * packing
        return pack(data, width)

    monkeypatch.setattr(stream, "pack", slow)
    names, _ = taken(tmp_path / "here", clips, line)
    assert names == [f"{c.sha256}.z4" for c in clips[:packed]] + [c.sha256 for c in clips[packed:]]


def test_what_packing_makes_no_smaller_goes_as_it_is(tmp_path: Path, line: Line) -> None:
    clips = some(tmp_path / "here", 8, features=False)
    line.seconds = 0.02
    names, _ = taken(tmp_path / "here", clips, line)
    assert names == [c.sha256 for c in clips]


def test_a_file_that_is_gone_is_named(tmp_path: Path, line: Line) -> None:
    clips = some(tmp_path / "here", 2)
    (tmp_path / "here" / "1.npz").unlink()
    with pytest.raises(BadRequest, match=r"cannot read .*1\.npz"):
        taken(tmp_path / "here", clips, line)


@pytest.mark.parametrize(("dtype", "share"), [("float16", 0.88), ("float32", 0.87), ("float64", 0.91)])
def test_numbers_become_smaller(dtype: str, share: float) -> None:
    values = np.random.default_rng(0).standard_normal(20_000).astype(dtype)
    data, width = b"head" + values.tobytes(), values.itemsize
    packed = stream.pack(data, width)
    assert len(packed) < share * len(data)
    assert receive.unpacked(packed, width) == data


def test_what_is_all_the_same_becomes_next_to_nothing() -> None:
    assert len(stream.pack(bytes(400_000), 4)) < 2_000
