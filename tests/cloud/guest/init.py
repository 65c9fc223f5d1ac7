"""The first process of an instance: what systemd and sshd's unit do, in cloud-init's order.

The first line of standard input is the seed, a JSON object; every further line is an order: `sshd on`,
`sshd off`, `sshd KEYFILE` (answer with another host key), `poweroff`. The end of standard input is a power
cut. What is printed is the console.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CLOUD_INIT = [sys.executable, "-I", "-S", "/usr/local/lib/cloud/cloud_init.py"]
ORDERS = Path("/run/initctl")
STATES = Path("/run/systemd/units")
WANTED = Path("/etc/systemd/system/multi-user.target.wants")
SSH = "ssh.service"
PATIENCE = 20.0  # seconds that processes have to end in when they are asked to
SSHD = ["/usr/sbin/sshd", "-D", "-e", "-f", "/run/sshd_config"]
SSHD_CONFIG = """
ListenAddress {address}
Port 22
PidFile none
HostKey {host_key}
AuthorizedKeysFile .ssh/authorized_keys /run/instance-connect/%u
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


class Services:
    """Processes that are kept alive: sshd, and the units of /etc/systemd/system. Only `main` buries them."""

    def __init__(self, seed: dict[str, Any]) -> None:
        self.environment = {"PATH": PATH, "LANG": "C.UTF-8", **seed["environment"]}
        self.address: str = seed["address"]
        self.host_key = "/etc/ssh/ssh_host_ed25519_key"
        self.open: bool = seed["sshd"]  # whether anyone may reach port 22
        self.pids: dict[str, int] = {}
        self.wanted: set[str] = set()
        self._lock = threading.RLock()
        self._configure_sshd()

    def start(self, name: str) -> None:
        with self._lock:
            self.wanted.add(name)
            if name not in self.pids and (name != SSH or self.open):
                self.pids[name] = self._spawn(name)
                (STATES / name).write_text(str(self.pids[name]))

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Returns when it is gone."""
        with self._lock:
            self.wanted.discard(name)
            pid = self.pids.get(name)
        if pid is not None:
            os.kill(pid, how)
            while self.pids.get(name) == pid:
                time.sleep(0.005)

    def restart(self, name: str) -> None:
        self.stop(name)
        self.start(name)

    def reload(self, name: str) -> None:
        with self._lock:
            if name in self.pids:
                os.kill(self.pids[name], signal.SIGHUP)

    def ended(self, pid: int) -> None:
        """Called for every process that ends: one that is wanted begins again, as its unit says."""
        with self._lock:
            name = next((n for n, p in self.pids.items() if p == pid), None)
            if name is None:
                return
            del self.pids[name]
            (STATES / name).unlink()
        service = _service(name) if name != SSH else {"restart": "always", "restartsec": "0.1"}
        if name in self.wanted and service.get("restart", "no") != "no":
            pause = float(service.get("restartsec", "0.1").rstrip("s"))
            threading.Timer(pause, lambda: name in self.wanted and self.start(name)).start()

    def firewall(self, word: str) -> None:
        """The listener alone comes and goes: connections that are open stay."""
        if word in ("on", "off"):
            self.open = word == "on"
        else:
            self.host_key = word
        if SSH in self.wanted:
            self.stop(SSH, signal.SIGKILL)
            self.start(SSH)

    def _spawn(self, name: str) -> int:
        if name == SSH:
            self._configure_sshd()
            return spawn(SSHD, Path("/var/log/auth.log"), self.environment)
        service = _service(name)
        argv = shlex.split(service["execstart"])
        environment = dict(self.environment)
        for line in service.get("environment", "").splitlines():
            environment |= dict(word.split("=", 1) for word in shlex.split(line))
        if user := service.get("user"):
            argv = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--", *argv]
        return spawn(argv, Path("/var/log", f"{name}.log"), environment, service.get("workingdirectory", "/"))

    def _configure_sshd(self) -> None:
        words = " ".join(f'"{k}={v}"' for k, v in self.environment.items())
        config = SSHD_CONFIG.format(address=self.address, host_key=self.host_key, environment=words)
        Path("/run/sshd_config").write_text(config)


def _service(name: str) -> dict[str, str]:
    """The [Service] section of a unit; keys in small letters, repeated ones on several lines."""
    lines: dict[str, str] = {}
    section = ""
    for raw in Path("/etc/systemd/system", name).read_text().splitlines():
        line = raw.strip()
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            key = key.strip().lower()
            lines[key] = f"{lines[key]}\n{value.strip()}" if key in lines else value.strip()
    return lines


def spawn(argv: list[str], log: Path | None, environment: dict[str, str], cwd: str = "/") -> int:
    """A process in a session of its own, which nobody but `main` waits for."""
    with (log or Path("/dev/null")).open("ab") as said:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=said if log else None,
            stderr=said if log else None,
            env=environment,
            cwd=cwd,
            start_new_session=True,
        )
    process.returncode = 0  # so that subprocess does not wait for it
    return process.pid


def obey_cloud(services: Services) -> None:
    """Orders from outside, until the power goes."""
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "sshd":
            services.firewall(rest)
        elif word == "poweroff":
            services.wanted.clear()
            power_off()
    os._exit(1)


def obey_systemctl(services: Services) -> None:
    """Orders from inside: verb, unit, and where to answer."""
    while True:
        for line in ORDERS.read_text().splitlines():
            verb, unit, answer = line.split()
            getattr(services, verb)(SSH if unit == "sshd.service" else unit)
            Path(answer).touch()


def obey_console(services: Services) -> None:
    """What is written to /dev/console is printed, as by the kernel's driver of a serial line."""
    line = os.open("/dev/console", os.O_RDWR)  # also for writing, so that it never comes to its end
    while said := os.read(line, 4096):
        os.write(1, said)


def power_off() -> None:
    """As systemd does: ask everybody to end, wait for them, then wait no longer."""
    os.kill(-1, signal.SIGTERM)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if not any(p.name.isdigit() and p.name != "1" for p in Path("/proc").iterdir()):
            break
        time.sleep(0.02)
    os._exit(0)


def buried() -> Iterator[int]:
    """Every process that ends, whoever started it."""
    while True:
        try:
            yield os.wait()[0]
        except ChildProcessError:
            time.sleep(0.02)


def main() -> None:
    seed = json.loads(sys.stdin.readline())
    for folder in ("/run/cloud-init", "/run/sshd", "/run/instance-connect", "/run/systemd/system"):
        Path(folder).mkdir(parents=True)
    for folder in (STATES, Path("/run/systemd/answers")):
        folder.mkdir()
    os.mkfifo(ORDERS, 0o600)
    Path("/run/cloud-init/seed.json").write_text(json.dumps(seed))
    words = (f"{k}={shlex.quote(v)}\n" for k, v in seed["environment"].items())
    Path("/etc/environment").write_text("".join(words))
    print(f"{seed['instance']} boots", flush=True)
    services = Services(seed)
    stage = spawn([*CLOUD_INIT, "init"], None, services.environment)
    for obey in (obey_cloud, obey_systemctl, obey_console):
        threading.Thread(target=obey, args=[services], daemon=True).start()
    for pid in buried():
        services.ended(pid)
        if pid == stage and not services.wanted:
            for name in [SSH, *(p.name for p in sorted(WANTED.glob("*.service")))]:
                services.start(name)
            stage = spawn([*CLOUD_INIT, "final"], None, services.environment)


if __name__ == "__main__":
    main()
