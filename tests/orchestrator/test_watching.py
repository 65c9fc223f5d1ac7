"""The commands that watch, as programs: over a real process, a real sshd, a real TensorBoard."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands import runs
from orchestrator.errors import BadRequest
from orchestrator.machine import Machine
from tests.conftest import Box, Ec2emo, eventually
from tests.orchestrator.followed import CHATTER, There, end, epoch, started
from tests.orchestrator.snapshots import EVIL, HOSTILE, acting
from tests.orchestrator.test_published import VALIDATOR
from tests.orchestrator.test_view_terminal import cursor_is_back, foreign, on_a_pty
from trainer.contract import Ended, Note

CLI = "import sys; from orchestrator import cli; sys.argv[1:] = {argv!r}; cli.main()"


@pytest.fixture
def there(tmp_path: Path, ec2emo: Ec2emo, monkeypatch: pytest.MonkeyPatch) -> Iterator[There]:
    """A run on this machine, and the program at home there."""
    monkeypatch.setenv("TMUX_TMPDIR", str(tmp_path))
    made = There(tmp_path, Machine("local", root=str(tmp_path / "machine")))
    ec2emo.env["EC2EMO_HOME"] = str(made.store.root)
    yield made
    end(tmp_path)


@pytest.fixture
def far(tmp_path: Path, ec2emo: Ec2emo, box: Box, monkeypatch: pytest.MonkeyPatch) -> Iterator[There]:
    """A run behind SSH, and the program at home here."""
    monkeypatch.setenv("TMUX_TMPDIR", str(tmp_path))
    made = There(tmp_path, box.machine)
    ec2emo.env |= {"EC2EMO_HOME": str(made.store.root), "HOME": str(box.client_home)}
    yield made
    end(tmp_path)


def over(there: There, status: Any = "finished") -> None:
    """A run of two epochs that ended."""
    there.tell(started(), epoch(1), epoch(2), epoch(3), Ended(t=9.0, status=status, reason="so it is"))


def on_terminal(there: There, *argv: str, **options: Any) -> Any:
    env = {"EC2EMO_HOME": str(there.store.root)}
    return on_a_pty(CLI.format(argv=list(argv)), env=env, **options)


# Leaving


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_follower_that_is_ended_gives_the_cursor_back(there: There, number: int) -> None:
    there.launch(CHATTER)
    sent: list[int] = []

    def meanwhile(pid: int, said: str) -> bytes:
        if "epoch  " in said and not sent:
            sent.append(pid)
            os.kill(pid, number)
        return b""

    ended = on_terminal(there, "monitor", "--follow", meanwhile=meanwhile)
    assert ended.code == 128 + number
    assert cursor_is_back(ended.said)
    assert "Traceback" not in ended.said
    there.end()


# The log


def test_an_empty_log_is_told_as_no_bytes_yet(there: There, ec2emo: Ec2emo) -> None:
    there.tell(started())
    done = ec2emo("monitor", "--log", code=1)
    assert (done.out, "no bytes yet: the log of a-run is empty" in done.err) == ("", True)


def test_the_log_shows_as_many_lines_as_were_asked_for(there: There, ec2emo: Ec2emo) -> None:
    over(there)
    there.run_dir.log.write_text("".join(f"line {n}\n" for n in range(5_000)))
    assert ec2emo("monitor", "--log", "--lines", "3").out == "line 4997\nline 4998\nline 4999\n"
    assert ec2emo("monitor", "--log", "--lines", "4000").out.count("line") == 4_000
    assert "│ line 4992" in ec2emo("monitor", "--lines", "8").out


# JSON


def test_every_line_of_a_followed_run_keeps_to_the_schema(far: There, ec2emo: Ec2emo) -> None:
    far.launch(CHATTER)
    program = ec2emo.start("monitor", "--follow", "--json")
    assert program.stdout is not None
    lines = [program.stdout.readline() for _ in range(4)]
    far.enough()
    out, err = program.communicate(timeout=120)
    lines += out.splitlines()
    for line in lines:
        VALIDATOR.validate(json.loads(line))
    last = json.loads(lines[-1])
    assert (last["state"], last["reason"], program.returncode, err) == ("finished", "all is said", 0, "")
    epochs = [json.loads(line)["epoch"] for line in lines]
    assert epochs == sorted(epochs)


# When it is over


def test_a_command_is_told_how_it_ended_and_the_exit_code_is_the_runs(
    there: There, ec2emo: Ec2emo, tmp_path: Path
) -> None:
    over(there, "failed")
    told = tmp_path / "told"
    command = f"printf '%s ' $EC2EMO_RUN $EC2EMO_STATE $EC2EMO_BEST > {told}; cat > {told}.json"
    done = ec2emo("monitor", "--follow", "--notify-with", command, code=1)
    assert told.read_text().split() == ["a-run", "failed", "0.3000"]
    body = json.loads((tmp_path / "told.json").read_text())
    VALIDATOR.validate(body)
    assert body["error"] == "so it is"
    assert "\a" not in done.err  # nobody sits at a pipe
    told.unlink()
    ec2emo("monitor", "--follow", "--notify", code=1, env={"EC2EMO_NOTIFY": command})
    assert told.exists()


def test_what_cannot_be_notified_is_a_warning_and_no_other_exit_code(there: There, ec2emo: Ec2emo) -> None:
    over(there)
    for how in ("echo no such thing >&2; exit 3", "http://127.0.0.1:1/x"):
        done = ec2emo("monitor", "--follow", "--notify-with", how)
        assert "nobody could be notified of the end of a-run" in done.err
    assert "add --follow" in ec2emo("monitor", "--notify", code=2).err


def test_a_webhook_gets_the_answer_and_a_sentence(there: There, ec2emo: Ec2emo) -> None:
    over(there)
    bodies: list[dict[str, Any]] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ec2emo("monitor", "--follow", "--notify-with", f"http://127.0.0.1:{server.server_port}/hook")
        server.shutdown()
    assert [body["text"] for body in bodies] == ["a-run finished, best val_accuracy 0.3000 at epoch 3"]
    VALIDATOR.validate(bodies[0])


def test_a_terminal_rings(there: There) -> None:
    over(there)
    ended = on_terminal(there, "monitor", "--follow", "--notify")
    assert ended.said.count("\a") == 1 and ended.code == 0


# Runs, compared


def test_runs_are_filtered_by_what_they_are(
    there: There, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    over(there)
    there.follower().once()
    monkeypatch.setenv("EC2EMO_HOME", str(there.store.root))

    def listed(**options: str) -> list[str]:
        runs.command(**{"recipe": None, "state": None, "on": None, "since": None, **options, "json": True})  # type: ignore[arg-type]
        return [json.loads(line)["run"] for line in capsys.readouterr().out.splitlines()]

    assert listed() == listed(recipe="v9_attention") == listed(state="finished") == ["a-run"]
    assert listed(on="loc") == listed(since="1970-01-01") == ["a-run"]
    assert listed(recipe="v8") == listed(state="failed") == listed(on="ssh") == listed(since="2w") == []
    runs.command(state="lost")
    assert "none of 1 runs is like that" in capsys.readouterr().err
    for wrong, said in (({"state": "fine"}, "there is no state"), ({"since": "then"}, "neither like 90m")):
        with pytest.raises(BadRequest, match=said):
            runs.command(**wrong)  # type: ignore[arg-type]


def second(there: There, spec: dict[str, Any], *values: float) -> None:
    """Another run at home, which was asked something else."""
    folder = there.store.runs / "b-run"
    shutil.copytree(there.home.root, folder)
    record = json.loads((folder / "run.json").read_text())
    record |= {"id": "b-run", "spec": {**record["spec"], "run": "b-run", **spec}}
    (folder / "run.json").write_text(json.dumps(record))
    lines = folder.joinpath("events.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    for event, value in zip([e for e in told if e["type"] == "epoch"], values, strict=False):
        event["metrics"]["val_accuracy"] = value
    folder.joinpath("events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in told))


def test_runs_are_compared_with_what_was_asked_differently(
    there: There, ec2emo: Ec2emo, tmp_path: Path
) -> None:
    over(there)
    ec2emo("monitor")
    second(there, {"seed": 7, "params": {"units": 4}}, 0.5, 0.9, 0.8)
    page = tmp_path / "page.html"
    done = ec2emo("compare", "a-run", "b-run", "--html", str(page))
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[1][:4] == ["1", "b-run", "0.9000", "2"]
    assert rows[2][:4] == ["2", "a-run", "0.3000", "3"]
    assert ["seed", "7", "42"] in rows
    assert not any("units" in row for row in rows)  # of one alone
    assert "1 b-run" in done.out and "2 a-run" in done.out
    html = page.read_text()
    assert not re.search(r"<script|src=|href=|url\(|@import", html)
    assert html.count("<polyline") == 2 and "b-run" in html
    body = json.loads(ec2emo("compare", "a-run", "b-run", "--json").out)
    assert [r["run"] for r in body["runs"]] == ["b-run", "a-run"]
    assert body["differ"] == {"seed": [7, 42]}
    assert "compare takes 2 to 9" in ec2emo("compare", "a-run", code=2).err


# What a machine sends


def test_nothing_hostile_reaches_a_person_or_a_program_by_any_command(
    there: There, ec2emo: Ec2emo, tmp_path: Path
) -> None:
    there.tell(started(), Note(t=1.0, text=EVIL), epoch(1), epoch(2))
    there.tell(Ended(t=9.0, status="failed", reason=EVIL))
    there.run_dir.log.write_bytes("\n".join(HOSTILE).encode("utf-8", "surrogatepass") + b"\n\x1b]0;torn")
    page = tmp_path / "page.html"
    ec2emo("monitor", code=1)
    second(there, {"recipe": EVIL.encode("ascii", "replace").decode(), "params": {"x": EVIL}})
    compare = ("compare", "a-run", "b-run", "--html", str(page))
    for argv in (("monitor", "a-run", "--json"), ("monitor", "a-run"), ("runs",)):
        done = ec2emo(*argv, code=None)
        assert acting(done.out) == acting(done.err) == set(), argv
    for argv in (("monitor", "a-run", "--follow"), ("monitor", "a-run", "--log", "--lines", "99"), compare):
        ended = on_terminal(there, *argv)
        assert foreign(ended.said) == set(), argv
        assert "Traceback" not in ended.said
        assert "[link=http://evil.example]markup[/link]" in ended.said or argv == compare
    assert acting(page.read_text()) == set()
    assert "<1click" not in page.read_text() and "&lt;" in page.read_text()


# TensorBoard


def address(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    line = program.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+/", line), line or program.communicate(timeout=60)
    return line


def title(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        found = re.search(r"<title>(.*?)</title>", answer.read().decode())
    return found[1] if found else ""


def processes(part: str) -> list[str]:
    """The command lines that name a folder."""
    found = subprocess.run(["pgrep", "-af", "--", part], capture_output=True, text=True, check=False)
    return [line for line in found.stdout.splitlines() if "tensorboard" in line]


@pytest.mark.limit(300)
def test_tensorboard_of_a_living_run_is_tunnelled_and_closed_with_ctrl_c(far: There, ec2emo: Ec2emo) -> None:
    far.launch(CHATTER)
    program = ec2emo.start("tensorboard")
    url = address(program)
    assert title(url) == "TensorBoard"
    logs = str(far.run_dir.tensorboard)
    assert any("--host 127.0.0.1" in line for line in processes(logs))
    program.send_signal(signal.SIGINT)
    assert program.wait(60) == 130
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1].strip("/")))) != 0
    eventually(lambda: not processes(logs), 30)
    far.end()


@pytest.mark.limit(300)
def test_tensorboard_of_a_finished_run_shows_what_came_home_also_when_the_machine_is_gone(
    far: There, ec2emo: Ec2emo
) -> None:
    over(far)
    assert "has left no curves" in ec2emo("tensorboard", code=2).err
    curves = far.run_dir.tensorboard / "validation" / "events.out.tfevents.1.host"
    curves.parent.mkdir(parents=True)
    curves.write_bytes(b"records" * 9_000)
    (far.run_dir.tensorboard / "odd\nname.tfevents").write_bytes(b"x")
    program = ec2emo.start("tensorboard")
    assert title(address(program)) == "TensorBoard"
    program.terminate()
    assert program.wait(60) == 128 + signal.SIGTERM
    home = far.home.tensorboard / "validation" / curves.name
    assert home.read_bytes() == curves.read_bytes()
    assert [p.name for p in far.home.tensorboard.rglob("*") if p.is_file()] == [curves.name]
    record = far.home.root / "run.json"
    gone = json.loads(record.read_text())
    gone["machine"]["port"] = 1
    record.write_text(json.dumps(gone))
    program = ec2emo.start("tensorboard")
    assert title(address(program)) == "TensorBoard"
    program.terminate()
    _, err = program.communicate(timeout=60)
    assert "shown is what came home before" in err
    shutil.rmtree(far.home.tensorboard)
    assert "on its machine alone, which is out of reach" in ec2emo("tensorboard", code=6).err


# ssh, scp


def test_plain_ssh_and_scp_find_a_run_by_its_name(far: There, ec2emo: Ec2emo, box: Box) -> None:
    over(far)
    config = box.client_home / ".ssh" / "config"
    line = ec2emo("ssh", "--config").out.strip()
    assert line == f'Include "{far.store.runs}/*/ssh_config"'
    assert not config.exists()
    user = f"# mine\nHost other\n    UserKnownHostsFile {box.client_home}/.ssh/known_hosts\n"
    mine = f"{line}\n\nHost *\n    UserKnownHostsFile {box.client_home}/.ssh/known_hosts\n"
    mine += f"    IdentityFile {box.client_home}/.ssh/id_ed25519\n{user}"
    config.write_text(mine)
    try:
        said = subprocess.run(
            ["ssh", "-F", str(config), "-o", "BatchMode=yes", "ec2emo-a-run", "echo here; pwd"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert said.stdout.splitlines() == ["here", str(box.home)], said.stderr
        source = f"ec2emo-a-run:{far.run_dir.events}"
        subprocess.run(["scp", "-q", "-F", str(config), source, str(ec2emo.cwd)], check=True, timeout=60)
        assert (ec2emo.cwd / "events.jsonl").read_bytes() == far.run_dir.events.read_bytes()
        assert "includes them already" in ec2emo("ssh", "--config").err
        ec2emo("monitor")  # our own reading of the configuration does not stumble over the line
    finally:
        config.unlink()


def test_the_configuration_is_touched_only_after_a_yes_and_keeps_all_it_had(
    there: There, tmp_path: Path
) -> None:
    real = tmp_path / "dotfiles"
    real.write_text("Host mine\n    User me\n")
    real.chmod(0o640)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").symlink_to(real)
    env = {"EC2EMO_HOME": str(there.store.root), "HOME": str(tmp_path)}
    for answer, expected in ((b"n\n", "Host mine\n    User me\n"), (b"y\n", None)):
        asked: list[bool] = []

        def meanwhile(_: int, said: str, answer: bytes = answer, asked: list[bool] = asked) -> bytes:
            if "[y/N]" in said and not asked:
                asked.append(True)
                return answer
            return b""

        ended = on_a_pty(CLI.format(argv=["ssh", "--config"]), env=env, meanwhile=meanwhile)
        assert ended.code == 0, ended.said
        include = f'Include "{there.store.runs}/*/ssh_config"\n\nHost mine\n    User me\n'
        assert real.read_text() == (expected or include)
    assert (tmp_path / ".ssh" / "config").is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
