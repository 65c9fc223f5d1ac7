"""Records the streams beside this file with the real trainer: python -m tests.orchestrator.data.record.

Each is the whole events.jsonl of one run on a quarter of the demo data; the host's name is taken out.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import eventually
from trainer import clips
from trainer.clips import demo
from trainer.contract import Attempt, Epoch, RunDir, Spec, decode, publish

HERE = Path(__file__).parent
TINY = {"units": 4, "dense1": 8, "dense2": 8}


class Recording:
    """One run, several attempts."""

    def __init__(self, folder: Path, data: Path, **more: Any) -> None:
        self.run = RunDir(folder)
        report = clips.check(data)
        spec = {"data": str(data), "fingerprint": report.fingerprint, "epochs": 4, "batch_size": 16}
        spec |= {"run": folder.name, "recipe": "v9_attention", "params": TINY, "synthetic": True, **more}
        publish(self.run.spec, Spec(**spec).to_json())
        self.attempts = 0

    def attempt(self, until: Callable[[int], int | None] = lambda epochs: None, **more: Any) -> None:
        """Train, and send the signal that `until` answers for the number of epochs trained in it."""
        self.attempts += 1
        asked = Attempt(self.attempts, f"t{self.attempts}", **more)
        publish(self.run.attempts / f"{self.attempts}.json", asked.to_json())
        before = self.epochs()
        trainer = subprocess.Popen(
            [sys.executable, "-m", "trainer", str(self.run.root)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(lambda: trainer.poll() is not None or until(self.epochs() - before), 300)
        if trainer.poll() is None:
            trainer.send_signal(until(self.epochs() - before) or signal.SIGKILL)
        trainer.wait()

    def epochs(self) -> int:
        """How many epoch lines there are."""
        if not self.run.events.exists():
            return 0
        return sum(isinstance(decode(line), Epoch) for line in self.run.events.read_bytes().splitlines())

    def keep(self, name: str) -> None:
        """Put the stream beside this file."""
        text = self.run.events.read_text().replace(json.dumps(os.uname().nodename), '"gpu-box"')
        (HERE / f"{name}.jsonl").write_text(text)


def main() -> None:
    """Record all of them."""
    with tempfile.TemporaryDirectory() as place:
        whole, data = demo.write(Path(place) / "demo"), Path(place) / "data"
        data.mkdir()
        for clip in whole.glob("*_[12].npz"):
            shutil.copy(clip, data)

        finished = Recording(Path(place) / "finished", data)
        finished.attempt()
        finished.keep("finished")

        stopped = Recording(Path(place) / "stopped", data, epochs=6)
        stopped.attempt(lambda epochs: signal.SIGTERM if epochs == 2 else None)
        stopped.attempt(origin="checkpoint")
        stopped.attempt(origin="best", lr=5e-4, more_epochs=2)
        stopped.keep("stopped-resumed-extended")

        killed = Recording(Path(place) / "killed", data)
        killed.attempt(lambda epochs: signal.SIGKILL if epochs == 2 else None)
        with killed.run.events.open("ab") as f:
            f.write(b'{"t": 1749652330.4, "type": "epo')  # as a kill in the middle of a write leaves it
        killed.attempt(origin="checkpoint")
        killed.keep("killed-torn-resumed")

        failed = Recording(Path(place) / "failed", data, fingerprint="0" * 64)
        failed.attempt()
        failed.keep("failed")


if __name__ == "__main__":
    main()
