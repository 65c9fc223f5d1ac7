"""A run read from its copy in S3: the same Follower, the same download, without a machine."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import providers
from orchestrator.errors import ContactLost, MachineGone
from orchestrator.fetch import fetch
from orchestrator.follow import Follower
from orchestrator.machine import Machine
from orchestrator.providers.ec2.api import Aws
from orchestrator.providers.ec2.elsewhere import Replica
from orchestrator.run import Asked, Run
from orchestrator.store import Store
from remote_env import mirror
from remote_env.mirror import Mirror
from tests.orchestrator.test_fetch import Remote
from trainer.contract import Ended, Epoch, Started, encode

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

BUCKET, FOLDER = "ec2emo-bucket-x", "/home/ubuntu/.ec2emo/runs/a-run"
TOKEN = Asked("t", 1.0, "c", 1)


@pytest.fixture
def kept(cloud: Cloud, at_home: Store) -> Iterator[mirror.Store]:
    """The bucket, as the machine's half of the code writes to it."""
    cloud.client("s3").create_bucket(Bucket=BUCKET)
    store = mirror.Store(BUCKET, "runs/a-run", cloud.region)
    yield store
    store.client.close()


@pytest.fixture
def there(tmp_path: Path) -> Remote:
    """A run folder as a trainer left it on a machine, with a best and a last set."""
    made = Remote(tmp_path / "machine")
    made.publish(3)
    folder = Path(made.run.folder)
    (folder / "attempts").mkdir()
    (folder / "attempts" / "1.json").write_text('{"number": 1, "token": "t"}')
    (folder / "spec.json").write_text('{"uid": "u1"}')
    return made


def events(*epochs: int) -> bytes:
    told = [encode(Started(t=1.0, attempt=1, first_epoch=1, epochs=9, recipe="v9_attention"))]
    for n in epochs:
        metrics = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.1 * n}
        told.append(encode(Epoch(t=1.0 + n, epoch=n, metrics=metrics, lr=1e-3, seconds=1.0)))
    return b"".join(told)


def rented(run: Run, **changes: Any) -> Run:
    machine = Machine(
        "ec2", host="192.0.2.1", user="ubuntu", id="i-1", region="us-east-1", store=f"s3://{BUCKET}/runs"
    )
    return dataclasses.replace(run, machine=machine, attempts=(TOKEN,), python="/p", **changes)


def gone(_: Machine) -> Any:
    raise MachineGone("i-1 is terminated (Server.SpotInstanceTermination)", interrupted=True)


def silent(_: Machine) -> Any:
    raise ContactLost("i-1 does not answer")


def test_files_are_read_as_from_the_machine(kept: mirror.Store, there: Remote, monkeypatch: Any) -> None:
    monkeypatch.setattr(mirror, "GROWING_PIECE", 100)
    folder = Path(there.run.folder)
    log = bytes(range(256)) * 2
    (folder / "train.log").write_bytes(log)
    Mirror(folder, kept).sync()
    replica = Replica(Aws("us-east-1"), f"s3://{BUCKET}/runs", "a-run", FOLDER)
    for offset in (0, 1, 99, 100, 101, 250, 511, 512, 600):
        whole, at = b"", offset
        while data := replica.read(f"{FOLDER}/train.log", at):
            whole, at = whole + data, at + len(data)
        assert whole == log[offset:]
        into = io.BytesIO()
        replica.get(f"{FOLDER}/train.log", offset, into)
        assert into.getvalue() == log[offset:]
    assert replica.read(f"{FOLDER}/nothing", 0) == b""
    with pytest.raises(FileNotFoundError):
        replica.get(f"{FOLDER}/nothing", 0, io.BytesIO())


def test_a_piece_that_was_replaced_meanwhile_is_read_from_the_newer_copy(
    kept: mirror.Store, there: Remote
) -> None:
    folder = Path(there.run.folder)
    (folder / "train.log").write_bytes(b"one\n")
    writer = Mirror(folder, kept)
    writer.sync()
    replica = Replica(Aws("us-east-1"), f"s3://{BUCKET}/runs", "a-run", FOLDER)
    assert replica.read(f"{FOLDER}/train.log", 0) == b"one\n"
    (folder / "train.log").write_bytes(b"one\ntwo\n")
    writer.sync()
    assert replica.read(f"{FOLDER}/train.log", 0) == b"one\ntwo\n"


def test_without_a_copy_it_says_so(cloud: Cloud, at_home: Store) -> None:
    cloud.client("s3").create_bucket(Bucket=BUCKET)
    replica = Replica(Aws("us-east-1"), f"s3://{BUCKET}/runs", "a-run", FOLDER)
    with pytest.raises(ContactLost, match="nothing of it is there"):
        replica.status()


def test_a_download_from_the_copy_is_verified_as_from_a_machine(
    kept: mirror.Store, there: Remote, tmp_path: Path
) -> None:
    there.publish(7, of="last")
    Mirror(Path(there.run.folder), kept).sync()
    run = rented(there.run)
    replica = providers.replica(run)
    assert replica is not None
    with replica:
        got = fetch(run, replica, "best", tmp_path / "to", lambda done, total: None)
    assert (got.epoch, got.run) == (3, "a-run")
    for artifact in got.files:
        assert (tmp_path / "to" / artifact.name).stat().st_size == artifact.bytes


def test_with_the_machine_gone_the_last_word_is_in_the_copy(
    kept: mirror.Store, there: Remote, at_home: Store
) -> None:
    folder, run = Path(there.run.folder), rented(there.run)
    at_home.create(run)
    (folder / "events.jsonl").write_bytes(events(1, 2))
    writer = Mirror(folder, kept)
    writer.sync()
    # Home had followed for an epoch.
    at_home.dir(run.id).events.write_bytes(events(1))
    seen = Follower(at_home, run, connect=gone).once()
    assert (seen.verdict.state, seen.progress.last and seen.progress.last.epoch) == ("interrupted", 2)

    (folder / "events.jsonl").write_bytes(
        events(1, 2, 3) + encode(Ended(t=9.0, status="stopped", reason="a stop was asked for"))
    )
    (folder / "exit.json").write_text(
        json.dumps({"attempt": 1, "cause": "capped", "why": "the limit of 12 hours"})
    )
    writer.sync(over=True)
    *_, last = Follower(at_home, run, connect=gone).snapshots()
    assert (last.verdict.state, last.verdict.reason) == ("capped", "the limit of 12 hours")
    assert last.progress.last
    assert last.progress.last.epoch == 3
    assert at_home.dir(run.id).events.read_bytes() == (folder / "events.jsonl").read_bytes()


def test_a_machine_that_only_does_not_answer_is_not_taken_for_dead(
    kept: mirror.Store, there: Remote, at_home: Store
) -> None:
    folder, run = Path(there.run.folder), rented(there.run)
    at_home.create(run)
    (folder / "events.jsonl").write_bytes(events(1, 2))
    (folder / "exit.json").write_text(json.dumps({"attempt": 1, "code": 0}))
    Mirror(folder, kept).sync(over=True)
    seen = Follower(at_home, run, connect=silent).once()
    assert seen.verdict.state == "unreachable"
    assert seen.progress.last
    assert seen.progress.last.epoch == 2


def test_a_copy_that_lags_behind_home_takes_nothing_away(
    kept: mirror.Store, there: Remote, at_home: Store
) -> None:
    folder, run = Path(there.run.folder), rented(there.run)
    at_home.create(run)
    (folder / "events.jsonl").write_bytes(events(1))
    Mirror(folder, kept).sync()
    at_home.dir(run.id).events.write_bytes(events(1, 2, 3))
    seen = Follower(at_home, run, connect=gone).once()
    assert seen.progress.last
    assert seen.progress.last.epoch == 3
    assert at_home.dir(run.id).events.read_bytes() == events(1, 2, 3)


def test_the_word_on_an_earlier_attempt_is_none_on_a_later_one(
    kept: mirror.Store, there: Remote, at_home: Store
) -> None:
    folder = Path(there.run.folder)
    later = (TOKEN, dataclasses.replace(TOKEN, token="t2", number=2))
    run = dataclasses.replace(rented(there.run), attempts=later)
    at_home.create(run)
    (folder / "events.jsonl").write_bytes(events(1))
    (folder / "exit.json").write_text(json.dumps({"attempt": 1, "cause": "capped", "why": "the limit"}))
    Mirror(folder, kept).sync(over=True)
    assert Follower(at_home, run, connect=gone).once().verdict.state == "interrupted"
