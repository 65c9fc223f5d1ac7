"""What home knows of runs, without asking a machine: their courses, and how they differ."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator import providers
from orchestrator.lease import Bill
from orchestrator.progress import METRIC, Progress, fold
from orchestrator.run import Run, describe
from orchestrator.store import Store
from trainer.contract import ContractError, decode

# Of a spec, what makes no difference to what is learned.
_NAMES = frozenset({"run", "uid", "contract", "parent", "data"})


@dataclass(frozen=True)
class Known:
    """A run, what was told of it, and the state last heard of with the seconds since; None for never."""

    run: Run
    progress: Progress
    state: str
    heard_seconds: float | None
    bill: Bill | None = None

    def to_dict(self) -> dict[str, Any]:
        """The object `runs --json` prints."""
        best, last = self.progress.best, self.progress.last
        return {
            **describe(self.run),
            "data": self.run.data,
            "state": self.state,
            "best": {"epoch": best.epoch, METRIC: best.metrics[METRIC]} if best else None,
            "epoch": last.epoch if last else 0,
            "epochs": self.progress.epochs or self.run.spec.epochs,
            "age_seconds": max(0.0, time.time() - self.run.created),
            "heard_seconds": self.heard_seconds,
            "cost_usd": self.bill.usd if self.bill else None,
            "synthetic": self.run.spec.synthetic,
        }


def known(store: Store, run: Run) -> Known:
    """One run as it was last heard of."""
    state, heard = store.noted_state(run.id) or ("starting", None)
    since = None if heard is None else max(0.0, time.time() - heard)
    return Known(run, _told(store, run), state, since, providers.bill(store, run))


def _told(store: Store, run: Run) -> Progress:
    try:
        lines = store.dir(run.id).events.read_bytes().split(b"\n")
        return fold(Progress(), map(decode, filter(None, lines[:-1])))
    except (OSError, ContractError):  # a run of a newer ec2emo is listed too, without its figures
        return Progress()


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """What was asked differently, by name: one value for each run, None where it was not asked.

    A parameter that only one of them knows is no difference: it belongs to its recipe.
    """
    asked = [_asked(run) for run in runs]
    names = dict.fromkeys(name for one in asked for name in one)
    values = {name: [one.get(name) for one in asked] for name in names}
    shared = {name: each for name, each in values.items() if sum(name in one for one in asked) > 1}
    return {name: each for name, each in shared.items() if any(v != each[0] for v in each)}


def _asked(run: Run) -> dict[str, Any]:
    spec: Mapping[str, Any] = asdict(run.spec)
    flat = {name: value for name, value in spec.items() if name not in _NAMES | {"params"}}
    return {**flat, **spec["params"], "machine": describe(run)["machine"]}
