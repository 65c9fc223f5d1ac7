"""What `deploy --plan` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator import bundle, data, float16, providers
from orchestrator.providers import Wish
from orchestrator.run import Run, describe
from orchestrator.store import Store

if TYPE_CHECKING:
    from trainer.clips import Report


def of(
    store: Store, run: Run, report: Report | None, folds: int | None, wish: Wish, *, narrow: bool
) -> dict[str, Any]:
    """What would be done; `report` is what was seen of the data, None where they lie on the machine."""
    renter = providers.renter(wish.provider)
    return {
        **describe(run),
        "data": run.data,
        "clips": len(report.used) if report else None,
        "bytes": sum(c.bytes for c in report.used) if report else None,
        "travels": _travels(store, run, report, wish, narrow=narrow),
        "synthetic": run.spec.synthetic,
        "split": run.spec.split or None,
        "folds": folds,
        "epochs": run.spec.epochs,
        "batch_size": run.spec.batch_size,
        "seed": run.spec.seed,
        "gpus": run.spec.gpus,
        "params": dict(run.spec.params),
        "code": bundle.make().hash,
        **({"rented": renter.plan(wish, run.terms)} if renter else {}),
    }


def _travels(store: Store, run: Run, report: Report | None, wish: Wish, *, narrow: bool) -> dict[str, Any]:
    """What of the data would be sent: bytes, in how many files and streams, and which run has sent them.

    `bytes_in_float16` is what `--float16` would make of them, and null where they are that already.
    """
    nothing = {"bytes": 0, "files": 0, "streams": 0, "sent_for": None, "bytes_in_float16": None}
    if report is None or wish.provider == "local":
        return nothing
    less = None if float16.is_narrow(report) else sum(float16.bytes_of(c) for c in report.used)
    if sender := data.sender(store, run):
        return {**nothing, "sent_for": sender, "bytes_in_float16": None if narrow else less}
    whole = sum(c.bytes for c in report.used)
    return {
        **nothing,
        "bytes": less if narrow and less else whole,
        "files": len(report.used),
        "streams": 1,
        "bytes_in_float16": None if narrow else less,
    }
