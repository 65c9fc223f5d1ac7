"""How this machine is doing: GPUs, memory, load. Standard library only; Python 3.9 or later.

For `supervise.py status --health`. What cannot be measured is None; nothing here may hang or fail.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

NVIDIA_PATIENCE = 5.0  # seconds; with a broken driver nvidia-smi never ends
# What nvidia-smi is asked for, in our words, and by how much its units are smaller than ours.
NVIDIA = {
    "name": ("name", None),
    "use": ("utilization.gpu", 1),
    "memory_used": ("memory.used", 1 << 20),
    "memory_total": ("memory.total", 1 << 20),
    "temperature": ("temperature.gpu", 1),
    "power": ("power.draw", 1),
    "power_limit": ("power.limit", 1),
}


def health(run_dir: Path) -> dict[str, Any]:
    """How the machine is doing: GPUs, memory in bytes, load over a minute, and when the log last grew."""
    found, why = gpus()
    memory = memory_bytes()
    try:
        log = (run_dir / "train.log").stat()
    except OSError:
        log = None
    return {
        "gpus": found,
        "no_gpus": why,
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "memory_total": memory.get("MemTotal"),
        "memory_available": memory.get("MemAvailable"),
        "log_bytes": log.st_size if log else 0,
        "log_grew": log.st_mtime if log and log.st_size else None,
    }


def gpus() -> tuple[list[dict[str, Any]], str | None]:
    """What nvidia-smi says of each GPU; without any, why."""
    query = ",".join(field for field, _ in NVIDIA.values())
    argv = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = asked.communicate(timeout=NVIDIA_PATIENCE)
    except FileNotFoundError:
        return [], "no nvidia-smi"
    except OSError as e:
        return [], f"nvidia-smi: {e.strerror}"
    except subprocess.TimeoutExpired:
        asked.kill()  # and not waited for: what hangs in the driver does not even die
        return [], f"nvidia-smi does not answer within {NVIDIA_PATIENCE:.0f} s"
    said = out.decode("utf-8", "replace").strip()
    if asked.returncode != 0:
        lines = (said or err.decode("utf-8", "replace")).strip().splitlines()
        return [], f"nvidia-smi: {lines[0] if lines else f'exit code {asked.returncode}'}"
    rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines()]
    found = [gpu(row) for row in rows if len(row) == len(NVIDIA)]
    return found, None if found else "nvidia-smi knows of none"


def gpu(row: list[str]) -> dict[str, Any]:
    """One GPU; what it does not measure, `[N/A]` in nvidia-smi's words, is None."""
    one: dict[str, Any] = {}
    for i, (name, (_, unit)) in enumerate(NVIDIA.items()):
        cell = row[i]
        try:
            one[name] = cell if unit is None else float(cell) if unit == 1 else int(cell) * unit
        except ValueError:
            one[name] = None
    return one


def memory_bytes() -> dict[str, int]:
    """The kernel's figures on memory; none where it does not tell."""
    try:
        lines = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
        return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines}
    except (OSError, ValueError, IndexError):
        return {}
