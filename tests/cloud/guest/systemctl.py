"""systemctl, service, reboot's kin of an instance: units are init.py's, which takes orders through a pipe.

Knows the verbs below for services that are one ExecStart; anything else is refused aloud, so that no test
passes on what was left out. ssh.service and sshd.service are the daemon of port 22.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ORDERS = Path("/run/initctl")
UNITS = Path("/etc/systemd/system")
WANTED = UNITS / "multi-user.target.wants"
STATES = Path("/run/systemd/units")
PATIENCE = 10.0  # seconds


def main(argv: list[str]) -> int:
    called, *words = argv
    options = [w for w in words if w.startswith("-")]
    verb, *names = [w for w in words if not w.startswith("-")]
    if called == "service":
        verb, names = names[0], [verb]
    units = [n if "." in n else f"{n}.service" for n in names]
    if verb in ("poweroff", "reboot", "halt"):
        return subprocess.call([f"/usr/sbin/{verb}"])
    if verb == "daemon-reload":
        return 0
    if verb == "is-system-running":
        print("running")
        return 0
    known = {
        "enable": enable,
        "disable": disable,
        "start": lambda unit: order("start", unit),
        "stop": lambda unit: order("stop", unit),
        "restart": lambda unit: order("restart", unit),
        "try-restart": lambda unit: order("restart", unit),
        "reload": lambda unit: order("reload", unit),
        "reload-or-restart": lambda unit: order("reload", unit),
        "is-active": is_active,
        "status": is_active,
        "is-enabled": is_enabled,
    }
    if verb not in known or not units:
        sys.exit(f"systemctl: the test cloud does not simulate: {' '.join(words)}")
    if "--now" in options:
        return max(known[verb](u) or order("start" if verb == "enable" else "stop", u) for u in units)
    return max(known[verb](u) for u in units)


def order(verb: str, unit: str) -> int:
    """Tell init.py, and wait until it has answered."""
    if unit not in ("ssh.service", "sshd.service") and not (UNITS / unit).exists():
        print(f"Failed to {verb} {unit}: Unit {unit} not found.", file=sys.stderr)
        return 5
    if os.geteuid() != 0:
        print(f"Failed to {verb} {unit}: Access denied", file=sys.stderr)
        return 4
    answer = Path(f"/run/systemd/answers/{os.getpid()}")
    with ORDERS.open("w") as orders:
        orders.write(f"{verb} {unit} {answer}\n")
    until = time.monotonic() + PATIENCE
    while not answer.exists():
        if time.monotonic() > until:
            return 1
        time.sleep(0.01)
    answer.unlink()
    return 0


def enable(unit: str) -> int:
    if not (UNITS / unit).exists():
        print(f"Failed to enable unit: Unit file {unit} does not exist.", file=sys.stderr)
        return 1
    WANTED.mkdir(exist_ok=True)
    if not (WANTED / unit).is_symlink():
        (WANTED / unit).symlink_to(UNITS / unit)
    return 0


def disable(unit: str) -> int:
    (WANTED / unit).unlink(missing_ok=True)
    return 0


def is_enabled(unit: str) -> int:
    print("enabled" if (WANTED / unit).is_symlink() else "disabled")
    return 0 if (WANTED / unit).is_symlink() else 1


def is_active(unit: str) -> int:
    state = STATES / unit.replace("sshd.", "ssh.")
    active = state.exists() and Path("/proc", state.read_text()).exists()
    print("active" if active else "inactive")
    return 0 if active else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
