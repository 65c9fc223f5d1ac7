"""A list of runs says what is so now, though it reads again only what has changed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.lease import Lease
from orchestrator.listing import listed
from orchestrator.machine import Machine, Terms
from orchestrator.run import Run
from orchestrator.store import Store
from trainer.contract import Epoch, Spec, Started, encode


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three runs of two epochs, begun an hour apart."""
    made = Store(tmp_path)
    for number in (3, 1, 2):
        name = f"run-{number}"
        spec = Spec(name, "v9_attention", "/data", "f" * 64, 9, 32)
        began = time.time() - 3600 * (4 - number)
        made.create(Run(name, spec, "local", "/data", began, Machine("local")))
        lines = [Started(1.0, 1, 1, 9, "v9_attention"), epoch(1, 0.5), epoch(2, 0.25)]
        made.dir(name).events.write_bytes(b"".join(map(encode, lines)))
        made.note_state(name, "running", time.time())
    return made


def epoch(number: int, value: float) -> Epoch:
    return Epoch(1.0 + number, number, {"val_accuracy": value}, 1e-3, 1.0)


def row(store: Store, run: str) -> dict[str, Any]:
    (found,) = [row for row in listed(store)[0] if row["run"] == run]
    return found


def without_ages(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in rows]


def test_the_oldest_comes_first_each_time(store: Store) -> None:
    for _ in range(2):
        rows, damaged = listed(store)
        assert [row["run"] for row in rows] == ["run-1", "run-2", "run-3"]
        assert damaged == []


def test_the_second_list_is_the_first_and_older(store: Store) -> None:
    first, second = listed(store)[0], listed(store)[0]
    assert without_ages(second) == without_ages(first)
    for before, after in zip(first, second, strict=True):
        assert after["age_seconds"] > before["age_seconds"] > 3600
        assert after["heard_seconds"] > before["heard_seconds"]


def test_what_has_not_changed_is_not_read_again(store: Store) -> None:
    before = row(store, "run-2")["best"]
    events = store.dir("run-2").events
    now = events.stat()
    events.write_bytes(b" " * now.st_size)
    os.utime(events, ns=(now.st_atime_ns, now.st_mtime_ns))
    assert row(store, "run-2")["best"] == before


def _an_epoch(store: Store) -> None:
    with store.dir("run-2").events.open("ab") as f:
        f.write(encode(epoch(3, 0.75)))


def _a_state(store: Store) -> None:
    store.note_state("run-2", "finished", time.time())


def _a_machine(store: Store) -> None:
    run = store.load("run-2")
    store.save(Run(**{**vars(run), "machine": Machine("attached", host="gpu-box")}))


def _the_end(store: Store) -> None:
    store.dir("run-2").events.unlink()


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        (_an_epoch, "best", {"epoch": 3, "val_accuracy": 0.75}),
        (_a_state, "state", "finished"),
        (_a_machine, "machine", "ssh://gpu-box"),
        (_the_end, "epoch", 0),
    ],
)
def test_what_has_changed_is_seen(
    store: Store, change: Callable[[Store], None], key: str, value: object
) -> None:
    assert row(store, "run-2")[key] != value
    change(store)
    assert row(store, "run-2")[key] == value


def test_what_a_rented_machine_costs_grows_until_it_has_ended(store: Store) -> None:
    run = store.load("run-2")
    machine = Machine("ec2", host="203.0.113.7", id="i-0123456789abcdef0", region="eu-central-1")
    store.save(Run(**{**vars(run), "machine": machine}))
    asked = time.time() - 3600
    lease = Lease(
        "run-2", "u", 1, "ec2", "eu-central-1", "me", asked, Terms(), usd_per_hour=1.0, launched=asked
    )
    store.keep_lease(lease)
    first = row(store, "run-2")["cost_usd"]
    assert first > 1
    time.sleep(0.01)
    assert row(store, "run-2")["cost_usd"] > first
    store.keep_lease(Lease(**{**vars(lease), "ended": asked + 1800}))
    ended = row(store, "run-2")["cost_usd"]
    assert 0.5 < ended < first
    assert row(store, "run-2")["cost_usd"] == ended


def test_a_damaged_record_is_named_and_a_mended_one_listed(store: Store) -> None:
    listed(store)
    record = store.dir("run-2").root / "run.json"
    whole = record.read_bytes()
    record.write_bytes(whole[:-20])
    rows, damaged = listed(store)
    assert ([row["run"] for row in rows], damaged) == (["run-1", "run-3"], ["run-2"])
    record.write_bytes(whole)
    assert [row["run"] for row in listed(store)[0]] == ["run-1", "run-2", "run-3"]


def test_a_run_that_is_gone_is_forgotten(store: Store, tmp_path: Path) -> None:
    listed(store)
    store.dir("run-2").root.rename(tmp_path / "elsewhere")
    listed(store)
    assert set(json.loads((store.root / "cache" / "runs.json").read_bytes())["runs"]) == {"run-1", "run-3"}


@pytest.mark.parametrize(
    "memory",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"format": 1}',
        b'{"format": 1, "runs": []}',
        b'{"format": 1, "runs": {"run-1": 3, "run-2": {"stamp": 1}, "run-3": null}}',
        b'{"format": 0, "runs": {"run-1": {"row": {}}}}',
        b'{"contract": "9.0", "format": 1, "runs": {}}',
    ],
)
def test_a_memory_that_makes_no_sense_is_made_anew(store: Store, memory: bytes) -> None:
    right = without_ages(listed(store)[0])
    (store.root / "cache" / "runs.json").write_bytes(memory)
    assert without_ages(listed(store)[0]) == right


def test_where_nothing_can_be_remembered_the_list_is_right(store: Store) -> None:
    (store.root / "cache").write_bytes(b"not a folder")
    assert [row["run"] for row in listed(store)[0]] == ["run-1", "run-2", "run-3"]
