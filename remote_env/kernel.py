"""What the kernel knows: of processes, of its own start, of memory and disk. Standard library only."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def started_ticks(pid: int) -> str | None:
    """When a process started, by the kernel; tells it from a later one with the same number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        asked = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return asked.stdout.strip() or None


def boot_id() -> str | None:
    """Differs after every boot; None where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def oom_kills() -> int:
    """How many processes the kernel has killed for memory since it booted; 0 where it does not tell."""
    try:
        counters = Path("/proc/vmstat").read_text().split()
        return int(counters[counters.index("oom_kill") + 1])
    except (OSError, ValueError):
        return 0


def free_bytes(folder: Path) -> int | None:
    """Room left where the run lies."""
    try:
        room = os.statvfs(folder)
    except OSError:
        return None
    return room.f_bavail * room.f_frsize
