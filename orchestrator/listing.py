"""All runs at home, as `runs` prints them. What has not changed since the last list is not read again."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.store import Store
from trainer import contract

# A memory with another number is not believed: raise it when `Known.to_dict`, or what it is made of, changes.
FORMAT = 1

KEYS = {"stamp", "created", "heard", "settled", "row"}
Stamp = list[list[int] | None]


def listed(store: Store) -> tuple[list[dict[str, Any]], list[str]]:
    """The object `runs --json` prints for every run, the oldest run first; and the ids of damaged records."""
    memory = store.root / "cache" / "runs.json"
    before = _remembered(memory)
    now: dict[str, dict[str, Any]] = {}
    rows, damaged = [], []
    for run_id in store.ids():
        stamp = _stamp(store, run_id)
        entry = before.get(run_id)
        if not isinstance(entry, dict) or entry.keys() != KEYS or entry["stamp"] != stamp:
            entry = _read(store, run_id, stamp)
        if entry is None:
            damaged.append(run_id)
            continue
        rows.append((entry["created"], run_id, _aged(entry)))
        if entry["settled"]:
            now[run_id] = entry
    if now != before:
        with contextlib.suppress(OSError):
            body = {"contract": contract.VERSION, "format": FORMAT, "runs": now}
            contract.publish(memory, json.dumps(body, separators=(",", ":")).encode())
    return [row for *_, row in sorted(rows, key=lambda each: each[:2])], sorted(damaged)


def _read(store: Store, run_id: str, stamp: Stamp) -> dict[str, Any] | None:
    from orchestrator.history import known  # a list of what has not changed starts sooner without

    readable, _ = store.some([run_id])
    if not readable:
        return None
    one = known(store, readable[0])
    heard = None if one.heard_seconds is None else time.time() - one.heard_seconds
    # What a machine costs grows while it is paid for, with nothing written here.
    settled = one.bill is None or one.bill.usd_per_hour == 0
    created = readable[0].created
    return {"stamp": stamp, "created": created, "heard": heard, "settled": settled, "row": one.to_dict()}


def _aged(entry: Mapping[str, Any]) -> dict[str, Any]:
    now = time.time()
    heard = None if entry["heard"] is None else max(0.0, now - entry["heard"])
    return {**entry["row"], "age_seconds": max(0.0, now - entry["created"]), "heard_seconds": heard}


def _stamp(store: Store, run_id: str) -> Stamp:
    """Inode, bytes and time of change of every file that a row is made of; None for one not there."""
    return [_of(path) for path in store.read_for_lists(run_id)]


def _of(path: str) -> list[int] | None:
    try:
        now = os.stat(path)  # noqa: PTH116 - four for each run, and a Path costs more than the look
    except OSError:
        return None
    return [now.st_ino, now.st_size, now.st_mtime_ns]


def _remembered(memory: Path) -> dict[str, dict[str, Any]]:
    try:
        body = contract.parse_object(memory.read_bytes(), memory.name)
    except (OSError, contract.ContractError):
        return {}
    runs = body.get("runs") if body.get("format") == FORMAT else None
    return runs if isinstance(runs, dict) else {}
