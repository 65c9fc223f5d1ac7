"""Records the logs beside this file: python -m tests.orchestrator.data.keras_logs.record KERAS3 KERAS2.

Both are interpreters: of this project's environment (recorded with Keras 3.15.1 on TensorFlow 2.21), and of
one with tensorflow-cpu 2.15 (Keras 2.15, whose graph mode has the loop and the words of TensorFlow 1.15).
Each log is the whole output of `program.py`, redirected to a file or as a pseudo-terminal shows it; paths of
this machine are taken out. The truth beside it is what the program's own callbacks saw.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
BOTH = (
    "verbose-1", "verbose-2", "callbacks", "scheduler", "crash", "crash-before", "crash-after", "killed",
    "interrupted", "nan", "two-heads", "folds", "no-validation", "examines", "steps-unknown",
    "examines-quietly", "examines-beside", "evaluates", "goes-on", "every-other",
)  # fmt: skip
ON_A_TERMINAL = ("verbose-1", "callbacks", "crash", "examines", "two-heads")
OF_KERAS_2 = ("graph-verbose-1", "graph-verbose-2", "graph-generator")
HOW = {"crash": "failed", "crash-before": "failed", "nan": "failed", "interrupted": "stopped", "killed": None}


def record(name: str, python: str, scenario: str, *, old: bool, terminal: bool) -> None:
    """One log and its truth."""
    with tempfile.TemporaryDirectory() as place:
        truth, log = Path(place) / "truth", Path(place) / "log"
        argv = [python, str(HERE / "program.py"), scenario, str(truth)]
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OLD_KERAS")}
        env |= {"PYTHONUNBUFFERED": "1", "TF_ENABLE_ONEDNN_OPTS": "0", "TERM": "xterm-256color"}
        env |= {"OLD_KERAS": "1"} if old else {"KERAS_BACKEND": "tensorflow"}
        if terminal:
            argv = ["script", "-qefc", shlex.join(argv), "/dev/null"]
        with log.open("wb") as out:
            # Who runs this in the background has it ignore Ctrl-C, and the program would inherit that.
            subprocess.run(
                argv, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=place, env=env,
                check=False, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
        (HERE / f"{name}.log").write_bytes(_without_paths(log.read_bytes(), python, place))
        lines = truth.read_text().splitlines() if truth.exists() else []
        (HERE / f"{name}.json").write_text(json.dumps(_truth(scenario, lines), indent=1) + "\n")
        print(name, (HERE / f"{name}.log").stat().st_size, flush=True)


def _without_paths(log: bytes, python: str, place: str) -> bytes:
    log = re.sub(
        re.escape(str(Path(python).parent.parent)).encode() + rb"[\w./-]*?/site-packages", b"/env", log
    )
    log = log.replace(str(HERE).encode(), b"/work").replace(place.encode(), b"/work")
    return re.sub(rb"(?<=[ \"])(?:/root|/home|/usr|/tmp)/[\w./-]*?(?=/[\w.-]+\")", b"/python", log)


def _truth(scenario: str, lines: list[str]) -> dict[str, object]:
    fits: list[dict[str, object]] = []
    for line in map(json.loads, lines):
        if "fit" in line:
            fits.append({"epochs": line["fit"], "last_epoch": 0, "metrics": {}, "status": "finished"})
        elif "begin" in line:
            fits[-1]["last_epoch"] = line["begin"]
        else:
            fits[-1]["metrics"][str(line["end"])] = line["metrics"]  # type: ignore[index]
    if fits and scenario in HOW:
        fits[-1]["status"] = HOW[scenario]
    return {"scenario": scenario, "fits": fits}


def main() -> None:
    """Record all, or those of the given scenarios."""
    keras_3, keras_2, *only = sys.argv[1:]
    for label, python, old in (("keras3", keras_3, False), ("keras2", keras_2, True)):
        for scenario in (*BOTH, *(OF_KERAS_2 if old else ())):
            if only and scenario not in only:
                continue
            record(f"{label}-{scenario}", python, scenario, old=old, terminal=False)
            if scenario in ON_A_TERMINAL:
                record(f"{label}-{scenario}-terminal", python, scenario, old=old, terminal=True)


if __name__ == "__main__":
    main()
