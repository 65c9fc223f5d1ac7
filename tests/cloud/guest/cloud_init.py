"""cloud-init, as far as user data of ec2emo goes: `cloud-init init`, then sshd, then `cloud-init final`.

Understands `#!` scripts, `#cloud-config`, `#cloud-boothook`, MIME archives of them, and gzip around each.
A key of cloud-config that it does not know is an error, so that no test passes on what was left out.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import pwd
import shlex
import subprocess
import sys
import time
from email import message_from_bytes
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # where the image keeps PyYAML

KNOWN = {
    "bootcmd",
    "runcmd",
    "ssh_authorized_keys",
    "ssh_deletekeys",
    "ssh_genkeytypes",
    "ssh_keys",
    "write_files",
}
SSH = Path("/etc/ssh")
RUN = Path("/run/cloud-init")
INSTANCE = Path("/var/lib/cloud/instance")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class UserData:
    """User data taken apart: one part, or a MIME archive of several, each perhaps compressed."""

    def __init__(self, raw: bytes) -> None:
        self.config: dict[str, Any] = {}
        self.hooks: list[bytes] = []
        self.scripts: list[bytes] = []
        self._add(raw)

    def _add(self, raw: bytes) -> None:
        if raw.startswith(b"\x1f\x8b"):
            raw = gzip.decompress(raw)
        if raw.startswith(b"#cloud-config"):
            self._add_config(raw)
        elif raw.startswith(b"#cloud-boothook"):
            body = raw.partition(b"\n")[2]
            self.hooks.append(body if body.startswith(b"#!") else b"#!/bin/sh\n" + body)
        elif raw.startswith(b"#!"):
            self.scripts.append(raw)
        elif raw[:13].lower() in (b"content-type:", b"mime-version:"):
            for part in message_from_bytes(raw).walk():
                if not part.is_multipart():
                    self._add(part.get_payload(decode=True))
        elif raw.strip():
            raise ValueError(f"cloud-init would not know what to do with this user data: {raw[:40]!r}")

    def _add_config(self, raw: bytes) -> None:
        import yaml

        config = yaml.safe_load(raw)
        unknown = set(config) - KNOWN
        if unknown:
            raise ValueError(f"the test cloud does not simulate {', '.join(sorted(unknown))} of cloud-config")
        self.config.update(config)


class Stages:
    """One boot. Everything happens once in the life of a disk, except hooks and bootcmd."""

    def __init__(self) -> None:
        self.seed = json.loads((RUN / "seed.json").read_text())
        self.done = INSTANCE / "boot-finished"
        self.first = not self.done.exists()
        self.errors_file = RUN / "errors.json"
        self.errors: list[str] = json.loads(self.errors_file.read_text()) if self.errors_file.exists() else []
        self.environment = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **self.seed["environment"]}
        INSTANCE.mkdir(parents=True, exist_ok=True)
        try:
            self.data = UserData(base64.b64decode(self.seed["user_data"]))
        except (ValueError, OSError) as e:
            self.data = UserData(b"")
            self._wrong(str(e))

    def init(self) -> None:
        """Before anyone can log in."""
        self._tell("running")
        for number, hook in enumerate(self.data.hooks):
            self._execute(hook, f"hook-{number}")
        for command in self.data.config.get("bootcmd", []):
            self._command(command)
        if self.first:
            for file in self.data.config.get("write_files", []):
                self._write_file(file)
            self._make_host_keys()
            self._authorize()

    def final(self) -> None:
        """While people may log in already."""
        if self.first:
            for command in self.data.config.get("runcmd", []):
                self._command(command)
            for number, script in enumerate(self.data.scripts):
                self._execute(script, f"part-{number}")
            self._print_host_keys()
            self.done.write_text(f"{time.time()}\n")
        self._tell("error" if self.errors else "done")
        print("Cloud-init finished.", flush=True)

    def _wrong(self, what: str) -> None:
        if what not in self.errors:
            self.errors.append(what)
            print(f"cloud-init: {what}", flush=True)
            self.errors_file.write_text(json.dumps(self.errors))

    def _tell(self, status: str) -> None:
        (RUN / "status.json").write_text(json.dumps({"v1": {"status": status, "errors": self.errors}}))
        if status != "running":
            result = {"v1": {"datasource": "DataSourceEc2Local", "errors": self.errors}}
            (RUN / "result.json").write_text(json.dumps(result))

    def _make_host_keys(self) -> None:
        for old in SSH.glob("ssh_host_*key*"):
            old.unlink()
        given: dict[str, str] = self.data.config.get("ssh_keys", {})
        for name, text in given.items():
            kind, _, half = name.rpartition("_")
            path = SSH / f"ssh_host_{kind}_key{'.pub' if half == 'public' else ''}"
            path.touch(0o600)
            path.write_text(text.strip() + "\n")
            path.chmod(0o600 if half == "private" else 0o644)
        for kind in [] if given else self.data.config.get("ssh_genkeytypes", ["ed25519"]):
            made = str(SSH / f"ssh_host_{kind}_key")
            subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", made], check=True)

    def _authorize(self) -> None:
        user = pwd.getpwnam(self.seed["user"])
        folder = Path(user.pw_dir) / ".ssh"
        file = folder / "authorized_keys"
        folder.mkdir(mode=0o700, exist_ok=True)
        keys = [*self.seed["public_keys"], *self.data.config.get("ssh_authorized_keys", [])]
        file.write_text("".join(f"{key.strip()}\n" for key in keys))
        file.chmod(0o600)
        for path in (folder, file):
            os.chown(path, user.pw_uid, user.pw_gid)

    def _print_host_keys(self) -> None:
        """Both blocks that cloud-init prints, which are what GetConsoleOutput is read for."""
        public = sorted(SSH.glob("ssh_host_*_key.pub"))
        prints = "".join(
            "ec2: " + subprocess.check_output(["ssh-keygen", "-l", "-f", str(p)], text=True) for p in public
        )
        print(
            "ec2: -----BEGIN SSH HOST KEY FINGERPRINTS-----\n"
            f"{prints}ec2: -----END SSH HOST KEY FINGERPRINTS-----\n"
            "-----BEGIN SSH HOST KEY KEYS-----\n"
            f"{''.join(p.read_text() for p in public)}-----END SSH HOST KEY KEYS-----",
            flush=True,
        )

    def _write_file(self, file: dict[str, Any]) -> None:
        content = str(file.get("content", "")).encode()
        for step in reversed(file.get("encoding", "").split("+")):
            if step in ("b64", "base64"):
                content = base64.b64decode(content)
            elif step in ("gz", "gzip"):
                content = gzip.decompress(content)
        path = Path(file["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)
        path.write_bytes(content)
        path.chmod(int(str(file.get("permissions", "0644")), 8))
        if "owner" in file:
            subprocess.run(["chown", file["owner"], str(path)], check=True)

    def _execute(self, script: bytes, name: str) -> None:
        path = INSTANCE / "scripts" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(script)
        path.chmod(0o700)
        self._command([str(path)])

    def _command(self, command: str | list[Any]) -> None:
        argv = ["sh", "-c", command] if isinstance(command, str) else [str(word) for word in command]
        ended = subprocess.run(argv, env=self.environment, stdin=subprocess.DEVNULL, cwd="/", check=False)
        if ended.returncode:
            self._wrong(f"{shlex.join(argv)[:200]} ended with {ended.returncode}")


def status(*arguments: str) -> int:
    """`cloud-init status [--wait] [--format json]`: 0 done or running, 1 failed."""
    while True:
        told = json.loads((RUN / "status.json").read_text())["v1"] if (RUN / "status.json").exists() else {}
        word = told.get("status", "not started")
        if "--wait" not in arguments or word in ("done", "error"):
            break
        time.sleep(0.05)
    as_json = "json" in arguments or "--format=json" in arguments
    print(json.dumps(told) if as_json else f"status: {word}")
    return 1 if word == "error" else 0


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "status":
        sys.exit(status(*rest))
    {"init": Stages.init, "final": Stages.final}[verb](Stages())
