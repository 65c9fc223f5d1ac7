"""bootstrap.sh for real: uv and pip install from an index that answers when the test lets it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

BOOTSTRAP = Path(__file__).parents[2] / "remote_env" / "bootstrap.sh"
# All that the script takes from a machine, apart from Python and uv.
TOOLS = ["awk", "basename", "cut", "df", "dirname", "env", "flock", "grep"]
TOOLS += ["mkdir", "mv", "perl", "rm", "sed", "sh", "sha256sum", "tail"]
PYTHON = Path(sys.base_prefix, "bin", "python{}.{}".format(*sys.version_info))
WHEEL = "speck-1.0-py3-none-any.whl"
PINS = (Path(__file__).parents[2] / "requirements-dev.lock").read_text()
SIX = PINS[PINS.index("six==") :].partition("    # via")[0]


def wheel() -> bytes:
    """A package of one line."""
    files = {
        "speck.py": b"word = 'here'\n",
        "speck-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: speck\nVersion: 1.0\n",
        "speck-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "speck-1.0.dist-info/RECORD,,\n"
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in {**files, "speck-1.0.dist-info/RECORD": record.encode()}.items():
            archive.writestr(name, data)
    return packed.getvalue()


@dataclass(frozen=True)
class Index:
    """A package index on this machine: one package, sent once the gate is open."""

    url: str
    pin: str
    asked: threading.Event
    gate: threading.Event

    def holds_back(self, start: Callable[[], subprocess.Popen[str]]) -> subprocess.Popen[str]:
        """Starts one that now waits for this index."""
        self.gate.clear()
        process = start()
        assert self.asked.wait(60), "nobody asked"
        return process


@pytest.fixture
def index() -> Iterator[Index]:
    data = wheel()
    digest = hashlib.sha256(data).hexdigest()
    asked, gate = threading.Event(), threading.Event()
    gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = f'<a href="/{WHEEL}#sha256={digest}">{WHEEL}</a>'.encode()
            body, kind = (data, "application/zip") if self.path.endswith(".whl") else (page, "text/html")
            asked.set()
            gate.wait()
            with contextlib.suppress(ConnectionError):  # the one who asked was killed meanwhile
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/simple"
    yield Index(url, f"speck==1.0 --hash=sha256:{digest}\n", asked, gate)
    gate.set()
    server.shutdown()
    server.server_close()


@dataclass(frozen=True)
class Machine:
    """A machine with these commands and these settings, and a lock file to make an environment from."""

    root: Path
    lock: Path
    bin: Path
    home: Path

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.lock.read_bytes()).hexdigest()[:16]

    @property
    def env(self) -> Path:
        return self.root / "env" / self.hash

    def start(self, **variables: str) -> subprocess.Popen[str]:
        command = ["sh", str(BOOTSTRAP), str(self.root), str(self.lock)]
        variables = {"PATH": str(self.bin), "HOME": str(self.home), **variables}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=variables, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def run(self, **variables: str) -> subprocess.CompletedProcess[str]:
        return ended(self.start(**variables))

    def has(self, name: str, script: str) -> None:
        """Another command for this machine."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def lacks(self, *names: str) -> None:
        for name in names:
            (self.bin / name).unlink(missing_ok=True)


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    stdout, stderr = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return told


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.splitlines()[-1]


def uv() -> Path:
    """The uv installed beside this Python, or the one on the PATH."""
    found = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not found:
        pytest.skip("uv is not installed here; scripts/test installs it")
    return Path(found)


@pytest.fixture
def pip_machine(tmp_path: Path, index: Index) -> Machine:
    """A machine with Python and no uv."""
    machine = Machine(tmp_path / "root", tmp_path / "some.lock", tmp_path / "bin", tmp_path / "home")
    machine.lock.write_text(index.pin)
    machine.bin.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool, path="/usr/local/bin:/usr/bin:/bin")
        assert found, f"{tool} is missing here"
        (machine.bin / tool).symlink_to(found)
    machine.has("python3", f'exec "{PYTHON}" "$@"')
    settings = machine.home / ".config"
    (settings / "pip").mkdir(parents=True)
    (settings / "pip/pip.conf").write_text(f"[global]\nindex-url = {index.url}\nretries = 0\n")
    (settings / "uv").mkdir()
    (settings / "uv/uv.toml").write_text(f'[[index]]\nurl = "{index.url}"\ndefault = true\n')
    return machine


@pytest.fixture
def uv_machine(pip_machine: Machine) -> Machine:
    """A machine with Python and uv."""
    (pip_machine.bin / "uv").symlink_to(uv())
    return pip_machine


@pytest.fixture(params=["uv", "pip"])
def machine(request: pytest.FixtureRequest) -> Machine:
    """Each of the two."""
    made: Machine = request.getfixturevalue(f"{request.param}_machine")
    return made


def test_an_environment_holds_what_the_lock_pins_from_where_the_machine_is_set_to_look(
    machine: Machine,
) -> None:
    done = machine.run()
    made = {"python": str(machine.env / "bin/python"), "made": True, "lock": machine.hash}
    assert answer(done) == made
    assert len(done.stdout.splitlines()) == 1
    assert all(line.startswith("bootstrap: ") for line in done.stderr.splitlines())
    subprocess.run([machine.env / "bin/python", "-c", "import speck"], check=True)


def test_a_second_call_reuses_it_in_milliseconds_and_starts_no_python(uv_machine: Machine) -> None:
    first = answer(uv_machine.run())
    uv_machine.lacks("python3", "uv")
    began = time.monotonic()
    second = answer(uv_machine.run())
    assert time.monotonic() - began < 0.5
    assert second == first | {"made": False}


def test_what_is_not_what_the_lock_pins_is_refused(machine: Machine) -> None:
    machine.lock.write_text(f"speck==1.0 --hash=sha256:{'0' * 64}\n")
    done = machine.run()
    assert done.returncode == 1
    assert "not what the lock file pins" in last_words(done)
    assert not machine.env.exists()


def test_an_unpinned_requirement_is_refused(uv_machine: Machine) -> None:
    uv_machine.lock.write_text("speck==1.0\n")
    done = uv_machine.run()
    assert done.returncode == 1
    assert not uv_machine.env.exists()


def test_killed_half_way_the_next_call_clears_up_and_builds_again(machine: Machine, index: Index) -> None:
    process = index.holds_back(machine.start)
    os.killpg(process.pid, signal.SIGKILL)
    ended(process)
    assert not (machine.env / ".ready").exists()
    (machine.env / "half").touch()
    index.gate.set()
    assert answer(machine.run())["made"] is True
    assert not (machine.env / "half").exists()


def test_an_installer_that_outlives_the_script_is_waited_for(machine: Machine, index: Index) -> None:
    first = index.holds_back(machine.start)
    first.kill()  # the script alone
    first.wait()
    second = machine.start()
    assert second.stderr
    assert "waiting for it" in second.stderr.readline()
    (machine.env / "half").touch()
    index.gate.set()
    assert answer(ended(second))["made"] is True
    assert not (machine.env / "half").exists()
    ended(first)


def test_told_to_end_it_ends_its_installer_too(machine: Machine, index: Index) -> None:
    process = index.holds_back(machine.start)
    process.terminate()
    done = ended(process)  # returns once nobody holds the pipes, so the installer is gone
    assert done.returncode == 143
    assert "next call begins again" in last_words(done)
    assert not (machine.env / ".ready").exists()


@pytest.mark.parametrize("tool", ["flock", "perl"])
def test_called_twice_at_once_one_builds_and_the_other_waits_and_reuses(
    uv_machine: Machine, index: Index, tool: str
) -> None:
    uv_machine.lacks(*{"flock", "perl"} - {tool})
    first = index.holds_back(uv_machine.start)
    second = uv_machine.start()
    time.sleep(0.5)
    assert second.poll() is None
    index.gate.set()
    one, two = answer(ended(first)), answer(ended(second))
    assert (one["made"], two["made"]) == (True, False)
    assert one["python"] == two["python"]


def test_it_goes_on_when_the_connection_is_gone(uv_machine: Machine, index: Index) -> None:
    process = index.holds_back(uv_machine.start)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    process.stderr.close()
    os.killpg(process.pid, signal.SIGHUP)
    index.gate.set()
    process.wait(timeout=60)
    assert answer(uv_machine.run())["made"] is False


def test_an_index_out_of_reach_leaves_nothing_and_says_so(machine: Machine) -> None:
    nowhere = "http://127.0.0.1:9/simple"
    done = machine.run(PIP_INDEX_URL=nowhere, UV_DEFAULT_INDEX=nowhere, UV_HTTP_RETRIES="0")
    assert done.returncode == 1
    assert "a download failed" in last_words(done)
    assert not machine.env.exists()


def test_a_full_disk_leaves_nothing_and_says_so(machine: Machine) -> None:
    disk = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'
    alone: list[str | Path] = ["unshare", "--map-root-user", "--mount", "sh", "-c", disk, "-"]
    machine.root.mkdir()
    if subprocess.run([*alone, "1m", machine.root, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel lets nobody mount a small disk to fill")
    look = 'sh "$@"; code=$?; ls -A "$2/env" >&2; exit $code'
    command = [*alone, "32k", machine.root, "sh", "-c", look, "-"]
    command += [BOOTSTRAP, machine.root, machine.lock]
    settings = {"PATH": f"{machine.bin}:/usr/bin:/bin", "HOME": str(machine.home)}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    words = [line for line in done.stderr.splitlines() if line.startswith("bootstrap: ")]
    assert "the disk is full" in words[-1]
    assert machine.hash not in done.stderr.splitlines()


def test_a_python_that_vanished_from_under_it_means_building_again(uv_machine: Machine) -> None:
    answer(uv_machine.run())
    (uv_machine.env / "bin/python").unlink()
    (uv_machine.env / "bin/python").symlink_to("/gone/python3")
    assert answer(uv_machine.run())["made"] is True


def test_a_folder_with_spaces_and_quotes_works(uv_machine: Machine) -> None:
    odd = Machine(uv_machine.root / 'my "own" \\ folder', uv_machine.lock, uv_machine.bin, uv_machine.home)
    python = str(answer(odd.run())["python"])
    assert subprocess.check_output([python, "-c", "import speck; print(speck.word)"]) == b"here\n"


def test_packages_on_the_pythonpath_do_not_pass_for_installed(pip_machine: Machine, tmp_path: Path) -> None:
    zipfile.ZipFile(io.BytesIO(wheel())).extractall(tmp_path / "elsewhere")
    answer(pip_machine.run(PYTHONPATH=str(tmp_path / "elsewhere")))
    subprocess.run([pip_machine.env / "bin/python", "-c", "import speck"], check=True, env={})


def test_uv_in_the_home_folder_is_found_though_not_on_the_path(uv_machine: Machine) -> None:
    local = uv_machine.home / ".local/bin"
    local.mkdir(parents=True)
    (uv_machine.bin / "uv").rename(local / "uv")
    done = uv_machine.run()
    answer(done)
    assert "with uv" in done.stderr


def test_a_python_too_old_and_a_shim_with_nothing_behind_it_are_passed_over(pip_machine: Machine) -> None:
    pip_machine.has("python3.13", "echo 'command not found' >&2; exit 127")
    pip_machine.has("python3.12", "exec python3 -c 'import sys; sys.exit(1)'")
    assert answer(pip_machine.run())["made"] is True


def test_without_python_it_says_what_to_install(pip_machine: Machine) -> None:
    pip_machine.lacks("python3")
    done = pip_machine.run()
    assert done.returncode == 3
    assert "apt-get install python3" in last_words(done)


def test_without_ensurepip_it_says_what_to_install(pip_machine: Machine, tmp_path: Path) -> None:
    python = bare_python(tmp_path / "bare")
    pip_machine.has("python3", f'exec "{python}" "$@"')
    done = pip_machine.run()
    assert done.returncode == 3
    assert str(python) in last_words(done)
    assert "apt-get install python3-venv" in last_words(done)


def bare_python(folder: Path) -> Path:
    """This Python with its library, but for ensurepip, of which Debian leaves an empty folder behind."""
    library = folder / "lib" / PYTHON.name
    (library / "ensurepip").mkdir(parents=True)
    for there in Path(sys.base_prefix, "lib", PYTHON.name).iterdir():
        if there.name != "ensurepip":
            (library / there.name).symlink_to(there)
    (folder / "bin").mkdir()
    return Path(shutil.copy(PYTHON, folder / "bin" / PYTHON.name))


@pytest.mark.parametrize("arguments", [[], ["root"], ["root", "lock", "more"], ["root", "/no/such.lock"]])
def test_wrong_arguments_are_refused(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(["sh", BOOTSTRAP, *arguments], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"bootstrap: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.index
@pytest.mark.parametrize("with_uv", [True, False], ids=["uv", "pip"])
def test_the_package_index_serves_what_a_lock_pins(
    pip_machine: Machine, tmp_path: Path, with_uv: bool
) -> None:
    if with_uv:
        (pip_machine.bin / "uv").symlink_to(uv())
    pip_machine.lock.write_text(SIX)
    own = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_"))}
    answer(pip_machine.run(**own | {"HOME": os.environ["HOME"]}))
    subprocess.run([pip_machine.env / "bin/python", "-c", "import six"], check=True)
