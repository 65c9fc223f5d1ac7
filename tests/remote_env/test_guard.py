"""The guard of a machine that costs money: what it decides, as a table; what it does, with real processes.

`shutdown` is a program of the test's own first on the PATH, which writes down how it was called. The instance
metadata service is a small server on loopback that speaks IMDSv2.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import remote_env
from orchestrator import bundle, remote
from orchestrator.run import Run as HomeRun
from orchestrator.shell import LocalShell
from remote_env import guard
from remote_env.guard import Run
from tests.conftest import end_runs, eventually
from trainer.contract import Spec

REMOTE_ENV = Path(remote_env.__file__).parent
MINUTE, HOUR = 60.0, 3600.0
CONFIG = {
    "ttl_minutes": 720,
    "idle_minutes": 30,
    "after": "terminate",
    "max_cost_usd": None,
    "usd_per_hour": 0.526,
}
BOOT = 1_000_000.0
SPOT = "AWS takes the spot machine back (terminate at 2026-01-01T00:02:00Z)"


def live(worked: float, *, mirrored: bool = True) -> Run:
    return Run(alive=True, worked=BOOT + worked, safe=mirrored)


def over(worked: float, *, safe: bool = True) -> Run:
    return Run(alive=False, worked=BOOT + worked, safe=safe)


# When, runs, config -> cause, off, armed (seconds after the boot).
DECISIONS: dict[str, tuple[float, list[Run], dict[str, Any], tuple[str | None, bool, float]]] = {
    "fresh": (0, [], {}, (None, False, 40 * MINUTE)),
    "nobody ever came": (30 * MINUTE, [], {}, (None, True, 40 * MINUTE)),
    "work puts it off": (HOUR, [live(HOUR)], {}, (None, False, 100 * MINUTE)),
    "work that is nowhere else": (HOUR, [live(HOUR, mirrored=False)], {}, (None, False, 12 * HOUR)),
    "a hang": (HOUR, [live(0)], {}, ("hung", False, 40 * MINUTE)),
    "two runs, one works": (HOUR, [live(0), live(HOUR)], {}, (None, False, 100 * MINUTE)),
    "over and safe, in its grace": (HOUR, [over(50 * MINUTE)], {}, (None, False, 90 * MINUTE)),
    "over and safe": (HOUR, [over(30 * MINUTE)], {}, (None, True, 70 * MINUTE)),
    "over, only copy": (HOUR, [over(0, safe=False)], {}, (None, False, 12 * HOUR)),
    "over, only copy, a stop keeps it": (
        HOUR,
        [over(0, safe=False)],
        {"after": "stop"},
        (None, True, 40 * MINUTE),
    ),
    "kept": (10 * HOUR, [over(0)], {"after": "keep"}, (None, False, 12 * HOUR)),
    "kept to the limit": (12 * HOUR, [over(0)], {"after": "keep"}, ("capped", True, 12 * HOUR)),
    "time is nearly up": (11.9 * HOUR, [live(11.9 * HOUR)], {}, ("capped", False, 12 * HOUR)),
    "time is up": (12 * HOUR, [live(12 * HOUR)], {}, ("capped", True, 12 * HOUR)),
    "time is nearly up, all is safe": (
        11.9 * HOUR,
        [over(11.89 * HOUR)],
        {},
        ("capped", True, 12 * HOUR),
    ),
    "money is nearly up": (
        3.9 * HOUR,
        [live(3.9 * HOUR)],
        {"max_cost_usd": 2.104},
        ("capped", False, 4 * HOUR),
    ),
    "money is up": (4 * HOUR, [live(4 * HOUR)], {"max_cost_usd": 2.104}, ("capped", True, 4 * HOUR)),
    "money for more than the time": (
        HOUR,
        [live(HOUR)],
        {"max_cost_usd": 100.0, "ttl_minutes": 90},
        (None, False, 90 * MINUTE),
    ),
    "a limit of minutes leaves most of them": (140, [live(140)], {"ttl_minutes": 3}, ("capped", False, 180)),
    "and they are used": (130, [live(130)], {"ttl_minutes": 3}, (None, False, 180)),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_a_decision_is_a_function_of_what_is_seen(case: str) -> None:
    at, runs, changes, (cause, off, armed) = DECISIONS[case]
    found = guard.decide(BOOT + at, BOOT, {**CONFIG, **changes}, runs, 0.0, None)
    assert (found.cause, found.off, found.armed - BOOT) == (cause, off, pytest.approx(armed))


def test_data_that_arrive_are_work() -> None:
    found = guard.decide(BOOT + HOUR, BOOT, CONFIG, [], BOOT + HOUR - 5, None)
    assert not found.off


def test_a_spot_notice_comes_before_every_other_cause() -> None:
    found = guard.decide(BOOT + 12 * HOUR, BOOT, CONFIG, [live(0)], 0.0, SPOT)
    assert (found.cause, found.why) == ("interrupted", SPOT)


def test_no_shutdown_is_ever_armed_beyond_the_limits() -> None:
    for at in range(0, 13 * 3600, 60):
        for run in (live(at), over(at), over(at, safe=False)):
            for after in ("terminate", "stop", "keep"):
                config = {**CONFIG, "after": after, "max_cost_usd": 4.0}
                found = guard.decide(BOOT + at, BOOT, config, [run], BOOT + at, None)
                assert found.armed <= guard.limits(BOOT, config)[0]
                assert found.off or BOOT + at < guard.limits(BOOT, config)[0]


class Metadata(ThreadingHTTPServer):
    """IMDSv2 as it answers on a machine: a token first, 404 for what is not so."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), MetadataHandler)
        self.leaves: dict[str, str] = {}
        self.tokens: set[str] = set()
        self.without_token = 0
        self.asked = 0


class MetadataHandler(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        if self.path != "/latest/api/token" or "X-aws-ec2-metadata-token-ttl-seconds" not in self.headers:
            return self.answer(400)
        token = f"token-{len(self.server.tokens)}"
        self.server.tokens.add(token)
        return self.answer(200, token)

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.headers["X-aws-ec2-metadata-token"] not in self.server.tokens:
            self.server.without_token += 1
            return self.answer(401)
        leaf = self.server.leaves.get(self.path.removeprefix("/latest/meta-data/"))
        return self.answer(404) if leaf is None else self.answer(200, leaf)

    def answer(self, code: int, body: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    server = Metadata()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Machine:
    """A root folder with a guard's files, a real guard beside it, and runs under real supervisors."""

    def __init__(self, folder: Path, metadata: Metadata) -> None:
        self.root, self.code, programs = folder / ".ec2emo", folder / "code", folder / "bin"
        for made in (self.root / "guard", self.root / "runs", self.code / "trainer", programs):
            made.mkdir(parents=True)
        for name, body in bundle.make().files.items():  # as a deploy sends it, whatever it is split into
            if name.startswith("remote_env/"):
                (self.code / name).parent.mkdir(exist_ok=True)
                (self.code / name).write_bytes(body)
        self.calls = folder / "shutdown-calls"
        (programs / "shutdown").write_text(f'#!/bin/sh\necho "$@" >>{self.calls}\n')
        (programs / "shutdown").chmod(0o755)
        source = (REMOTE_ENV / "guard.py").read_text()
        self.script = self.root / "guard" / "guard.py"
        self.script.write_text(source.replace("EVERY = 5.0", "EVERY = 0.05"))
        supervise = self.code / "remote_env" / "supervise.py"
        supervise.write_text(supervise.read_text().replace("BEAT_SECONDS = 5.0", "BEAT_SECONDS = 0.1"))
        self.env = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{metadata.server_port}/",
            "TMUX_TMPDIR": str(folder),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, **changes: object) -> None:
        aside = self.root / "guard" / ".new"
        aside.write_text(json.dumps({**CONFIG, **changes}))
        aside.replace(self.root / "guard" / "guard.json")

    def guard(self) -> None:
        log = (self.root / "guard" / "guard.log").open("ab")
        argv = [sys.executable, "-IS", str(self.script), str(self.root)]
        self.process = subprocess.Popen(argv, env=self.env, stdout=log, stderr=log)
        log.close()

    def train(self, run: str, program: str) -> Path:
        folder = self.root / "runs" / run
        (self.code / "trainer" / "__main__.py").write_text(program)
        argv = ["sh", str(self.code / "remote_env/launch.sh"), sys.executable, str(folder), str(self.code)]
        argv += [run, json.dumps({"token": run})]
        done = subprocess.run(argv, env=self.env, input=b'{"spec": {}}', capture_output=True, check=False)
        assert b'"started": true' in done.stdout, done
        return folder

    @property
    def shutdowns(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    @property
    def notice(self) -> dict[str, Any]:
        return guard.load(self.root / "guard" / "notice.json")


@pytest.fixture
def machine(tmp_path: Path, metadata: Metadata) -> Iterator[Machine]:
    made = Machine(tmp_path, metadata)
    yield made
    if made.process:
        made.process.kill()
        made.process.wait()
    end_runs(made.root / "runs")
    subprocess.run(["tmux", "kill-server"], env=made.env, stderr=subprocess.DEVNULL, check=False)


STOPS_WHEN_ASKED = """
import signal, sys, time
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
while not stopped:
    time.sleep(0.01)
    print("step", flush=True)
print("saved", flush=True)
"""
HANGS = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""


def test_the_end_is_armed_at_once_and_not_again_while_nothing_changes(machine: Machine) -> None:
    machine.configure()
    machine.guard()
    eventually(lambda: machine.shutdowns)
    time.sleep(0.5)
    assert machine.shutdowns == ["-h +39"]
    assert not machine.notice


def test_a_heartbeat_puts_the_end_off_and_the_limit_does_not_move(machine: Machine) -> None:
    machine.configure(ttl_minutes=60, bucket="a-bucket")
    run = machine.train("works", STOPS_WHEN_ASKED)
    eventually((run / "heartbeat").exists)
    machine.guard()
    eventually(lambda: machine.shutdowns == ["-h +39"])
    later = time.time() + 10 * MINUTE
    os.utime(run / "heartbeat", (later, later))  # as ten minutes of work later
    os.kill(guard.load(run / "process.json")["supervisor"], 9)
    eventually(lambda: machine.shutdowns[1:] == ["-h +49"])
    much_later = time.time() + 300 * MINUTE
    os.utime(run / "heartbeat", (much_later, much_later))
    eventually(lambda: machine.shutdowns[2:] == ["-h +59"])


def test_a_spot_notice_ends_the_run_after_its_batch_and_the_record_says_why(
    machine: Machine, metadata: Metadata
) -> None:
    machine.configure()
    machine.guard()
    run = machine.train("spot", STOPS_WHEN_ASKED)
    metadata.leaves["events/recommendations/rebalance"] = '{"noticeTime": "2026-01-01T00:00:00Z"}'
    eventually(lambda: machine.notice.get("rebalance"))
    assert not machine.notice["cause"]
    metadata.leaves["spot/instance-action"] = '{"action": "terminate", "time": "2026-01-01T00:02:00Z"}'
    eventually((run / "exit.json").exists)
    end = guard.load(run / "exit.json")
    assert (end["cause"], end["why"], end["code"]) == ("interrupted", SPOT, 0)
    assert not end["stopped"]
    assert end["tail"][-1] == "saved"
    assert set(machine.shutdowns) <= {"-h +39", "-h +719"}


def test_the_metadata_service_is_asked_with_a_token_and_a_new_one_once_it_has_lapsed(
    machine: Machine, metadata: Metadata
) -> None:
    machine.configure()
    machine.guard()
    eventually(lambda: metadata.asked > 5)
    assert (metadata.without_token, len(metadata.tokens)) == (0, 1)
    metadata.tokens.clear()
    eventually(lambda: metadata.tokens)
    metadata.leaves["spot/instance-action"] = '{"action": "terminate", "time": "soon"}'
    eventually(lambda: machine.notice.get("cause") == "interrupted")


def test_a_reached_limit_has_the_run_saved_before_the_machine_ends(machine: Machine) -> None:
    machine.configure(max_cost_usd=0.0526)  # six minutes
    machine.guard()
    run = machine.train("capped", STOPS_WHEN_ASKED)
    eventually(lambda: machine.shutdowns == ["-h +5"])
    assert not (run / "exit.json").exists()
    state = guard.load(machine.root / "guard" / "state.json")
    assert machine.process
    machine.process.kill()
    machine.process.wait()
    earlier = {**state, "since": state["since"] - 5 * MINUTE}
    (machine.root / "guard" / "state.json").write_text(json.dumps(earlier))
    machine.guard()
    eventually((run / "exit.json").exists)
    end = guard.load(run / "exit.json")
    assert (end["cause"], end["why"]) == ("capped", "the limit of 0.0526 USD is reached")
    eventually(lambda: machine.shutdowns[-1] == "-h now")
    assert machine.shutdowns[:2] == ["-h +5", "-h +1"]


def test_a_trainer_that_hangs_is_ended_though_it_does_not_listen(machine: Machine) -> None:
    supervise = machine.code / "remote_env" / "supervise.py"
    supervise.write_text(supervise.read_text().replace("HUNG_PATIENCE = 60.0", "HUNG_PATIENCE = 0.2"))
    machine.configure()
    run = machine.train("hangs", HANGS)
    eventually((run / "process.json").exists)
    time.sleep(0.5)  # its start is work
    long_ago = time.time() - HOUR
    (machine.root / "guard" / "state.json").write_text(
        json.dumps({"boot": guard.boot_id(), "since": long_ago})
    )
    for place in (run / "heartbeat", run / "train.log", run / "attempts", machine.root):
        if place.exists():
            os.utime(place, (long_ago, long_ago))
    machine.guard()
    eventually((run / "exit.json").exists)
    end = guard.load(run / "exit.json")
    assert (end["cause"], end["signal"]) == ("hung", "SIGKILL")


def test_a_machine_ends_when_the_work_is_over_and_home(machine: Machine) -> None:
    machine.configure(idle_minutes=0.01)
    run = machine.root / "runs" / "done"
    (run / "artifacts").mkdir(parents=True)
    (run / "attempts").mkdir()
    (run / "attempts" / "1.json").write_text("{}")
    (run / "exit.json").write_text('{"attempt": 1}')
    listed = [{"of": "best", "sha256": "aa"}, {"of": "best", "sha256": "bb"}, {"of": "last", "sha256": "cc"}]
    (run / "artifacts" / "manifest.json").write_text(json.dumps({"artifacts": listed}))
    machine.guard()
    eventually(lambda: machine.shutdowns)
    time.sleep(1.0)
    assert machine.shutdowns == ["-h +719"]
    home = HomeRun(
        "done", Spec("done", "v9_attention", "/d", "f", 1, 8), "ec2", "demo", 1.0, root=str(machine.root)
    )
    remote.note_collected(LocalShell(), home, ["aa"])
    time.sleep(0.3)
    assert machine.shutdowns == ["-h +719"]
    remote.note_collected(LocalShell(), home, ["bb", "cc"])
    eventually(lambda: machine.shutdowns[-1] == "-h now")


def test_new_limits_count_from_when_they_were_granted(machine: Machine) -> None:
    state = {"boot": guard.boot_id(), "since": time.time() - 11.95 * HOUR}
    (machine.root / "guard" / "state.json").write_text(json.dumps(state))
    machine.configure(after="keep")
    run = machine.root / "runs" / "live"
    run.mkdir()
    (run / "events.jsonl").touch()
    machine.guard()
    eventually(lambda: machine.notice.get("cause") == "capped")
    machine.configure(since=time.time(), after="keep")
    eventually(lambda: machine.notice.get("cause") is None)


def test_a_run_that_cannot_be_read_is_no_reason_to_guard_no_more(machine: Machine) -> None:
    machine.configure()
    for name, wrong in (("one", '{"artifacts": [{}]}'), ("two", '{"artifacts": 7}')):
        run = machine.root / "runs" / name
        (run / "artifacts").mkdir(parents=True)
        (run / "artifacts" / "manifest.json").write_text(wrong)
    (machine.root / "runs" / "three").write_text("not even a folder")
    machine.guard()
    eventually(lambda: machine.shutdowns == ["-h +719"])


def test_whatever_goes_wrong_in_one_look_the_next_one_is_taken(machine: Machine) -> None:
    machine.guard()  # there is no guard.json yet
    log = machine.root / "guard" / "guard.log"
    eventually(lambda: "KeyError" in log.read_text())
    machine.configure()
    eventually(lambda: machine.shutdowns == ["-h +39"])


def test_where_no_guard_is_the_supervisor_does_as_ever(machine: Machine) -> None:
    shutil.rmtree(machine.root / "guard")
    run = machine.train("local", STOPS_WHEN_ASKED)
    time.sleep(0.3)
    assert not (run / "heartbeat").exists()
    os.kill(guard.load(run / "process.json")["pid"], 15)
    eventually((run / "exit.json").exists)
    assert guard.load(run / "exit.json")["cause"] is None
