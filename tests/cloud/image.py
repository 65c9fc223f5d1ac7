"""What the disk of a new instance has: this machine's own programs, with the ways of a cloud image on top."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import yaml

GUEST = Path(__file__).parent / "guest"
LIBRARY = "usr/local/lib/cloud"
# What of this machine an instance does not see.
HIDDEN = ("tmp", "root", "home", "var/tmp", "var/lib/cloud", "etc/ssh", "etc/systemd/system")
USERS = {"ubuntu": 61000, "ec2-user": 61001}  # numbers that nobody else has
PYTHON = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}").resolve()


class Image:
    """One layer of files between an instance's disk and this machine's, made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mounts: dict[str, str] = {}  # what is shown of this machine all the same: from where, where
        for hidden in HIDDEN:
            self._folder(hidden, opaque=True)
        (folder / "tmp").chmod(0o1777)
        (folder / "var/tmp").chmod(0o1777)
        (folder / "root").chmod(0o711)
        self._users()
        self._programs()
        self.mount(Path(sys.base_prefix).resolve())
        if uv := shutil.which("uv", path=str(Path(sys.executable).parent)):
            self.mount(Path(uv), "/usr/local/bin/uv")

    def mount(self, source: Path, target: str | None = None) -> None:
        """Show a file or folder of this machine in every new instance, where nobody can write to it."""
        if target or any(source.is_relative_to(f"/{hidden}") for hidden in HIDDEN):
            self.mounts[str(source)] = target or str(source)

    def program(self, path: str, text: str) -> None:
        file = self.folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def _folder(self, name: str, opaque: bool = False) -> Path:
        made = self.folder / name
        made.mkdir(parents=True, exist_ok=True)
        if opaque:
            os.setxattr(made, "trusted.overlay.opaque", b"y")
        return made

    def _users(self) -> None:
        etc = self._folder("etc")
        lines = {name: Path("/etc", name).read_text().splitlines() for name in ("passwd", "group", "shadow")}
        for user, number in USERS.items():
            kept = {
                name: [line for line in found if line.split(":")[0] != user] for name, found in lines.items()
            }
            kept["passwd"].append(f"{user}:x:{number}:{number}::/home/{user}:/bin/bash")
            kept["group"].append(f"{user}:x:{number}:")
            kept["shadow"].append(f"{user}:*:19000:0:99999:7:::")
            lines = kept
            home = self._folder(f"home/{user}")
            os.chown(home, number, number)
            for name in (".bashrc", ".profile"):
                if (skeleton := Path("/etc/skel", name)).exists():
                    shutil.copy(skeleton, home / name)
                    os.chown(home / name, number, number)
        for name, found in lines.items():
            (etc / name).write_text("\n".join(found) + "\n")
        (etc / "shadow").chmod(0o640)
        shutil.copytree(
            "/etc/ssh", etc / "ssh", dirs_exist_ok=True, ignore=shutil.ignore_patterns("ssh_host_*")
        )

    def _programs(self) -> None:
        library = self._folder(LIBRARY)
        for source in ("init.py", "cloud_init.py", "shutdown.py", "systemctl.py"):
            shutil.copy(GUEST / source, library / source)
        package = Path(yaml.__file__).parent
        shutil.copytree(package, library / "yaml", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        run = f"#!/bin/sh\nexec {PYTHON} -I -S /{LIBRARY}/"
        for name in ("shutdown", "poweroff", "reboot", "halt"):
            self.program(f"/usr/sbin/{name}", f'{run}shutdown.py {name} "$@"\n')
        self.program("/usr/bin/cloud-init", f'{run}cloud_init.py "$@"\n')
        self.program("/usr/bin/systemctl", f'{run}systemctl.py systemctl "$@"\n')
        self.program("/usr/sbin/service", f'{run}systemctl.py service "$@"\n')
        self.program("/usr/bin/sudo", (GUEST / "sudo").read_text())
        if not shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin"):
            (self._folder("usr/local/bin") / "python3").symlink_to(PYTHON)
        setpriv = shutil.which("setpriv")
        assert setpriv, "setpriv is missing; install util-linux"
        shutil.copy(setpriv, library / "as-root")
        (library / "as-root").chmod(0o4755)
