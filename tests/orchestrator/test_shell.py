"""One suite over both shells: what is promised of `run`, `read`, `get` holds here and over SSH."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from orchestrator.shell import Shell

HOSTILE = ["a b", "it's", '"', "$(touch pwned)", "`touch pwned`", "; touch pwned", "-n", "*", "a\nb", "ü", ""]


@pytest.mark.parametrize("word", HOSTILE)
def test_a_word_arrives_as_it_was_given_and_runs_nothing(shell: Shell, word: str, tmp_path: Path) -> None:
    answer = shell.run(["sh", "-c", 'cd "$1" && printf %s "$2"', "sh", str(tmp_path), word])
    assert answer.out == word.encode()
    assert not list(tmp_path.iterdir())


def test_exit_code_and_both_streams_come_back_apart(shell: Shell) -> None:
    answer = shell.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (answer.code, answer.out, answer.err, answer.last_error) == (3, b"out\n", b"err\n", "err")


def test_a_program_that_is_not_there_is_an_exit_code_and_a_word(shell: Shell) -> None:
    answer = shell.run(["no-such-program-here"])
    assert answer.code == 127
    assert "no-such-program-here" in answer.last_error


def test_eight_megabytes_go_in_and_come_back_unchanged(shell: Shell) -> None:
    data = bytes(range(256)) * 32_768
    pieces = (data[i : i + 70_001] for i in range(0, len(data), 70_001))
    assert shell.run(["cat"], stdin=pieces).out == data


def test_a_command_that_stops_listening_still_tells_why(shell: Shell) -> None:
    answer = shell.run(["sh", "-c", "echo full >&2; exit 9"], stdin=iter([bytes(1 << 16)] * 200))
    assert (answer.code, answer.last_error) == (9, "full")


def test_lines_of_stderr_are_heard_while_the_command_runs(shell: Shell, tmp_path: Path) -> None:
    heard: list[str] = []

    def answer(line: str) -> None:
        heard.append(line)
        (tmp_path / "go").touch()

    script = 'echo one >&2; until [ -e "$1/go" ]; do sleep 0.01; done; printf "two\\n" >&2'
    assert shell.run(["sh", "-c", script, "sh", str(tmp_path)], on_error_line=answer).code == 0
    assert heard == ["one", "two"]


def test_read_gives_what_has_grown_since_and_nothing_twice(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert shell.read(str(path), 0) == b""
    path.write_bytes(b"one\n")
    assert shell.read(str(path), 0) == b"one\n"
    assert shell.read(str(path), 4) == b""
    with path.open("ab") as f:
        f.write(b"two\n")
    assert shell.read(str(path), 4) == b"two\n"


def test_read_catches_up_with_a_long_file_exactly(shell: Shell, tmp_path: Path) -> None:
    data = b"".join(b"%d\n" % i for i in range(400_000))
    (tmp_path / "log").write_bytes(data)
    seen = bytearray()
    while piece := shell.read(str(tmp_path / "log"), len(seen)):
        seen += piece
    assert bytes(seen) == data


def test_get_goes_on_from_an_offset(shell: Shell, tmp_path: Path) -> None:
    data = bytes(range(256)) * 5_000
    (tmp_path / "a file").write_bytes(data)
    into = io.BytesIO(data[:1000])
    into.seek(1000)
    shell.get(str(tmp_path / "a file"), 1000, into)
    assert into.getvalue() == data


def test_get_of_a_missing_file_says_so(shell: Shell, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        shell.get(str(tmp_path / "nothing"), 0, io.BytesIO())


def test_a_full_disk_here_is_not_taken_for_a_lost_connection(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        shell.get(str(tmp_path / "file"), 0, full)
