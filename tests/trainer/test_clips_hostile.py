"""Files made to harm: headers that lie, archives that swell, bytes at random."""

import io
import os
import resource
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import clips
from trainer.clips.files import NotAClip, parse

from .runs import clip


def header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", compression) as z:
        for name, data in members.items():
            z.writestr(name, data)
    return whole.getvalue()


@pytest.mark.parametrize(
    "shape",
    [
        "(2000000000000, 1)",
        "(-1, 4)",
        "(-2, -2)",
        "(4,)",
        "(2**40, 2)",
        "(True, 4)",
        "(1.5, 2)",
        "'ab'",
        "()",
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_header_that_lies_is_found_out_before_memory_is_taken(shape: str, suffix: str) -> None:
    lie = header(shape) + b"\0" * 16
    data = lie if suffix == "npy" else archive({"features.npy": lie})
    with pytest.raises(NotAClip):
        parse(data, f"x.{suffix}")


def test_eight_terabytes_in_a_header_cost_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(archive({"features.npy": header("(2000000000000, 1)") + b"\0" * 64}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = clips.check(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    assert report.skipped[0].kind == "unreadable"
    assert "8000000000000 bytes, and has 64" in report.skipped[0].reason


def test_a_zip_bomb_is_not_inflated(tmp_path: Path) -> None:
    frames = 300 * 2**20 // 4
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as z,
        z.open("features.npy", "w") as f,
    ):
        f.write(header(f"({frames}, 1)"))
        for _ in range(300):
            f.write(b"\0" * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = clips.check(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    assert report.skipped[0].kind == "too-large"


def test_an_archive_that_lies_about_its_sizes_is_left_out() -> None:
    honest = archive({"features.npy": header("(4, 4)") + b"\1" * 64}, zipfile.ZIP_DEFLATED)
    directory = honest.rindex(b"PK\x01\x02")
    lying = bytearray(honest)
    lying[directory + 24 : directory + 28] = struct.pack("<I", 2**31 - 1)
    with pytest.raises(NotAClip):
        parse(bytes(lying), "x.npz")


def test_a_large_file_is_not_even_read(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as f:
        f.truncate(10 * 2**40)
    assert clips.check(tmp_path).skipped[0].kind == "too-large"


def test_a_pipe_does_not_block_the_look(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    assert clips.check(tmp_path).skipped[0].reason == "not a regular file"


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    clip(tmp_path, "a.npz", emotion="sad", features=np.array([[Trap()]], dtype=object))
    np.savez(tmp_path / "b.npz", features=np.eye(3), emotion=np.array(Trap(), dtype=object))
    report = clips.check(tmp_path)
    assert {s.kind for s in report.skipped} == {"object"}
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("times", [1, 2, 5])
def test_two_arrays_of_one_name_are_refused(times: int) -> None:
    member = header("(4, 4)") + np.arange(16, dtype="<f4").tobytes()
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as z:
        z.writestr("features", member)
        for i in range(times):
            z.writestr(zipfile.ZipInfo("features.npy", (1980 + i, 1, 1, 0, 0, 0)), member)
            if i == 0:
                break
    with pytest.raises(NotAClip, match="same name"):
        parse(whole.getvalue(), "x.npz")


_SEED = io.BytesIO()
np.savez(_SEED, features=np.arange(12.0).reshape(3, 4), emotion=np.array("sad"), speaker=np.array("s1"))


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(_SEED.getvalue()) - 1), st.integers(0, 255)), max_size=6), st.data()
)
def test_damage_of_any_kind_is_a_reason_and_never_a_crash(
    flips: list[tuple[int, int]], data: st.DataObject
) -> None:
    damaged = bytearray(_SEED.getvalue())
    for where, value in flips:
        damaged[where] = value
    cut = data.draw(st.integers(0, len(damaged)))
    for candidate in (bytes(damaged), bytes(damaged[:cut])):
        for name in ("x.npz", "x.npy"):
            try:
                parse(candidate, name)
            except NotAClip as e:
                assert str(e)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00", b"PK\x03\x04"])
)
def test_random_bytes_are_a_reason_and_never_a_crash(data: bytes, start: bytes) -> None:
    for name in ("x.npz", "x.npy"):
        with pytest.raises(NotAClip):
            parse(start + data, name)
