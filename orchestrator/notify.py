"""Tell a person who looked away that a run is over: a bell, and a command or an address of theirs.

Never from `ec2emo.toml`: a file that came with somebody's project must not say what is run here.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Self

from orchestrator import view
from orchestrator.errors import BadRequest
from orchestrator.progress import METRIC, Snapshot
from orchestrator.published import Answer, answer
from trainer import contract

VARIABLE = "EC2EMO_NOTIFY"
PATIENCE = 30.0  # seconds
SCHEMES = ("https://", "http://")


@dataclass(frozen=True)
class Notice:
    """What is to be done when it is over; `how` is a command, an address, or None for the bell alone."""

    how: str | None

    @classmethod
    def wanted(cls, notify: bool, how: str | None, *, follow: bool) -> Self | None:
        """As asked on the command line, and in the environment. Raises BadRequest."""
        if not (notify or how):
            return None
        if not follow:
            raise BadRequest("--notify waits for the end of a run: add --follow")
        return cls(how or os.environ.get(VARIABLE) or None)

    def give(self, snapshot: Snapshot) -> None:
        """Ring, and tell. What goes wrong is said, and changes nothing else."""
        view.bell()
        if self.how is None:
            return
        body = answer(snapshot)
        try:
            if self.how.lower().startswith(SCHEMES):
                _post(self.how, snapshot, body)
            else:
                _run(self.how, snapshot, body)
        except (OSError, ValueError, subprocess.SubprocessError, urllib.error.URLError) as e:
            view.say(f"nobody could be notified of the end of {snapshot.run.id}: {e}", level="warning")


def _post(address: str, snapshot: Snapshot, body: Answer) -> None:
    """The answer, and `text` in words, which is what chats show of it."""
    sent = json.loads(contract.to_json({"text": _sentence(snapshot), **body}))
    request = urllib.request.Request(  # noqa: S310 - the scheme was looked at
        address, json.dumps(sent).encode(), {"Content-Type": "application/json", "User-Agent": "ec2emo"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE):  # noqa: S310
        pass


def _run(command: str, snapshot: Snapshot, body: Answer) -> None:
    best = body["best"]
    told = {
        "RUN": body["run"],
        "STATE": body["state"],
        "RECIPE": body["recipe"] or "",
        "MACHINE": body["machine"],
        "EPOCH": str(body["epoch"]),
        "BEST": "" if best is None else f"{best['val_accuracy']:.4f}",
        "BEST_EPOCH": "" if best is None else str(best["epoch"]),
        "TEXT": _sentence(snapshot),
    }
    ended = subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, **{f"EC2EMO_{name}": view.plain(value) for name, value in told.items()}},
        input=contract.to_json(body),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    if ended.returncode:
        lines = ended.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
        raise OSError(f"exit code {ended.returncode}, {lines[-1]}")


def _sentence(snapshot: Snapshot) -> str:
    best, verdict = snapshot.progress.best, snapshot.verdict
    found = f", best {METRIC} {best.metrics[METRIC]:.4f} at epoch {best.epoch}" if best else ""
    why = f": {verdict.error}" if verdict.error else ""
    return view.plain(f"{snapshot.run.id} {verdict.state}{found}{why}")
