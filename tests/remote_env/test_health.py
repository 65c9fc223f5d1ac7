"""How a machine is doing, told by `supervise.py status --health` with programs in nvidia-smi's place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import remote_env

SUPERVISE = Path(remote_env.__file__).parent / "supervise.py"


def health_with(folder: Path, program: str | None) -> dict[str, Any]:
    """What status says with this nvidia-smi on the PATH, or with none."""
    tools, run = folder / "tools", folder / "a-run"
    tools.mkdir()
    run.mkdir()
    if program is not None:
        (tools / "nvidia-smi").write_text(f"#!/bin/sh\n{program}\n")
        (tools / "nvidia-smi").chmod(0o755)
    answer = subprocess.run(
        [sys.executable, "-IS", str(SUPERVISE), "status", str(run), "--health"],
        env={**os.environ, "PATH": f"{tools}:/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    health: dict[str, Any] = json.loads(answer.stdout)["health"]
    return health


def test_gpus_are_told_in_bytes_degrees_and_watts(tmp_path: Path) -> None:
    """The lines are those of nvidia-smi's own --format=csv,noheader,nounits."""
    lines = (
        "NVIDIA A10G, 97, 17457, 23028, 64, 182.43, 300.00\\nTesla K80, [N/A], 11, 11441, 41, [N/A], [N/A]"
    )
    health = health_with(tmp_path, f"printf '{lines}\\n'")
    assert health["no_gpus"] is None
    assert health["gpus"] == [
        {
            "name": "NVIDIA A10G",
            "use": 97.0,
            "memory_used": 17457 << 20,
            "memory_total": 23028 << 20,
            "temperature": 64.0,
            "power": 182.43,
            "power_limit": 300.0,
        },
        {
            "name": "Tesla K80",
            "use": None,
            "memory_used": 11 << 20,
            "memory_total": 11441 << 20,
            "temperature": 41.0,
            "power": None,
            "power_limit": None,
        },
    ]


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (None, "no nvidia-smi"),
        ("echo No devices were found; exit 6", "nvidia-smi: No devices were found"),
        ("echo 'Failed to initialize NVML' >&2; exit 255", "nvidia-smi: Failed to initialize NVML"),
        ("exit 9", "nvidia-smi: exit code 9"),
        ("echo a, b", "nvidia-smi knows of none"),
    ],
)
def test_without_a_gpu_the_reason_is_told(tmp_path: Path, program: str | None, why: str) -> None:
    health = health_with(tmp_path, program)
    assert (health["gpus"], health["no_gpus"]) == ([], why)
    assert health["memory_total"] > health["memory_available"] > 0
    assert health["cpus"] > 0


def test_a_driver_that_hangs_does_not_hang_the_answer(tmp_path: Path) -> None:
    began = time.monotonic()
    health = health_with(tmp_path, "exec sleep 60")
    assert health["no_gpus"] == "nvidia-smi does not answer within 5 s"
    assert time.monotonic() - began < 15
