"""Clips as one tar stream, each named by its content: what `remote_env/receive.py` takes."""

from __future__ import annotations

import tarfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from orchestrator.errors import BadRequest

if TYPE_CHECKING:
    from trainer.clips import Clip

# How many times longer than packing works on a byte the line must take for it. Packing is measured by work
# and not by the clock: on a busy machine it waits for a processor as well.
WORTH = 3.0
WIDTHS = {"float16": 2, "float32": 4, "float64": 8}


@dataclass
class _Pace:
    """How many seconds something takes for a byte, by all that went before."""

    bytes: int = 0
    seconds: float = 0.0

    def add(self, count: int, seconds: float) -> None:
        self.bytes += count
        self.seconds += seconds

    @property
    def of_a_byte(self) -> float:
        return self.seconds / max(1, self.bytes)


def tar(
    folder: Path, clips: Sequence[Clip], on_bytes: Callable[[int, int], None], listing: bytes = b""
) -> Iterator[bytes]:
    """The clips, after the listing where one is given; read as they are sent, so no data set is too large.

    The first clip shows how long packing takes, the others are packed while the line takes longer. Raises
    BadRequest for a file that cannot be read any more, or has changed.
    """
    total, done = sum(c.bytes for c in clips), 0
    packing, line = _Pace(), _Pace()
    if listing:
        yield _member("listing.z1", pack(listing, 1))
    for clip in clips:
        packed = not packing.bytes or line.of_a_byte > WORTH * packing.of_a_byte
        began = time.thread_time()
        member = _clip(folder, clip, packed=packed)
        if packed:
            packing.add(clip.bytes, time.thread_time() - began)
        began = time.monotonic()
        yield member
        line.add(len(member), time.monotonic() - began)
        done += clip.bytes
        on_bytes(done, total)
    yield bytes(tarfile.RECORDSIZE)


def _clip(folder: Path, clip: Clip, *, packed: bool) -> bytes:
    try:
        data = folder.joinpath(*PurePosixPath(clip.path).parts).read_bytes()
    except OSError as e:
        raise BadRequest(f"cannot read {folder / clip.path} ({e.strerror}): repeat the command") from e
    if len(data) != clip.bytes:
        raise BadRequest(f"{folder / clip.path} changed while it was sent: repeat the command")
    width = WIDTHS.get(clip.dtype, 1)
    smaller = pack(data, width) if packed else data
    if len(smaller) < len(data):
        return _member(f"{clip.sha256}.z{width}", smaller)
    return _member(clip.sha256, data)


def pack(data: bytes, width: int) -> bytes:
    """Numbers of `width` bytes, the first bytes of all of them first, then the second ones: the exponents, of
    which few differ, lie together, and what zlib does not find it is not told to look for.
    """
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return packer.compress(b"".join(data[i::width] for i in range(width))) + packer.flush()


def _member(name: str, data: bytes) -> bytes:
    head = tarfile.TarInfo(name)
    head.size = len(data)
    return head.tobuf() + data + bytes(-len(data) % tarfile.BLOCKSIZE)
