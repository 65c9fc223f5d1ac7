"""One suite over both shells: what is promised of `run`, `read`, `get` holds here and over SSH."""

from __future__ import annotations

import io
import re
import shlex
import socket
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.shell import ServerEnded, Shell
from tests.conftest import eventually

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


def test_read_tells_what_lies_there_now_also_where_it_was_replaced(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    assert shell.read(str(path), 0) == shell.read(str(path), 0) == b"one\n"
    path.rename(tmp_path / "log.1")
    path.write_bytes(b"another\n")
    eventually(lambda: shell.read(str(path), 0) == b"another\n", 30)
    path.write_bytes(b"third")
    eventually(lambda: shell.read(str(path), 0) == b"third", 30)


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


# Serving

SERVER = """
import http.server, os, sys
print("getting ready", flush=True)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print(f"pid {os.getpid()} listens on {server.server_address[1]}.", file=sys.stderr, flush=True)
server.serve_forever()
"""


def port_in(line: str) -> int | None:
    found = re.search(r"listens on ([0-9]+)[.]", line)
    return int(found[1]) if found else None


def served(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=20) as answer:
        body: bytes = answer.read()
        return body


def listens(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_is_reached_on_loopback_and_gone_with_the_block(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(range(256)) * 8_000)
    pids: list[int] = []

    def told(line: str) -> int | None:
        pids.extend(int(pid) for pid in re.findall(r"pid ([0-9]+)", line))
        return port_in(line)

    with shell.serve(
        [sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r})\n{SERVER}"], told
    ) as port:
        with ThreadPoolExecutor(4) as several:
            assert len(set(several.map(lambda _: served(port, "large"), range(8)))) == 1
        assert shell.run(["echo", "meanwhile"]).out == b"meanwhile\n"
        idle = socket.create_connection(("127.0.0.1", port))
        assert pids and Path(f"/proc/{pids[0]}").exists()
    assert not listens(port)
    eventually(lambda: not Path(f"/proc/{pids[0]}").exists())
    idle.close()
    assert shell.run(["echo", "still"]).out == b"still\n"


def test_a_server_that_does_not_end_when_it_is_asked_to_is_ended(shell: Shell, tmp_path: Path) -> None:
    deaf = "trap '' TERM; echo $$ > pid; echo listens on 9.; while :; do sleep 1; done"
    with shell.serve(["sh", "-c", f"cd {shlex.quote(str(tmp_path))}; {deaf}"], port_in):
        pid = (tmp_path / "pid").read_text().strip()
        assert Path(f"/proc/{pid}").exists()
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_a_server_that_does_not_start_says_why(shell: Shell) -> None:
    with (
        pytest.raises(ServerEnded, match="no such module"),
        shell.serve(["sh", "-c", "echo starting; echo no such module >&2; exit 3"], port_in),
    ):
        pass
