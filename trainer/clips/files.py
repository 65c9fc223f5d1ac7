"""One feature file: read it without trusting it, and say what clip it is or why it is none.

Nothing is unpickled, and no array is allocated before its header has been compared with the bytes there are.
Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import hashlib
import io
import lzma
import math
import re
import struct
import threading
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from trainer.clips import labels
from trainer.clips.tree import Entry, Refused

# A header is a Python literal, and Python 3.11 counts for all threads together how deep it is in one: of two
# that are read at once, one may end in SystemError (https://github.com/python/cpython/issues/106905).
_PARSING = threading.Lock()

KEYS = ("wav2vec_features", "features", "embeddings")
DTYPES = ("float16", "float32", "float64")
# Ten minutes of 1,024 dimensions at 50 frames a second fill 117 MiB as float32; a clip has seconds.
MAX_BYTES = 256 * 2**20
_MAX_WORD_BYTES = 4096
_MAX_HEADER = 10_000
_GROUPS = 16
# What programs that train leave between the clips: audio_mean.npy, feature_std_v9.npy, label_classes.npy.
_STATISTICS = re.compile(r"(^|_)(mean|std|var|scaler?|stats?|classes)(_\w+)?\.np[yz]$", re.I)
# Everything zipfile and numpy were seen to raise on damaged files.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
)


class Clip(NamedTuple):
    """A clip that can be trained on. `named` is the label its file name states, where it states one;
    `bytes` and `sha256` are the file's; `key` is "" for an `.npy`. `content` names the features alone,
    however they are stored; `outline` is the rough shape of their mean over time (see `outline_of`).
    """

    path: str
    label: str
    speaker: str | None
    frames: int
    dim: int
    dtype: str
    bytes: int
    sha256: str
    key: str
    synthetic: bool
    named: str | None
    content: str
    outline: str


class Contents(NamedTuple):
    """What a feature file says: the array as (frames, dim), its key, and the strings that go with it, where
    there are any.
    """

    features: np.ndarray[Any, Any]
    key: str
    emotion: str | None
    speaker: str | None
    synthetic: bool


class NotAClip(ValueError):
    """A file that is no clip; `kind` is a word for the reason, the message the reason."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def look(entry: Entry) -> Clip | Refused:
    """Read and judge one file. Raises nothing for what a file may contain."""
    try:
        data = _bytes_of(entry)
        contents = parse(data, entry.path)
        return _clip(entry, contents, hashlib.sha256(data).hexdigest())
    except NotAClip as e:
        if e.kind in ("not-2d", "no-label", "constant") and _STATISTICS.search(entry.path.rsplit("/", 1)[-1]):
            return Refused(entry.path, "statistics", f"statistics, by its name, and no clip: {e}")
        return Refused(entry.path, e.kind, str(e))
    except OSError as e:
        return Refused(entry.path, "unreadable", f"cannot be read: {e.strerror or e}")


def parse(data: bytes, name: str) -> Contents:
    """The checked contents of a feature file's bytes. Raises NotAClip."""
    if not data:
        raise NotAClip("empty", "the file is empty")
    try:
        contents = _npy(data) if name.lower().endswith(".npy") else _npz(data)
    except NotAClip:
        raise
    except _UNREADABLE as e:
        raise NotAClip("unreadable", f"damaged, or no numpy file: {_said(e)}") from e
    contents = contents._replace(features=flat(contents.features))
    _check_values(contents.features)
    return contents


def flat(features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(frames, bins, channels), as convolutions leave them, as (frames, bins × channels); others unchanged.

    A single frame is no clip: an axis of 1 in front is a batch that somebody forgot to take off.
    """
    if features.ndim == 3 and features.shape[0] != 1 and features.size:
        return features.reshape(features.shape[0], -1)
    return features


def _bytes_of(entry: Entry) -> bytes:
    if entry.bytes > MAX_BYTES:
        raise NotAClip("too-large", f"{entry.bytes / 2**20:,.0f} MiB is more than a clip can have")
    return Path(entry.file).read_bytes()


def _npy(data: bytes) -> Contents:
    return Contents(array(data), "", None, None, synthetic=False)


def _npz(data: bytes) -> Contents:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise NotAClip("unreadable", "two of its arrays have the same name")
        keys = [k for k in KEYS if k in members]
        if len(keys) != 1:
            raise NotAClip(*_no_single_key(keys, list(members)))
        return Contents(
            features=_member(archive, members[keys[0]], MAX_BYTES),
            key=keys[0],
            emotion=_word(archive, members.get("emotion")),
            speaker=_word(archive, members.get("speaker")),
            synthetic=_truth(archive, members.get("synthetic")),
        )


def _no_single_key(found: list[str], members: list[str]) -> tuple[str, str]:
    if found:
        return "several-keys", f"has {' and '.join(found)}: which is meant?"
    there = ", ".join(sorted(members)[:5]) or "nothing"
    return "no-key", f"has none of {', '.join(KEYS)}, but {there}"


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> np.ndarray[Any, Any]:
    """One array of the archive. Of a packed one, its header alone is inflated before its size is known to be
    right.
    """
    if info.file_size > limit:
        raise NotAClip("too-large", f"{info.filename} would take {info.file_size / 2**20:,.0f} MiB of memory")
    if info.compress_type != zipfile.ZIP_STORED:
        with archive.open(info) as file:
            _header(file, info.file_size)
    # Inflating stops at file_size, so an archive that lies about it costs no more than it says.
    return array(archive.read(info))


def array(data: bytes) -> np.ndarray[Any, Any]:
    """The array that an `.npy` is, which shares its bytes: numpy's own reader would read the header again.

    Raises NotAClip, and what numpy raises for a damaged file.
    """
    file = io.BytesIO(data)
    shape, by_column, dtype = _header(file, len(data))
    return np.ndarray(shape, dtype, data, file.tell(), order="F" if by_column else "C")


def _header(file: Any, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and dtype, once what they promise has been compared with the bytes
    that follow. Raises NotAClip.
    """
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise NotAClip("unreadable", f"npy format {version[0]}.{version[1]} is not one that holds features")
    with _PARSING:
        shape, by_column, dtype = read(file, max_header_size=_MAX_HEADER)
    if dtype.hasobject:
        raise NotAClip("object", "an array of Python objects, which only unpickling could read")
    promised, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if promised != there or any(n < 0 for n in shape):
        raise NotAClip("unreadable", f"promises {shape} of {dtype}, {promised} bytes, and has {there}")
    return shape, by_column, dtype


def _word(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> str | None:
    """A string stored as one unicode or bytes value; None when there is none."""
    if info is None:
        return None
    value = _member(archive, info, _MAX_WORD_BYTES)
    if value.size != 1 or value.dtype.kind not in "US":
        return None
    word = value.reshape(())[()]
    return (word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)).strip() or None


def _truth(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> bool:
    return info is not None and bool(np.any(_member(archive, info, _MAX_WORD_BYTES)))


def _check_values(features: np.ndarray[Any, Any]) -> None:
    if features.ndim != 2:
        wanted = "(frames, dimensions) or (frames, bins, channels)"
        raise NotAClip("not-2d", f"its shape is {features.shape}, a clip's is {wanted}")
    if features.dtype.name not in DTYPES:
        raise NotAClip("dtype", f"its numbers are {features.dtype}, not one of {', '.join(DTYPES)}")
    if 0 in features.shape:
        raise NotAClip("empty", "it has no frames" if features.shape[0] == 0 else "it has no dimensions")
    # Training is in float32, where a large float64 is infinite too.
    with np.errstate(over="ignore"):
        finite = np.isfinite(features.astype(np.float32, copy=False)).all()
    if not finite:
        raise NotAClip("not-finite", "it has NaN or infinite values")
    if (features == features.flat[0]).all():
        raise NotAClip("constant", f"all its values are {features.flat[0]}")
    if len(features) > 1 and (features == features[0]).all():
        raise NotAClip("constant", f"all its {len(features)} frames are the same")


def _clip(entry: Entry, contents: Contents, digest: str) -> Clip:
    named = labels.from_file_name(entry.path.rsplit("/", 1)[-1].rsplit(".", 1)[0])
    word = contents.emotion
    label = named.label if word is None else labels.canonical(word)
    if label is None and word is None:
        raise NotAClip("no-label", "neither a string `emotion` nor its file name says the emotion")
    if label is None:
        known = ", ".join(labels.EMOTIONS)
        raise NotAClip("unknown-label", f"its emotion is {word!r:.40}, which is none of {known}")
    frames, dim = contents.features.shape
    return Clip(
        path=entry.path,
        label=label,
        speaker=named.speaker or contents.speaker,
        frames=frames,
        dim=dim,
        dtype=contents.features.dtype.name,
        bytes=entry.bytes,
        sha256=digest,
        key=contents.key,
        synthetic=contents.synthetic,
        named=named.label,
        content=hashlib.sha256(_plain(contents.features).data).hexdigest()[:32],
        outline=outline_of(contents.features),
    )


def outline_of(features: np.ndarray[Any, Any]) -> str:
    """The mean over time of 16 neighbouring groups of dimensions, about their own mean, in deviations of all
    values: little-endian float16 in hex. What one extractor makes of any speech has much of it in common.
    """
    values = _plain(features).astype(np.float64)
    count, width = min(_GROUPS, values.shape[1]), values.shape[1]
    sizes = np.full(count, width // count)
    sizes[: width % count] += 1
    means = np.add.reduceat(values.mean(axis=0), sizes.cumsum() - sizes) / sizes
    outline: bytes = ((means - means.mean()) / values.std()).astype("<f2").tobytes()
    return outline.hex()


def _plain(features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(features, "<f4")


def _said(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:120] or type(error).__name__
