"""Guard a machine that costs money: it ends by itself, whatever becomes of everybody else.

    guard.py ROOT        as root, from the first boot on; standard library only, Python 3.8 or later

Reads   ROOT/guard/guard.json: run, ttl_minutes, max_cost_usd, usd_per_hour, idle_minutes, after, bucket, ...
        ROOT/runs/*/: heartbeat and events (is there work?), exit.json, collected, mirrored (is it safe?)
        the instance metadata service (IMDSv2): the spot notice and the rebalance recommendation
Writes  ROOT/guard/notice.json: {"cause", "why", "at", "rebalance"}, which the supervisor heeds
        ROOT/guard/state.json: when this boot began, which is what the limits count from
Acts    through `shutdown` alone. One is armed at every moment and put off while there is work, never beyond
        the limits: should this process die, the kernel still ends the machine.

Whether a shutdown stops or terminates the machine was said at its launch; `after` repeats it. Where it
terminates, a machine that holds the only copy of an artifact is not ended for idleness, only by the limits.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

EVERY = 5.0  # seconds between two looks; what AWS advises for the notice
GRACE = 600.0  # seconds before the limit in which a run saves, uploads and comes home
SLACK = 600.0  # seconds by which the armed shutdown lies behind the one we mean to do ourselves
METADATA = "http://169.254.169.254/"
TOKEN_SECONDS = 21600


class Run(NamedTuple):
    """What a run folder says: does it live, when was there work last, is what it made safe elsewhere."""

    alive: bool
    worked: float
    safe: bool


class Decision(NamedTuple):
    """What follows: why runs must end (None: they need not), whether to power off now, and else when."""

    cause: str | None
    why: str
    off: bool
    armed: float


def decide(
    now: float, since: float, config: dict[str, Any], runs: list[Run], worked: float, notice: str | None
) -> Decision:
    """What to do; a pure function. `worked` is when something other than a run was last at work."""
    hard, limit = limits(since, config)
    alive = any(run.alive for run in runs)
    safe = all(run.safe for run in runs) or config["after"] == "stop"
    idle_at = max([since, worked, *(run.worked for run in runs)]) + config["idle_minutes"] * 60
    ends_by_idleness = safe and config["after"] != "keep"
    cause, why = None, ""
    if notice:
        cause, why = "interrupted", notice
    elif now >= hard - min(GRACE, (hard - since) / 4):
        cause, why = "capped", f"the limit of {limit} is reached"
    elif alive and now >= idle_at:
        cause, why = "hung", f"no sign of work for {config['idle_minutes']} minutes"
    over = cause == "capped" and safe and not alive
    off = now >= hard or over or (ends_by_idleness and not alive and now >= idle_at)
    return Decision(cause, why, off, min(hard, idle_at + SLACK) if ends_by_idleness else hard)


def limits(since: float, config: dict[str, Any]) -> tuple[float, str]:
    """When the machine ends at the latest, and which limit says so."""
    seconds, said = config["ttl_minutes"] * 60.0, f"{config['ttl_minutes'] / 60:g} hours"
    if config.get("max_cost_usd") is not None:
        bought = config["max_cost_usd"] / config["usd_per_hour"] * 3600
        if bought < seconds:
            seconds, said = bought, f"{config['max_cost_usd']:g} USD"
    return since + seconds, said


def seen(folder: Path, mirrored: bool) -> Run:
    """One run folder, or what counts while it cannot be read: nothing runs there, and nothing is safe."""
    try:
        return look(folder, mirrored)
    except (KeyError, TypeError, ValueError, OSError):
        return Run(False, 0.0, False)


def look(folder: Path, mirrored: bool) -> Run:
    """One run folder. A live run counts as safe where it is mirrored as it goes."""
    attempt = max([int(p.stem) for p in (folder / "attempts").glob("*.json") if p.stem.isdigit()] or [0])
    process = load(folder / "process.json")
    ended = load(folder / "exit.json").get("attempt") == attempt
    ours = process.get("boot") == boot_id() and process.get("attempt") == attempt
    alive = not ended and ours and started_ticks(process["pid"]) == process["started_ticks"]
    signs = ("heartbeat", "events.jsonl", "train.log", "exit.json", "collected", "mirrored", "attempts")
    safe = mirrored if alive else is_safe(folder, attempt, mirrored)
    return Run(alive, max(changed(folder / name) for name in signs), safe)


def is_safe(folder: Path, attempt: int, mirrored: bool) -> bool:
    """Whether the mirror has all of an ended run, or home has its best set; what left nothing is safe."""
    if text(folder / "mirrored").strip() == str(attempt):
        return True
    artifacts = load(folder / "artifacts" / "manifest.json").get("artifacts") or []
    wanted = {a["sha256"] for a in artifacts if a["of"] == "best"} or {a["sha256"] for a in artifacts}
    return wanted <= set(text(folder / "collected").split()) if wanted else not mirrored


def preparing(root: Path) -> float:
    """When something was last put here: code, an environment that is being made, data that arrive."""
    places = [root, *root.glob("env/*"), *root.glob("objects/*"), *root.glob("data/*")]
    return max(changed(place) for place in places)


class Metadata:
    """The instance metadata service, version 2."""

    def __init__(self) -> None:
        self.endpoint = (os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or METADATA).rstrip("/")
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.token, self.until = "", 0.0

    def get(self, path: str) -> str | None:
        """What lies at a path; None while there is nothing, or no service."""
        try:
            if time.monotonic() >= self.until:
                header = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
                self.token = self.ask("PUT", "api/token", header)
                self.until = time.monotonic() + TOKEN_SECONDS / 2
            return self.ask("GET", "meta-data/" + path, {"X-aws-ec2-metadata-token": self.token})
        except urllib.error.HTTPError as e:
            if e.code == 401:
                self.until = 0.0
            return None
        except (OSError, ValueError):
            return None

    def ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        """One request."""
        url = self.endpoint + "/latest/" + path
        request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310 - http, as AWS has it
        with self.opener.open(request, timeout=2) as answer:
            said: bytes = answer.read(4096)
        return said.decode("utf-8", "replace")

    def notice(self) -> str | None:
        """What the spot notice says, in words; None while there is none."""
        said = self.get("spot/instance-action")
        if said is None:
            return None
        body = parsed(said)
        return f"AWS takes the spot machine back ({body.get('action')} at {body.get('time')})"


class Guard:
    """The loop's memory: what is armed, and what was told."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "guard"
        self.metadata = Metadata()
        self.armed = 0.0
        self.told: dict[str, Any] = {}
        state = load(self.folder / "state.json")
        if state.get("boot") != boot_id():
            with contextlib.suppress(FileNotFoundError):
                (self.folder / "notice.json").unlink()
            state = {"boot": boot_id(), "since": time.time()}
            publish(self.folder / "state.json", state)
        self.booted = float(state["since"])

    def tick(self) -> None:
        """Look once, and act."""
        config = load(self.folder / "guard.json")
        since = max(self.booted, float(config.get("since") or 0.0))
        mirrored = bool(config.get("bucket"))
        runs = [seen(folder, mirrored) for folder in (self.root / "runs").glob("[a-z0-9]*")]
        now = time.time()
        found = decide(now, since, config, runs, preparing(self.root), self.metadata.notice())
        rebalance = self.metadata.get("events/recommendations/rebalance") is not None
        self.tell({"cause": found.cause, "why": found.why, "rebalance": rebalance})
        if found.off:
            say(f"powering off: {found.why or 'nothing to do'}")
            shutdown("now")
        elif abs(found.armed - self.armed) >= 60:
            shutdown(f"+{max(1, int((found.armed - now) / 60))}")
            self.armed = found.armed

    def tell(self, body: dict[str, Any]) -> None:
        """Leave a notice where the supervisor looks; one that is no news is not written again."""
        if body != self.told and (self.told or body["cause"] or body["rebalance"]):
            say(f"notice: {json.dumps(body)}")
            publish(self.folder / "notice.json", {**body, "at": time.time()})
        self.told = body


def shutdown(when: str) -> None:
    """Arm a shutdown in place of the one that is armed; systemd keeps one only. Raises OSError."""
    done = subprocess.run(["shutdown", "-h", when], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"shutdown -h {when}: {done.stderr.strip()}")


def started_ticks(pid: int) -> str | None:
    """When a process started, by the kernel; None for one that is gone or only waits to be reaped."""
    fields = text(Path("/proc") / str(pid) / "stat").rpartition(")")[2].split()
    return fields[19] if fields and fields[0] != "Z" else None


def boot_id() -> str:
    """Differs after every boot."""
    return text(Path("/proc/sys/kernel/random/boot_id")).strip()


def changed(path: Path) -> float:
    """When a file last changed; 0 for none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def text(path: Path) -> str:
    """What a file says; empty for none."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def load(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty for none."""
    return parsed(text(path))


def parsed(said: str) -> dict[str, Any]:
    """The JSON object in a text; empty for none."""
    try:
        body = json.loads(said)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def publish(path: Path, body: dict[str, Any]) -> None:
    """Write aside, then rename, so that nobody reads half a file."""
    aside = path.with_name("." + path.name)
    aside.write_text(json.dumps(body) + "\n")
    aside.chmod(0o644)
    aside.replace(path)


def say(sentence: str) -> None:
    """For the log."""
    print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), sentence, flush=True)  # noqa: T201


def main(argv: list[str]) -> None:
    """Watch for ever. What goes wrong in one look is told, and the next one is taken."""
    guard = Guard(Path(argv[0]))
    while True:
        try:
            guard.tick()
        except Exception as e:  # noqa: BLE001 - whatever it is, an unguarded machine is worse
            say(f"{type(e).__name__}: {e}")
        time.sleep(EVERY)


if __name__ == "__main__":
    main(sys.argv[1:])
