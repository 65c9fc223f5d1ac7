"""Run one trainer process, record its end, and answer for it. Standard library only; Python 3.9 or later.

    supervise.py begin RUN_DIR TOKEN        < {"spec": {...}}     write the spec; was TOKEN started before?
    supervise.py run RUN_DIR VIA ATTEMPT_JSON CMD...              hold the lock, start CMD, record its end
    supervise.py await RUN_DIR TOKEN                              wait for the word of `run`
    supervise.py status RUN_DIR [--health]
    supervise.py stop RUN_DIR [--kill]

Every verb but `run` prints one JSON object. `run` writes `attempts/N.json`, `process.json`, `exit.json`
and lets the trainer write `train.log`. Whether a run lives is asked of the kernel: supervisor and trainer
share one flock on `lock`, which goes when the last of them does, however it dies.

The names of files repeat those of `trainer.contract`, because this file also runs where that cannot be
imported; a test holds the two together.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # which -I keeps off
from remote_env import health
from remote_env.kernel import boot_id, free_bytes, oom_kills, started_ticks

LOCK_PATIENCE = 2.0  # seconds; `status` may hold the lock for an instant
AWAIT_PATIENCE = 30.0  # seconds from the launch to the supervisor's word
TAIL_BYTES = 4096
RESERVE_BYTES = 16384  # blocks kept for exit.json, so that a full disk cannot hide how a run ended
TAKEN = 75  # EX_TEMPFAIL: somebody else holds the run
BEAT_SECONDS = 5.0  # how often a guarded trainer is looked at
BUSY_SHARE = 0.02  # of one core: less is a trainer that hangs
HUNG_PATIENCE = 60.0  # seconds a trainer that hangs has to heed what it is asked


def main(argv: list[str]) -> int:
    """Do one verb; returns the exit code."""
    verb, run_dir = argv[0], Path(argv[1])
    if verb == "run":
        return run(run_dir, argv[2], json.loads(argv[3]), argv[4:])
    if verb == "begin":
        answer = begin(run_dir, argv[2], json.load(sys.stdin))
    elif verb == "await":
        answer = await_word(run_dir, argv[2])
    elif verb == "status":
        answer = status(run_dir)
        if "--health" in argv[2:]:
            answer["health"] = health.health(run_dir)
    elif verb == "stop":
        answer = stop(run_dir, kill="--kill" in argv[2:])
    else:
        raise SystemExit(f"supervise.py: unknown verb {verb!r}")
    print(json.dumps(answer))  # noqa: T201 - the answer
    return 0


def begin(run_dir: Path, token: str, request: dict[str, Any]) -> dict[str, Any]:
    """Write the spec once; say whether this token was started before, so that a launch can be repeated."""
    (run_dir / "attempts").mkdir(parents=True, exist_ok=True)
    spec = run_dir / "spec.json"
    if not spec.exists():
        publish(spec, request["spec"])
    elif load(spec) != request["spec"]:
        raise SystemExit(f"{spec.parent} is another run's folder: choose another --name")
    number = attempt_of(run_dir, token)
    return {"started": number is not None, "attempt": number}


def run(run_dir: Path, via: str, attempt: dict[str, Any], command: list[str]) -> int:
    """Hold the lock, start the command, wait for it, record how it ended."""
    with contextlib.suppress(OSError):
        os.setsid()  # inside tmux it leads its session already
    for harmless in (signal.SIGHUP, signal.SIGINT):
        signal.signal(harmless, signal.SIG_IGN)  # a closed terminal or a stray Ctrl-C ends no training
    token = attempt["token"]
    lock = take_lock(run_dir, LOCK_PATIENCE)
    if lock is None:
        publish(word_path(run_dir, token), {"started": False, "why": "running"})
        return TAKEN
    if attempt_of(run_dir, token) is not None:
        return 0
    attempt["number"] = number = 1 + max(numbers(run_dir), default=0)
    keep_previous_exit(run_dir, number - 1)
    reserve(run_dir)
    for left in ("stop", "mirrored"):
        (run_dir / left).unlink(missing_ok=True)
    publish(run_dir / "attempts" / f"{number}.json", attempt)

    oom_before, began = oom_kills(), time.time()
    with (run_dir / "train.log").open("ab") as log:
        trainer = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            pass_fds=(lock,),
            start_new_session=True,
        )
    process = {
        "attempt": number,
        "pid": trainer.pid,
        "started_ticks": started_ticks(trainer.pid),
        "supervisor": os.getpid(),
        "since": began,
        "boot": boot_id(),
        "via": via,
    }
    with contextlib.suppress(OSError):  # a full disk must not end what has begun
        publish(run_dir / "process.json", process)
    signal.signal(signal.SIGTERM, lambda *_: ask_to_stop(run_dir, trainer.pid))
    if sys.stdout.isatty():
        threading.Thread(target=show_log, args=(run_dir / "train.log",), daemon=True).start()
    notice = None
    if guard_of(run_dir).exists():
        start_mirror(run_dir, command[0])
        notice = attend(run_dir, trainer)
    code = trainer.wait()
    end = {
        "attempt": number,
        "code": code if code >= 0 else None,
        "signal": signal.Signals(-code).name if code < 0 else None,
        "stopped": (run_dir / "stop").exists(),
        "cause": notice and notice["cause"],
        "why": notice and notice["why"],
        "oom": code == -signal.SIGKILL and oom_kills() > oom_before,
        "ended": time.time(),
        "seconds": time.time() - began,
        "tail": tail(run_dir / "train.log"),
    }
    publish_reserved(run_dir, end)
    return 0


def guard_of(run_dir: Path) -> Path:
    """Where the guard of a rented machine has its files (see guard.py); elsewhere nothing is there."""
    return run_dir.parent.parent / "guard"


def start_mirror(run_dir: Path, python: str) -> None:
    """Have the run copied to S3 where the machine was given a bucket, by a process that outlives this one."""
    if not (load(guard_of(run_dir) / "guard.json") or {}).get("bucket"):
        return
    with (run_dir / "mirror.log").open("ab") as log, contextlib.suppress(OSError):
        argv = [python, "-P", "-m", "remote_env.mirror", "keep", str(run_dir)]
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def attend(run_dir: Path, trainer: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """Wait for the trainer on a guarded machine: a heartbeat while it works, and an end when the guard asks.

    Returns the notice that ended it, None when there was none.
    """
    heeded: dict[str, Any] | None = None
    seen = work_done(run_dir, trainer.pid)
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            trainer.wait(BEAT_SECONDS)
            return heeded
        now = work_done(run_dir, trainer.pid)
        if now[0] != seen[0] or now[1] - seen[1] >= BUSY_SHARE * BEAT_SECONDS:
            with contextlib.suppress(OSError):
                (run_dir / "heartbeat").touch()
        seen = now
        notice = load(guard_of(run_dir) / "notice.json")
        if heeded is None and notice and notice["cause"]:
            heeded = {**notice, "heeded": time.monotonic()}
            with contextlib.suppress(ProcessLookupError):
                os.kill(trainer.pid, signal.SIGTERM)
        elif heeded and heeded["cause"] == "hung" and time.monotonic() - heeded["heeded"] > HUNG_PATIENCE:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(trainer.pid, signal.SIGKILL)


def work_done(run_dir: Path, pid: int) -> tuple[list[int], float]:
    """What grows as a trainer works: its files, in bytes; the seconds it and its children have computed."""
    files = [run_dir / "events.jsonl", run_dir / "train.log"]
    sizes = [file.stat().st_size for file in files if file.exists()]
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sizes, sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return sizes, 0.0


def await_word(run_dir: Path, token: str) -> dict[str, Any]:
    """Wait until `run` has begun this token's attempt or has refused it."""
    word, until = word_path(run_dir, token), time.monotonic() + AWAIT_PATIENCE
    while time.monotonic() < until:
        number = attempt_of(run_dir, token)
        if number is not None and (process_of(run_dir, number) or not status(run_dir)["alive"]):
            return {"started": True, "attempt": number}
        if word.exists():
            answer: dict[str, Any] = load(word) or {"started": False, "why": "unreadable"}
            word.unlink(missing_ok=True)
            return {**answer, "attempt": max(numbers(run_dir), default=None)}
        time.sleep(0.01)
    if (number := attempt_of(run_dir, token)) is not None:
        return {"started": True, "attempt": number}
    return {"started": False, "why": "silent", "tail": tail(run_dir / "supervisor.log")}


def status(run_dir: Path) -> dict[str, Any]:
    """What the kernel and the supervisor know; times are by this machine's clock."""
    lock = take_lock(run_dir, 0) if run_dir.exists() else None
    alive = lock is None and (run_dir / "lock").exists()
    if lock is not None:
        os.close(lock)
    latest = max(numbers(run_dir), default=0)
    end = load(run_dir / "exit.json")
    if end and end["attempt"] != latest:
        end = None
    process = process_of(run_dir, latest)
    return {
        "alive": alive,
        "attempt": latest,
        "process": process,
        "exit": end,
        "rebooted": bool(process and process["boot"] != boot_id()),
        "now": time.time(),
        "disk_free": free_bytes(run_dir),
    }


def stop(run_dir: Path, *, kill: bool) -> dict[str, Any]:
    """Ask the trainer to end after its batch, or end it and all it started at once."""
    now = status(run_dir)
    process = now["process"]
    if not now["alive"]:
        return {"asked": False, "why": "not running"}
    if process is None or started_ticks(process["pid"]) != process["started_ticks"]:
        return {"asked": False, "why": "the trainer's process is not the one recorded"}
    if kill:
        (run_dir / "stop").touch()
        os.killpg(process["pid"], signal.SIGKILL)
    else:
        ask_to_stop(run_dir, process["pid"])
    return {"asked": True, "pid": process["pid"]}


def ask_to_stop(run_dir: Path, pid: int) -> None:
    """Write down that a stop was asked, then ask."""
    with contextlib.suppress(OSError):
        (run_dir / "stop").touch()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def take_lock(run_dir: Path, patience: float) -> int | None:
    """The lock's descriptor, or None while somebody else holds it. The trainer inherits it."""
    fd = os.open(run_dir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(fd)
                return None
            time.sleep(0.01)
        else:
            return fd


def numbers(run_dir: Path) -> list[int]:
    """The numbers of the attempts begun so far."""
    return [int(p.stem) for p in (run_dir / "attempts").glob("*.json") if p.stem.isdigit()]


def attempt_of(run_dir: Path, token: str) -> int | None:
    """The number under which `token` was begun."""
    for number in sorted(numbers(run_dir), reverse=True):
        if (load(run_dir / "attempts" / f"{number}.json") or {}).get("token") == token:
            return number
    return None


def process_of(run_dir: Path, number: int) -> dict[str, Any] | None:
    """The processes of an attempt."""
    process = load(run_dir / "process.json")
    return process if process and process["attempt"] == number else None


def keep_previous_exit(run_dir: Path, number: int) -> None:
    """exit.json is the latest attempt's alone; earlier ones stay beside it."""
    with contextlib.suppress(FileNotFoundError):
        (run_dir / "exit.json").rename(run_dir / f"exit-{number}.json")


def word_path(run_dir: Path, token: str) -> Path:
    """Where a refused start leaves its word for `await`."""
    return run_dir / f".word-{token}.json"


def publish(path: Path, body: dict[str, Any]) -> None:
    """Write aside, then rename, so that nobody reads half a file."""
    fd, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w") as f:
            json.dump(body, f, indent=2)
            f.write("\n")
            f.flush()
            os.fsync(f.fileno())
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def reserve(run_dir: Path) -> None:
    """Keep blocks for the exit record while there is room."""
    (run_dir / ".exit-reserved").write_bytes(b"\n" * RESERVE_BYTES)


def publish_reserved(run_dir: Path, body: dict[str, Any]) -> None:
    """Write the exit record into the reserved blocks, then rename: works on a full disk."""
    held = run_dir / ".exit-reserved"
    with held.open("r+b") as f:
        f.write(json.dumps(body, indent=2).encode()[: RESERVE_BYTES - 1] + b"\n")
        f.truncate()
        f.flush()
        os.fsync(f.fileno())
    held.replace(run_dir / "exit.json")


def load(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file that may not be there."""
    try:
        body = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return body if isinstance(body, dict) else None


def tail(path: Path) -> list[str]:
    """The last lines of a log."""
    try:
        with path.open("rb") as f:
            f.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return f.read().decode("utf-8", "replace").splitlines()[-20:]
    except OSError:
        return []


def show_log(path: Path) -> None:
    """Let who attaches to the tmux session see what the trainer writes."""
    with path.open("rb") as f:
        while True:
            sys.stdout.buffer.write(f.read())
            sys.stdout.flush()
            time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
