"""python -m trainer RUN_DIR: one attempt of one run, from `started` to `ended`.

Reads `spec.json` and the latest `attempts/N.json`; writes `events.jsonl`, `checkpoints/`, `artifacts/` and
`tensorboard/`; talks to people on stdout. Exit code 0 when the run finished or was stopped, 1 when it failed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from pathlib import Path

from trainer.contract import Attempt, ContractError, Ended, RunDir, Spec, Started, Status
from trainer.eventlog import EventLog
from trainer.imports import NOT_YET, without
from trainer.training import memory, turn
from trainer.training.beginning import Beginning, begin, best_of
from trainer.training.stopping import RunFailed, Stop, StopRequested

NVIDIA = Path("/proc/driver/nvidia/gpus")


def main(argv: list[str]) -> int:
    """Train; returns the exit code."""
    if len(argv) != 1:
        say("usage: python -m trainer RUN_DIR")
        return 2
    stop = Stop()
    stop.listen()
    run = RunDir(Path(argv[0]).resolve())
    try:
        spec, attempt = Spec.read(run.spec), Attempt.latest(run)
        log = EventLog(run.events)
    except (ContractError, OSError) as e:
        say(f"cannot start: {e}")
        return 1
    except StopRequested:
        return 0
    ended = _attempt(run, spec, attempt, log, stop)
    try:
        log.append(ended)
    except OSError as e:
        say(f"cannot write the end to {run.events}: {e}")
    print(f"{ended.status}: {ended.reason}", flush=True)  # noqa: T201 - the log is for people
    return 1 if ended.status == "failed" else 0


def _attempt(run: RunDir, spec: Spec, attempt: Attempt, log: EventLog, stop: Stop) -> Ended:
    """Train and say how it ended; no exception leaves, whatever it is."""
    try:
        beginning: Beginning | None = None
        try:
            beginning = begin(run, spec, attempt)
        finally:
            log.append(_started(spec, attempt, beginning))
        turn.wait(run, spec.after, log)
        # TensorFlow's C++ side says much that concerns nobody, unless somebody asked for it.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        memory.keep_freed()
        with without(*NOT_YET):
            from trainer.training import fit

        return _ended(run, "finished", fit.train(run, spec, beginning, log, stop))
    except StopRequested as e:
        return _ended(run, "stopped", str(e) or "a stop was asked for before training began")
    except (ContractError, RunFailed) as e:
        return _ended(run, "failed", str(e))
    except ImportError as e:
        traceback.print_exc()
        return _ended(run, "failed", f"the environment is broken, {type(e).__name__}: {_line(e)}")
    except Exception as e:  # noqa: BLE001 - the border: whatever it is, it becomes one line, and the log has all
        traceback.print_exc()
        return _ended(run, "failed", f"{type(e).__name__}: {_line(e)}")
    finally:
        stop.at_once = False


def _started(spec: Spec, attempt: Attempt, beginning: Beginning | None) -> Started:
    return Started(
        t=time.time(),
        attempt=attempt.number,
        first_epoch=beginning.first_epoch if beginning else 1,
        epochs=beginning.epochs if beginning else spec.epochs,
        recipe=spec.recipe,
        host=os.uname().nodename,
        pid=os.getpid(),
        gpus=_gpus(),
    )


def _gpus() -> list[str]:
    """Names of the graphics cards, from the driver's own files: asking nvidia-smi takes a second."""
    names = []
    for file in sorted(NVIDIA.glob("*/information")):
        fields = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
        names.append(fields.get("Model", "unknown").strip())
    return names


def _ended(run: RunDir, status: Status, reason: str) -> Ended:
    """The last word, with the best model as it lies published."""
    best = None
    with contextlib.suppress(ContractError):
        best = best_of(run)
    return Ended(
        t=time.time(),
        status=status,
        reason=reason,
        best_epoch=best.epoch if best else None,
        best=best.value if best else None,
    )


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")


def say(text: str) -> None:
    """Tell people, on stderr."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the log is for people


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
