"""What is written is what is read; what cannot be read is said to be so, and no reader dies of it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.progress import Progress, fold
from tests.conftest import eventually
from tests.disks import fill, small_disk
from trainer import contract
from trainer.contract import (
    Artifact,
    Attempt,
    ContractError,
    Dataset,
    Ended,
    Epoch,
    Manifest,
    Note,
    RunDir,
    Saved,
    Spec,
    Started,
    Unknown,
    decode,
    encode,
)

SPEC = Spec("a-run", "v9_attention", "/data/ü 1", "f" * 64, 30, 32, {"units": 64, "deep": {"x": [1]}})
ARTIFACT = Artifact("best", "weights", "best_v9.weights.h5", "artifacts/best-0001/w.h5", 10, "0" * 64, 1)
EVENTS: list[contract.AnyEvent] = [
    Started(
        t=1.5, attempt=2, first_epoch=4, epochs=30, recipe="v9_attention", host="h", pid=7, gpus=["A10G"]
    ),
    Dataset(
        t=2.0,
        files=10,
        used=9,
        skipped=1,
        train=7,
        val=2,
        frames=221,
        dim=768,
        classes=["angry", "calm"],
        counts={"angry": 4, "calm": 5},
        fingerprint="ab",
        split="speaker",
        speakers=3,
        shared_speakers=0,
        synthetic=True,
    ),
    Epoch(t=3.0, epoch=4, metrics={"loss": 1.8, "val_accuracy": None}, lr=3e-4, seconds=40.9),
    Saved(t=4.0, role="weights", path="artifacts/best-0004/w.h5", epoch=4, value=0.36),
    Note(t=5.0, text='say "aha" \\ \n\x1b[31m ü', level="warning"),
    Ended(t=6.0, status="finished", reason="early stopping", best_epoch=4, best=0.36),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FIELDS = sorted({name for e in EVENTS for name in asdict(e)} | {"type", "contract"})


# Events


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: e.type)
def test_an_event_is_one_line_of_ascii_that_reads_back_as_itself(event: contract.AnyEvent) -> None:
    line = encode(event)
    assert line.isascii()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert {"t", "type"} <= set(json.loads(line))
    assert decode(line) == event


def test_the_examples_of_the_wire_are_read() -> None:
    """As docs/design.md states version 1."""
    lines = b"""\
{"t": 1749652330.4, "type": "started", "attempt": 1, "first_epoch": 1, "epochs": 30, "contract": "1.0", \
"recipe": "v9_attention", "host": "h", "gpus": ["A10G"]}
{"t": 1, "type": "epoch", "epoch": 1, "metrics": {"loss": 1.82, "val_loss": 1.71}, "lr": 3e-4, "seconds": 41}
{"t": 1, "type": "saved", "role": "weights", "path": "artifacts/b.weights.h5", "epoch": 1, "value": 0.36}
{"t": 1, "type": "ended", "status": "finished", "best_epoch": 18, "best": 0.544, "reason": "early stopping"}
"""
    assert [type(decode(line)) for line in lines.splitlines()] == [Started, Epoch, Saved, Ended]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_become_null(number: float) -> None:
    event = Epoch(t=1.0, epoch=1, metrics={"loss": number, "accuracy": 0.5}, lr=number, seconds=1.0)
    seen = decode(encode(event))
    assert seen == replace(event, metrics={"loss": None, "accuracy": 0.5}, lr=None)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e400"])
def test_numbers_that_are_not_finite_are_null_for_the_reader_too(number: bytes) -> None:
    """Python's reader takes NaN and 1e400, and a NaN that comes first stays the best of all."""
    line = b'{"t": 1, "type": "epoch", "epoch": 1, "metrics": {"val_accuracy": %b}, "lr": 1, "seconds": 1}'
    seen = decode(line % number)
    assert isinstance(seen, Epoch)
    assert seen.metrics == {"val_accuracy": None}


def test_unknown_types_and_keys_are_passed_over() -> None:
    assert decode(b'{"t": 1, "type": "heartbeat", "x": 1}') == Unknown(
        t=0.0, line='{"t": 1, "type": "heartbeat", "x": 1}'
    )
    assert decode(b'{"t": 1, "type": "note", "text": "a", "later": {"b": 1}}') == Note(t=1, text="a")


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: e.type)
@pytest.mark.parametrize("wrong", [{}, [], [{}], "text", True, None, 10**400, -(2**64)], ids=repr)
def test_a_field_of_the_wrong_type_makes_the_line_unknown(event: contract.AnyEvent, wrong: Any) -> None:
    body = json.loads(encode(event))
    for name in body:
        line = json.dumps({**body, name: wrong}).encode()
        seen = decode(line)
        if not isinstance(seen, Unknown):
            assert getattr(seen, name) == wrong  # where the field may be just that
    assert isinstance(decode(json.dumps({**body, "t": wrong}).encode()), Unknown)


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: e.type)
def test_a_line_cut_anywhere_is_unknown_or_lacks_only_what_has_a_default(event: contract.AnyEvent) -> None:
    line = encode(event).rstrip(b"\n")
    assert all(isinstance(decode(line[:n]), Unknown) for n in range(len(line)))


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_event_or_unknown(line: bytes) -> None:
    decode(line)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON | st.sampled_from(["1.0", 1, 0.5]), max_size=12))
def test_any_object_is_an_event_or_unknown_and_can_be_folded_and_written(body: dict[str, Any]) -> None:
    for kind in [e.type for e in EVENTS]:
        try:
            event = decode(json.dumps({"t": 1.0, **body, "type": kind}).encode())
        except ContractError as e:
            assert "upgrade" in str(e)
            continue
        progress = fold(Progress(), [event, event])
        progress.eta_seconds(2.0)
        assert progress.best is None or math.isfinite(progress.best.metrics["val_accuracy"] or 0)
        encode(event)


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"t":' * 50_000, b'"\\ud800"', b"\xff\xfe", b"1" * 5000])
def test_a_hostile_line_is_unknown(line: bytes) -> None:
    assert isinstance(decode(line), Unknown)


def test_started_of_a_larger_major_is_refused_saying_which_side_to_upgrade() -> None:
    body = json.loads(encode(EVENTS[0]))
    assert isinstance(decode(json.dumps({**body, "contract": "1.7"}).encode()), Started)
    with pytest.raises(ContractError, match=r"speaks contract 2\.0.*upgrade ec2emo on this side"):
        decode(json.dumps({**body, "contract": "2.0", "attempt": "in another form"}).encode())


@pytest.mark.parametrize("version", ["", "x", "1x", 2, None, [], {}, True, "9" * 5000, "-3.0"])
def test_started_with_no_version_at_all_is_unknown(version: Any) -> None:
    body = json.loads(encode(EVENTS[0]))
    assert isinstance(decode(json.dumps({**body, "contract": version}).encode()), Unknown)


# Records


def test_spec_attempt_and_manifest_come_back_as_they_were_written(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    contract.publish(run.spec, SPEC.to_json())
    assert Spec.read(run.spec) == SPEC
    attempt = Attempt(number=2, token="t", origin="best", more_epochs=5, lr=5e-4, params={"units": 3})
    for number in (1, 2, 10):
        contract.publish(run.attempts / f"{number}.json", replace(attempt, number=number).to_json())
    contract.publish(run.attempts / "²³.json", b"not ours")
    assert Attempt.latest(run) == replace(attempt, number=10)
    manifest = Manifest(
        "a-run", "v9_attention", "val_accuracy", (ARTIFACT, replace(ARTIFACT, of="last")), {"best": 0.5}
    )
    assert Manifest.parse(manifest.to_json()) == manifest
    assert manifest.of("best") == (ARTIFACT,)


def test_a_run_without_an_attempt_says_who_writes_it(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="the supervisor writes it"):
        Attempt.latest(RunDir(tmp_path))


def test_a_missing_file_is_a_contract_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"spec\.json: No such file"):
        Spec.read(tmp_path / "spec.json")


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 50, b"{", b"[]", b"5", b'"x"', b"null", b"\xff", b"[" * 100_000, b"{}"]
)
def test_a_damaged_record_is_a_contract_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spec.json").write_bytes(content)
    with pytest.raises(ContractError, match=r"spec\.json"):
        Spec.read(tmp_path / "spec.json")
    with pytest.raises(ContractError, match=r"manifest\.json"):
        Manifest.parse(content)


@pytest.mark.parametrize("make", [Spec, Artifact, Attempt], ids=lambda c: c.__name__)
@pytest.mark.parametrize("wrong", [{}, [], "text", 5, 0.5, True, None, 10**400], ids=repr)
def test_a_field_of_the_wrong_type_is_a_contract_error(make: type, wrong: Any) -> None:
    whole = {Spec: SPEC, Artifact: ARTIFACT, Attempt: Attempt(1, "t")}[make]
    body = json.loads(contract.to_json(asdict(whole)))
    assert contract.build(make, body, "x.json") == whole
    for name in body:
        try:
            built = contract.build(make, {**body, name: wrong}, "x.json")
        except ContractError as e:
            assert f"x.json: {name} is " in str(e)
        else:
            assert getattr(built, name) == wrong
    required = next(iter(body))
    with pytest.raises(ContractError):
        contract.build(make, {**body, required: [1]}, "x.json")


@settings(deadline=None)
@given(JSON)
def test_any_json_is_a_record_or_a_contract_error(body: Any) -> None:
    for make in (Spec, Attempt, Artifact, Manifest):
        with pytest.raises(ContractError):
            contract.build(make, body, "x.json")


@settings(deadline=None)
@given(JSON)
def test_any_json_among_the_artifacts_is_a_contract_error(body: Any) -> None:
    with pytest.raises(ContractError):
        Manifest.parse(json.dumps({"run": "r", "artifacts": [body]}).encode())


def test_a_larger_major_is_refused_saying_which_side_to_upgrade(tmp_path: Path) -> None:
    contract.publish(tmp_path / "spec.json", replace(SPEC, contract="2.0").to_json())
    with pytest.raises(ContractError, match=r"spec\.json speaks contract 2\.0.*upgrade ec2emo on this side"):
        Spec.read(tmp_path / "spec.json")
    contract.publish(tmp_path / "spec.json", replace(SPEC, contract="1.99").to_json())
    assert Spec.read(tmp_path / "spec.json").contract == "1.99"


# Publishing


def test_published_again_and_again_and_killed_the_file_is_always_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    program = (
        "import sys; from pathlib import Path; from trainer.contract import publish\n"
        "n = 0\n"
        "while True: n += 1; publish(Path(sys.argv[1]), (str(n) * 100_000).encode())"
    )
    for turn in range(30):
        before = path.stat().st_ino if path.exists() else 0
        writer = subprocess.Popen([sys.executable, "-c", program, str(path)])
        eventually(lambda before=before: path.exists() and path.stat().st_ino != before)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        content = path.read_text()
        number = content[: len(content) // 100_000]
        assert content == number * 100_000, turn


def test_on_a_full_disk_the_old_file_stays_and_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        contract.publish(disk / "a.json", b"old")
        fill(disk)
        with pytest.raises(OSError, match="No space left"):
            contract.publish(disk / "a.json", b"new" * 10_000)
        assert (disk / "a.json").read_bytes() == b"old"
        assert sorted(p.name for p in disk.iterdir()) == [".ballast", "a.json"]


def test_a_published_file_can_be_read_by_others(tmp_path: Path) -> None:
    contract.publish(tmp_path / "new" / "a.json", b"x")
    assert (tmp_path / "new" / "a.json").stat().st_mode & 0o777 == 0o644
