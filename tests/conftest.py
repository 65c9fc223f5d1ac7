"""A real sshd with a home of its own, and the real `ec2emo` in a home of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.connect import open_shell
from orchestrator.machine import Machine
from orchestrator.shell import LocalShell, Shell
from tests.cloud.fixtures import cloud, cloud_image, cloud_moto

__all__ = ["cloud", "cloud_image", "cloud_moto"]

PATIENCE = 180.0

# Who starts tests in the background has them ignore Ctrl-C, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

SSHD_CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PermitRootLogin yes
StrictModes no
MaxStartups 200
Subsystem sftp {sftp_server}
ForceCommand {folder}/enter
SetEnv SHLVL=2
"""
# The level keeps bash from reading the .bashrc of whoever runs the tests, once for every command.

# Every session starts here: a home of its own, and a tmux server of its own.
ENTER = """#!/bin/sh
export HOME={home} TMUX_TMPDIR={folder}/tmux PATH={path}
unset TMUX
cd "$HOME" || exit 1
if [ -n "$SSH_ORIGINAL_COMMAND" ]; then exec sh -c "$SSH_ORIGINAL_COMMAND"; else exec sh; fi
"""


def eventually(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait until something holds."""
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until, f"did not come to pass within {patience:.0f} s"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def limited(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test waits for without end, where the product is broken, has one: `pytest.mark.limit`."""
    limit = request.node.get_closest_marker("limit")
    if limit is None:
        yield
        return
    (seconds,) = limit.args

    def over(*_: object) -> None:
        pytest.fail(f"not over within {seconds:.0f} s")  # no Exception, so nothing takes it for its own

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Box:
    """One machine reached by SSH: its port, its home folder there, and the client's home that knows it."""

    port: int
    folder: Path
    home: Path
    client_home: Path
    path: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def where(self) -> str:
        return f"ssh://root@127.0.0.1:{self.port}"

    @property
    def machine(self) -> Machine:
        return Machine("attached", host="127.0.0.1", user="root", port=self.port)

    def start(self) -> None:
        log = (self.folder / "sshd.log").open("ab")
        self.process = subprocess.Popen(
            [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config")],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        eventually(self._answers)

    def stop(self) -> None:
        """The listener and every connection it has open, as when a link dies."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            children = subprocess.run(
                ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False
            )
            self.process.kill()
            for child in children.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
        self.process.wait()

    def set_path(self, path: str) -> None:
        """What programs the machine has."""
        self.path = path
        enter = self.folder / "enter"
        enter.write_text(ENTER.format(home=self.home, folder=self.folder, path=path))
        enter.chmod(0o755)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as s:
            return s.recv(4) == b"SSH-"
        return False


def make_box(folder: Path) -> Box:
    """A fresh sshd with its own keys, not yet started."""
    Path("/run/sshd").mkdir(exist_ok=True)
    home, client_home = folder / "home", folder / "client"
    for made in (home, folder / "tmux", client_home / ".ssh"):
        made.mkdir(parents=True)
    for key in (folder / "host_key", client_home / ".ssh" / "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    shutil.copy(client_home / ".ssh" / "id_ed25519.pub", folder / "authorized_keys")
    box = Box(free_port(), folder, home, client_home, os.environ["PATH"])
    box.set_path(box.path)
    servers = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")
    sftp_server = next(s for s in servers if Path(s).exists())
    config = SSHD_CONFIG.format(port=box.port, folder=folder, sftp_server=sftp_server)
    (folder / "sshd_config").write_text(config)
    public = (folder / "host_key.pub").read_text().split()[:2]
    (client_home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{box.port} {' '.join(public)}\n")
    return box


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="session")
def box_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    made = make_box(tmp_path_factory.mktemp("box"))
    made.start()
    yield made
    end_tmux(made.folder / "tmux")
    made.stop()


@pytest.fixture
def box(box_for_all: Box, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """The machine that all tests share; the client's home is in the environment."""
    monkeypatch.setenv("HOME", str(box_for_all.client_home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    path = box_for_all.path
    yield box_for_all
    if box_for_all.path != path:
        box_for_all.set_path(path)


@pytest.fixture
def own_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """A machine that a test may break."""
    made = make_box(tmp_path / "own-box")
    monkeypatch.setenv("HOME", str(made.client_home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    made.start()
    yield made
    end_tmux(made.folder / "tmux")
    made.stop()


def end_tmux(folder: Path) -> None:
    subprocess.run(
        ["tmux", "kill-server"],
        env={**os.environ, "TMUX_TMPDIR": str(folder)},
        stderr=subprocess.DEVNULL,
        check=False,
    )


@pytest.fixture(params=["local", "ssh"])
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    """The same tests over both shells."""
    if request.param == "local":
        yield LocalShell()
        return
    machine = request.getfixturevalue("box").machine
    with open_shell(machine) as opened:
        yield opened


@dataclass
class Done:
    """How a command of ec2emo ended."""

    code: int
    out: str
    err: str


@dataclass
class Ec2emo:
    """The installed program, in a home and a folder of its own."""

    cwd: Path
    env: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return Path(self.env["EC2EMO_HOME"])

    def __call__(
        self, *argv: str, code: int | None = 0, timeout: float = 900, env: Mapping[str, str] | None = None
    ) -> Done:
        ended = subprocess.run(
            [*PROGRAM, *argv],
            cwd=self.cwd,
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        done = Done(ended.returncode, ended.stdout, ended.stderr)
        assert "Traceback" not in done.err, done.err
        assert code is None or done.code == code, f"{argv} ended with {done.code}:\n{done.out}\n{done.err}"
        return done

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """The program, still running."""
        process = subprocess.Popen(
            [*PROGRAM, *argv],
            cwd=self.cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process


PROGRAM = [sys.executable, "-m", "orchestrator"]


@pytest.fixture
def ec2emo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ec2emo]:
    cwd, home = tmp_path / "project", tmp_path / "ec2emo-home"
    cwd.mkdir()
    tmux = tmp_path / "tmux"
    tmux.mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in ("EC2EMO_HOME", "TMUX", "SSH_AUTH_SOCK")}
    env = {**kept, "EC2EMO_HOME": str(home), "TMUX_TMPDIR": str(tmux), "NO_COLOR": "1", "COLUMNS": "110"}
    program = Ec2emo(cwd, env)
    yield program
    for process in program.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # what it has started holds its pipes open
        process.communicate()
    end_runs(home / "machine" / "runs")
    end_tmux(tmux)


def end_runs(folder: Path) -> None:
    """No test leaves a process behind."""
    supervise = Path(__file__).parent.parent / "remote_env" / "supervise.py"
    for run in folder.glob("*"):
        subprocess.run(
            [sys.executable, str(supervise), "stop", str(run), "--kill"],
            stdout=subprocess.DEVNULL,
            check=False,
        )
