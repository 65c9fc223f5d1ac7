"""The first process of an instance: starts cloud-init and sshd in their order, and buries the dead.

The first line of standard input is the seed, a JSON object; every further line is an order: `sshd on`,
`sshd off`, `sshd KEYFILE` (answer with another host key), `poweroff`. The end of standard input is a power
cut. What is printed is the console.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

CLOUD_INIT = [sys.executable, "-I", "-S", "/usr/local/lib/cloud/cloud_init.py"]
SSHD_CONFIG = """
ListenAddress {address}
Port 22
PidFile none
HostKey {host_key}
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
PrintMotd no
Subsystem sftp internal-sftp
AcceptEnv LANG LC_*
SetEnv {environment}
"""


class Sshd:
    """The daemon of port 22: running once it is started and for as long as it is allowed."""

    def __init__(self, seed: dict[str, Any]) -> None:
        self.address: str = seed["address"]
        self.environment: dict[str, str] = seed["environment"]
        self.host_key = "/etc/ssh/ssh_host_ed25519_key"
        self.started = False
        self.allowed: bool = seed["sshd"]
        self.pid: int | None = None

    def start(self) -> None:
        self.started = True
        self.settle()

    def order(self, word: str) -> None:
        if word in ("on", "off"):
            self.allowed = word == "on"
            self.settle()
        else:
            self.host_key = word
            self.kill()

    def settle(self) -> None:
        """What is started and allowed, runs; what is not, does not."""
        if not (self.started and self.allowed):
            self.kill()
        elif self.pid is None:
            words = " ".join(f'"{k}={v}"' for k, v in self.environment.items())
            config = Path("/run/sshd_config")
            config.write_text(
                SSHD_CONFIG.format(address=self.address, host_key=self.host_key, environment=words)
            )
            Path("/run/sshd").mkdir(exist_ok=True)
            with Path("/var/log/auth.log").open("ab") as log:
                self.pid = spawn(["/usr/sbin/sshd", "-D", "-e", "-f", str(config)], log)
            Path("/run/sshd.pid").write_text(f"{self.pid}\n")

    def kill(self) -> None:
        """The listener alone: connections that are open stay, as with a closed security group."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    def ended(self) -> None:
        self.pid = None
        time.sleep(0.02)
        self.settle()


def spawn(argv: list[str], log: Any = None) -> int:
    """The process in a session of its own; nobody but `main` waits for it."""
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    process.returncode = 0  # so that subprocess does not wait for it
    return process.pid


def obey(sshd: Sshd) -> None:
    """Take orders until the power goes."""
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "sshd":
            sshd.order(rest)
        elif word == "poweroff":
            sshd.started = False
            power_off()
    os._exit(1)


def power_off() -> None:
    """As systemd does: ask everybody to end, wait for them, then wait no longer."""
    os.kill(-1, signal.SIGTERM)
    for _ in range(100):
        if not any(p.name.isdigit() and p.name != "1" for p in Path("/proc").iterdir()):
            break
        time.sleep(0.02)
    os._exit(0)


def main() -> None:
    seed = json.loads(sys.stdin.readline())
    Path("/run/cloud-init").mkdir()
    Path("/run/cloud-init/seed.json").write_text(json.dumps(seed))
    print(f"{seed['instance']} boots", flush=True)
    sshd = Sshd(seed)
    stage = spawn([*CLOUD_INIT, "init"])
    threading.Thread(target=obey, args=[sshd], daemon=True).start()
    while True:
        try:
            pid, _ = os.wait()
        except ChildProcessError:
            time.sleep(0.02)
            continue
        if pid == stage and not sshd.started:
            sshd.start()
            stage = spawn([*CLOUD_INIT, "final"])
        elif pid == sshd.pid:
            sshd.ended()


if __name__ == "__main__":
    main()
