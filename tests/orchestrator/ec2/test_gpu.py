"""A GPU that is paid for must be seen by TensorFlow before anything trains; what was seen is recorded."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import remote, start
from orchestrator.errors import RunFailed
from orchestrator.lease import Lease
from orchestrator.machine import Machine, Terms
from orchestrator.run import Run
from orchestrator.shell import LocalShell
from orchestrator.store import Store
from tests.orchestrator import snapshots

FACTS = remote.Facts(
    "/r", "u", "h", "Linux", "l", 1, True, True, True, 1, 1.0, True, True, True, True, "550.54"
)
TELLING = start.Telling(lambda _: None, lambda done, total: None)
SEES_ONE = {"tensorflow": "2.21.0", "cuda": "12.5.1", "cudnn": "9", "gpus": ["NVIDIA A10G"]}
SEES_NONE = {**SEES_ONE, "gpus": []}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("EC2EMO_HOME", str(tmp_path / "home"))
    return Store()


def rented(store: Store, python: str, kind: str = "g5.xlarge", **terms: Any) -> Run:
    machine = Machine("ec2", host="h", id="i-1", region="us-east-1")
    run = dataclasses.replace(snapshots.run(), machine=machine, terms=Terms(**terms), python=python)
    store.create(run)
    store.keep_lease(
        Lease(
            run=run.id,
            uid="u",
            number=1,
            provider="ec2",
            region="us-east-1",
            owner="me",
            asked=0.0,
            terms=Terms(),
            instance="i-1",
            instance_type=kind,
        )
    )
    return run


def a_python_that_says(tmp_path: Path, seen: dict[str, Any]) -> str:
    """A machine's Python, as far as the question goes."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho greetings\necho '{json.dumps(seen)}'\n")
    program.chmod(0o755)
    return str(program)


def test_what_tensorflow_sees_is_written_down(store: Store, tmp_path: Path) -> None:
    run = rented(store, a_python_that_says(tmp_path, SEES_ONE))
    seen = start._see_gpus(store, run, LocalShell(), FACTS, TELLING)
    assert seen.accelerators == {**SEES_ONE, "driver": "550.54"}
    assert store.load(run.id).accelerators == seen.accelerators


def test_a_gpu_that_is_paid_for_and_not_seen_is_an_error(store: Store, tmp_path: Path) -> None:
    run = rented(store, a_python_that_says(tmp_path, SEES_NONE))
    with pytest.raises(RunFailed, match=r"i-1 is paid for its GPU.*driver 550\.54.*--allow-cpu") as e:
        start._see_gpus(store, run, LocalShell(), FACTS, TELLING)
    assert "ec2emo machines terminate i-1" in str(e.value)
    assert store.load(run.id).accelerators


def test_unless_the_cpu_will_do(store: Store, tmp_path: Path) -> None:
    run = rented(store, a_python_that_says(tmp_path, SEES_NONE), allow_cpu=True)
    assert start._see_gpus(store, run, LocalShell(), FACTS, TELLING).accelerators


@pytest.mark.parametrize(
    ("kind", "has_one"),
    [
        *((kind, True) for kind in ("g4dn.xlarge", "g6e.2xlarge", "gr6.4xlarge", "p5.48xlarge")),
        *((kind, False) for kind in ("c7i.large", "m5.xlarge", "t3.micro", "")),
    ],
)
def test_a_type_tells_whether_it_has_one(store: Store, tmp_path: Path, kind: str, has_one: bool) -> None:
    run = rented(store, a_python_that_says(tmp_path, SEES_NONE), kind)
    if has_one:
        with pytest.raises(RunFailed):
            start._see_gpus(store, run, LocalShell(), FACTS, TELLING)
    else:
        start._see_gpus(store, run, LocalShell(), FACTS, TELLING)


def test_the_question_is_one_that_tensorflow_answers() -> None:
    seen = remote.accelerators(LocalShell(), FACTS, sys.executable)
    assert seen["tensorflow"].startswith("2.")
    assert seen["gpus"] == []
