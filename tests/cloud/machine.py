"""The machine behind an instance: a disk, namespaces of its own, sshd on a loopback address, a console."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.cloud.image import PYTHON, Image

BOOT = Path(__file__).parent / "guest" / "boot.sh"
NAMESPACES = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]


class Machine:
    """A machine that boots: its processes are real, and all of them end with it."""

    def __init__(self, folder: Path, image: Image, mounts: dict[str, str]) -> None:
        self.folder = folder
        self.image = image
        self.mounts = {**image.mounts, **mounts}
        self.process: subprocess.Popen[bytes] | None = None
        self.frozen = False
        self._stopping = threading.Lock()
        for name in ("disk", "work", "root", "image"):
            (folder / name).mkdir(parents=True)

    @property
    def root(self) -> Path:
        """The file system of the instance, while it runs, as seen from outside."""
        return Path(f"/proc/{self.init}/root")

    @property
    def init(self) -> int:
        """Its first process, by the number that it has out here."""
        assert self.process is not None, "the instance does not run"
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def start(self, seed: dict[str, Any]) -> None:
        """Power on; `seed` is what the firmware tells the instance about itself."""
        boot_id = self.folder / "boot_id"
        boot_id.write_text(f"{uuid.uuid4()}\n")
        shutil.rmtree(self.folder / "work")
        (self.folder / "work").mkdir()
        mounts = [word for pair in self.mounts.items() for word in pair]
        command = [
            str(BOOT),
            seed["hostname"],
            str(self.image.folder),
            str(self.folder),
            str(PYTHON),
            *mounts,
        ]
        with (self.folder / "console").open("ab") as console:
            self.process = subprocess.Popen(
                [*NAMESPACES, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=console,
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
                start_new_session=True,
            )
        self.frozen = False
        self.order(json.dumps(seed))

    def order(self, words: str) -> None:
        """One line for init.py."""
        if self.process is not None and self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.write(words.encode() + b"\n")
                self.process.stdin.flush()

    def stop(self, grace: float = 25.0) -> None:
        """Power off as the button does: politely, then without waiting (grace, seconds)."""
        with self._stopping:
            if self.process is None:
                return
            if grace and not self.frozen:
                self.order("poweroff")
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(grace)
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            assert self.process.stdin is not None
            with suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process = None

    def enter(self, *argv: str, **how: Any) -> subprocess.Popen[bytes]:
        """A process in the instance, as root, started from out here."""
        where = ["--target", str(self.init), "--mount", "--pid", "--uts", "--ipc", "--root", "--wd"]
        return subprocess.Popen(["nsenter", *where, "--", *argv], **how)

    def discard(self) -> None:
        """The disk is gone; what the console said stays."""
        for name in ("disk", "work"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def freeze(self) -> None:
        """As a kernel that hangs: nothing in it moves any more."""
        self.frozen = True
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def console(self) -> bytes:
        file = self.folder / "console"
        return file.read_bytes() if file.exists() else b""

    def _pids(self) -> list[int]:
        space = Path(f"/proc/{self.init}/ns/pid").readlink()
        found = []
        for process in Path("/proc").iterdir():
            with suppress(OSError):
                if process.name.isdigit() and (process / "ns/pid").readlink() == space:
                    found.append(int(process.name))
        return found
