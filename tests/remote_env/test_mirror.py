"""The copy of a run in S3, against moto's server over real HTTP: whole at any moment, and of one writer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from remote_env import mirror
from remote_env.mirror import Mirror, Store, Superseded
from tests.conftest import eventually

ROOT = Path(__file__).parents[2]
BUCKET, REGION = "ec2emo-models", "eu-central-1"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    named = {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "ENDPOINT_URL": endpoint}
    for name, value in named.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    client = boto3.client("s3", region_name=REGION)
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    yield client
    for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=found["Key"])
    client.delete_bucket(Bucket=BUCKET)
    client.close()


@pytest.fixture
def store(s3: Any) -> Iterator[Store]:
    made = Store(BUCKET, "runs/a-run", REGION)
    yield made
    made.client.close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as a trainer leaves it after two epochs."""
    root = tmp_path / ".ec2emo"
    folder = root / "runs" / "a-run"
    (root / "guard").mkdir(parents=True)
    told = {"bucket": BUCKET, "prefix": "runs", "region": REGION}
    (root / "guard" / "guard.json").write_text(json.dumps(told))
    for made in ("attempts", "artifacts", "checkpoints"):
        (folder / made).mkdir(parents=True)
    (folder / "spec.json").write_text('{"uid": "u1"}')
    (folder / "attempts" / "1.json").write_text('{"number": 1}')
    (folder / "events.jsonl").write_bytes(b'{"type": "started"}\n')
    (folder / "train.log").write_bytes(b"")
    (folder / "lock").touch()
    (folder / "process.json").write_text("{}")
    save(folder, 1, best=True)
    save(folder, 2, best=False)
    return folder


def save(folder: Path, epoch: int, *, best: bool) -> None:
    """What the trainer does after an epoch, in its order: files, manifest, event."""
    checkpoint = folder / "checkpoints" / f"epoch-{epoch:04}"
    checkpoint.mkdir()
    (checkpoint / "last.weights.h5").write_bytes(os.urandom(3000))
    if best:
        (folder / "artifacts" / f"best-{epoch:04}").mkdir()
        (folder / "artifacts" / f"best-{epoch:04}" / "weights.h5").write_bytes(os.urandom(2000))
    listed = [
        {"of": of, "path": p.relative_to(folder).as_posix(), "sha256": "-"}
        for of, pattern in (("best", "artifacts/best-*/*"), ("last", f"checkpoints/epoch-{epoch:04}/*"))
        for p in folder.glob(pattern)
    ]
    aside = folder / "artifacts" / ".manifest.json"
    aside.write_text(json.dumps({"artifacts": listed}))
    aside.rename(folder / "artifacts" / "manifest.json")
    with (folder / "events.jsonl").open("ab") as f:
        f.write(json.dumps({"type": "epoch", "epoch": epoch}).encode() + b"\n")


def content(folder: Path) -> dict[str, bytes]:
    left = {"lock", "process.json", "mirrored", "heartbeat", "mirror.log"}
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name not in left
    }


def objects(s3: Any) -> set[str]:
    return {found["Key"] for found in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])}


def test_what_comes_back_is_what_went(run: Path, store: Store, tmp_path: Path) -> None:
    Mirror(run, store).sync()
    back = tmp_path / "elsewhere" / "a-run"
    assert mirror.restore(back, store) == len(content(run))
    assert content(back) == content(run)


def test_what_is_there_is_not_restored_over(run: Path, store: Store) -> None:
    Mirror(run, store).sync()
    (run / "events.jsonl").write_bytes(b"newer\n")
    assert mirror.restore(run, store) is None
    assert (run / "events.jsonl").read_bytes() == b"newer\n"


def test_of_a_growing_file_only_the_end_is_sent_again(
    run: Path, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mirror, "GROWING_PIECE", 1000)
    log = run / "train.log"
    log.write_bytes(os.urandom(10_500))
    one = Mirror(run, store)
    one.sync()
    sent: list[int] = []
    add = store.add

    def counting(digest: str, data: bytes) -> None:
        sent.append(len(data))
        add(digest, data)

    monkeypatch.setattr(store, "add", counting)
    with log.open("ab") as f:
        f.write(b"one more line\n")
    one.sync()
    assert sent == [514]
    one.sync()
    assert sent == [514]
    mirror.restore(tmp_path / "back", store)
    assert (tmp_path / "back" / "train.log").read_bytes() == log.read_bytes()


def test_what_no_index_names_any_more_goes(run: Path, store: Store, s3: Any) -> None:
    one = Mirror(run, store)
    one.sync()
    before = objects(s3)
    save(run, 3, best=True)
    for old in (run / "checkpoints" / "epoch-0001", run / "artifacts" / "best-0001"):
        for path in old.iterdir():
            path.unlink()
        old.rmdir()
    manifest = run / "artifacts" / "manifest.json"
    listed = [a for a in json.loads(manifest.read_text())["artifacts"] if "best-0001" not in a["path"]]
    manifest.write_text(json.dumps({"artifacts": listed}))
    one.sync()
    index, _ = store.index()
    named = {f"runs/a-run/objects/{digest}" for digest in mirror.named_in(index)}
    assert objects(s3) == named | {"runs/a-run/index.json"}
    assert before - objects(s3)


def test_killed_between_any_two_requests_the_copy_is_whole_and_the_next_attempt_cleans_up(
    run: Path, store: Store, s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    for death in range(1, 30):
        (run / "train.log").write_bytes(os.urandom(50))
        left = death
        request = store.client._make_api_call

        def dying(operation: str, body: dict[str, Any]) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return request(operation, body)  # noqa: B023

        one = Mirror(run, store)
        one.attempt = death
        monkeypatch.setattr(store.client, "_make_api_call", dying)
        try:
            one.sync()
        except Killed:
            pass
        finally:
            monkeypatch.setattr(store.client, "_make_api_call", request)
        index, _ = store.index()
        if index:
            back = tmp_path / f"back-{death}"
            mirror.restore(back, store)
            assert len(content(back)) == len(index["files"])
        if left > 0:
            break
    assert left > 0, "no sync came through"
    assert death > 8
    named = {f"runs/a-run/objects/{digest}" for digest in mirror.named_in(index)}
    assert objects(s3) == named | {"runs/a-run/index.json"}


def test_a_lost_answer_is_no_second_writer(run: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Mirror(run, store)
    one.sync()
    save(run, 3, best=False)
    swap, lost = store.swap, [True]

    def losing(body: dict[str, Any], etag: str | None) -> str | None:
        answer = swap(body, etag)
        return None if lost and lost.pop() else answer

    monkeypatch.setattr(store, "swap", losing)
    one.sync()
    save(run, 4, best=False)
    one.sync()
    index, _ = store.index()
    assert index
    assert any("epoch-0004" in path for path in index["files"])


def test_an_earlier_attempt_that_comes_back_writes_nothing(run: Path, store: Store, s3: Any) -> None:
    old = Mirror(run, store)
    old.sync()
    (run / "attempts" / "2.json").write_text('{"number": 2}')
    Mirror(run, store).sync()
    before = {key: s3.head_object(Bucket=BUCKET, Key=key)["ETag"] for key in objects(s3)}
    (run / "train.log").write_bytes(b"from a machine that was paused for two minutes\n")
    with pytest.raises(Superseded, match="attempt 2"):
        old.sync()
    index, _ = store.index()
    assert index
    assert index["attempt"] == 2
    assert {key: s3.head_object(Bucket=BUCKET, Key=key)["ETag"] for key in before} == before


def test_another_run_of_that_name_is_left_alone(run: Path, store: Store) -> None:
    Mirror(run, store).sync()
    (run / "spec.json").write_text('{"uid": "another"}')
    with pytest.raises(Superseded, match="another run"):
        Mirror(run, store).sync()


def test_a_file_that_is_replaced_while_it_is_read_makes_no_mixed_copy(run: Path, store: Store) -> None:
    """The manifest lists what the trainer has just pruned: the next look has the newer one."""
    manifest = run / "artifacts" / "manifest.json"
    body = json.loads(manifest.read_text())
    body["artifacts"].append({"of": "best", "path": "artifacts/best-0009/weights.h5", "sha256": "-"})
    manifest.write_text(json.dumps(body))
    with pytest.raises(mirror.Changed):
        Mirror(run, store).sync()
    assert store.index() == (None, None)


def test_a_copy_comes_to_its_end_while_the_trainer_saves_and_prunes_faster_than_it_is_sent(
    run: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_first = content(run)
    add = Store.add
    epochs = iter(range(3, 100))

    def slow(self: Store, digest: str, data: bytes) -> None:
        epoch = next(epochs)
        save(run, epoch, best=True)
        shutil.rmtree(run / "checkpoints" / f"epoch-{epoch - 2:04}")
        for former in set((run / "artifacts").glob("best-*")) - {run / "artifacts" / f"best-{epoch:04}"}:
            shutil.rmtree(former)
        add(self, digest, data)

    monkeypatch.setattr(Store, "add", slow)
    Mirror(run, store).sync()
    monkeypatch.undo()
    mirror.restore(tmp_path / "back", store)
    assert content(tmp_path / "back") == at_first


def test_it_keeps_on_until_the_exit_record_and_then_says_that_all_is_there(
    run: Path, store: Store, tmp_path: Path
) -> None:
    argv = [sys.executable, "-P", "-m", "remote_env.mirror", "keep", str(run)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, env=env) as keeper:
        eventually(lambda: store.index()[0])
        time.sleep(0.2)
        assert not (run / "mirrored").exists()
        save(run, 3, best=False)
        (run / ".exit.json").write_text('{"attempt": 1, "cause": "interrupted"}')
        began = time.monotonic()
        (run / ".exit.json").rename(run / "exit.json")
        eventually((run / "mirrored").exists)
        assert time.monotonic() - began < 5
        assert keeper.wait(10) == 0
    index, _ = store.index()
    assert index
    assert index["over"] is True
    mirror.restore(tmp_path / "back", store)
    assert content(tmp_path / "back") == content(run)


def test_while_s3_does_not_answer_it_tries_again(run: Path, s3: Any, tmp_path: Path) -> None:
    argv = [sys.executable, "-P", "-m", "remote_env.mirror", "keep", str(run)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    (run / "exit.json").write_text('{"attempt": 1}')
    said = tmp_path / "said"
    with said.open("wb") as out, subprocess.Popen(argv, env=env, stdout=out) as keeper:
        eventually(lambda: "another try" in said.read_text())
        assert keeper.poll() is None
        assert not (run / "mirrored").exists()
        keeper.kill()
