"""The registry at home: names, damage, full disks, and a kill at every instant."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator import store as stores
from orchestrator.errors import BadRequest
from orchestrator.machine import Machine
from orchestrator.run import Asked, Run, folded
from orchestrator.store import Store
from tests.crashes import crash_points
from tests.disks import fill, read_only, small_disk
from trainer.contract import Spec

MACHINE = Machine("attached", host="gpu.example.org", user="ubuntu", port=2222, key="/k")


def run(name: str = "a-run", **more: object) -> Run:
    spec = Spec(run=name, recipe="v9_attention", data="/d", fingerprint="f" * 64, epochs=3, batch_size=8)
    whole = Run(id=name, spec=spec, where="ssh://gpu.example.org", data="/d", created=1.0)
    return dataclasses.replace(whole, **more)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def test_a_run_comes_back_as_it_was_saved(store: Store) -> None:
    whole = run(
        machine=MACHINE,
        root="/home/ubuntu/.ec2emo",
        python="/p",
        attempts=(Asked("t1", 1.0, "c1", 1), Asked("t2", 2.5, "c2")),
        data="/data/\udcff not utf-8",
    )
    store.create(whole)
    assert store.load("a-run") == whole
    assert store.all() == ([whole], [])


def test_the_home_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EC2EMO_HOME", str(tmp_path / "x"))
    assert Store().root == tmp_path / "x"
    monkeypatch.setenv("EC2EMO_HOME", "relative")
    assert stores.home().is_absolute()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("EC2EMO_HOME")
    assert Store().root.is_relative_to(tmp_path)


def test_without_a_run_there_is_nothing_to_find_and_a_word_on_how_to_begin(store: Store) -> None:
    assert store.all() == ([], [])
    with pytest.raises(BadRequest, match="there is no run yet: 'ec2emo deploy"):
        store.find(None)
    with pytest.raises(BadRequest, match="there is no run called 'x'"):
        store.find("x")


def test_a_run_is_found_by_id_by_unique_prefix_or_as_the_latest(store: Store) -> None:
    for n, name in enumerate(["v9-a", "v9-ab", "v8-x"]):
        store.create(run(name, created=10.0 - n))
    assert store.find("v9-a").id == "v9-a"  # exact, though it begins another
    assert store.find("v8").id == "v8-x"
    assert store.find(None).id == "v9-a"
    assert [r.id for r in store.all()[0]] == ["v8-x", "v9-ab", "v9-a"]
    with pytest.raises(BadRequest, match=r"'v9' begins 2 runs: v9-a, v9-ab; type more"):
        store.find("v9")


@pytest.mark.parametrize("name", ["../a-run", "/etc/passwd", ".", "..", "a-run/", "*", "nothing"])
def test_a_name_never_leads_out_of_the_folder(store: Store, name: str) -> None:
    store.create(run())
    with pytest.raises(BadRequest, match="there is no run called"):
        store.find(name)


def test_a_name_is_taken_once(store: Store) -> None:
    store.create(run(data="/first"))
    with pytest.raises(BadRequest, match="there is a run called a-run already: choose another --name"):
        store.create(run(data="/second"))
    assert store.load("a-run").data == "/first"
    assert [p.name for p in store.runs.iterdir()] == ["a-run"]


def test_of_twenty_at_once_with_one_name_one_wins(store: Store) -> None:
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, '.')\n"
        "from tests.orchestrator.test_store import run; from orchestrator.store import Store\n"
        "from orchestrator.errors import BadRequest\n"
        "sys.stdin.readline()\n"
        "try: Store(Path(sys.argv[1])).create(run(data=sys.argv[2])); print('won')\n"
        "except BadRequest as e: print(e)"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(store.root), f"/{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(4)
    ]
    said = [p.communicate("go\n")[0].strip() for p in started]
    with ThreadPoolExecutor(16) as pool:
        said += pool.map(lambda n: _try(store, f"/{n}"), range(4, 20))
    assert said.count("won") == 1
    assert sum("already" in s for s in said) == 19
    assert store.load("a-run").data == f"/{said.index('won')}"


def _try(store: Store, data: str) -> str:
    try:
        store.create(run(data=data))
    except BadRequest as e:
        return str(e)
    return "won"


def test_what_lies_in_the_way_is_named_and_left_alone(store: Store) -> None:
    (store.runs / "a-run").mkdir(parents=True)
    (store.runs / "a-run" / "events.jsonl").write_text("precious")
    with pytest.raises(BadRequest, match=r"a-run is there without a record: move it away"):
        store.create(run())
    assert (store.runs / "a-run" / "events.jsonl").read_text() == "precious"
    (store.runs / "b-run").write_text("a file")
    with pytest.raises(BadRequest, match=r"b-run is there without a record"):
        store.create(run("b-run"))
    assert sorted(p.name for p in store.runs.iterdir()) == ["a-run", "b-run"]


def test_freeze_writes_the_spec_until_an_attempt_has_begun_and_never_again(store: Store) -> None:
    first = run()
    store.create(first)
    changed = dataclasses.replace(first, spec=dataclasses.replace(first.spec, data="/there"))
    store.freeze(changed)
    assert Spec.read(store.dir("a-run").spec) == changed.spec
    begun = changed.with_attempt(Asked("t", 1.0, "c", 1))
    store.freeze(dataclasses.replace(begun, spec=first.spec))
    assert Spec.read(store.dir("a-run").spec) == changed.spec


def a_whole_start(store: Store) -> None:
    """Every write of a deploy, in its order."""
    asked = run()
    store.create(asked)
    asked = dataclasses.replace(asked, machine=MACHINE)
    store.save(asked)
    asked = asked.with_attempt(Asked("t", 1.0, "c"))
    store.freeze(asked)
    store.save(asked.with_attempt(Asked("t", 1.0, "c", 1)))


def test_killed_at_any_instant_the_store_opens_and_at_most_the_last_step_is_missing(tmp_path: Path) -> None:
    homes = iter(range(1000))
    store = Store()

    def prepare() -> None:
        nonlocal store
        store = Store(tmp_path / str(next(homes)))

    whole_states = set()
    for point in crash_points(prepare, lambda: a_whole_start(store)):
        readable, damaged = store.all()
        assert damaged == [], point
        if not readable:
            store.create(run())  # the same again, over whatever the kill left
            continue
        (kept,) = readable
        reached = (kept.machine is not None, bool(kept.attempts), any(a.number for a in kept.attempts))
        whole_states.add(reached)
        assert sorted(reached, reverse=True) == list(reached), "a later step without an earlier one"
        if store.dir("a-run").spec.exists():
            assert reached[1]
            Spec.read(store.dir("a-run").spec)
        with pytest.raises(BadRequest, match="already"):
            store.create(run())
    assert len(whole_states) == 3  # the fourth is the run through to the end
    assert store.load("a-run").attempts[0].number == 1


DAMAGE = (
    b"",
    b"{",
    b"\0" * 400,
    b"[]",
    b"{}",
    b'{"id": "a-run", "attempts": 5}',
    b'{"attempts": [5], "spec": {}}',
    b'{"spec": []}',
    b'{"machine": "x"}',
    b"\xff\xfe",
)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_named_and_the_others_are_as_before(store: Store, damage: bytes) -> None:
    for name in ("a-run", "b-run"):
        store.create(run(name))
    (store.runs / "a-run" / "run.json").write_bytes(damage)
    assert store.all() == ([run("b-run")], ["a-run"])
    assert store.find(None).id == "b-run"
    with pytest.raises(BadRequest, match=r"run\.json.*move .*/a-run away"):
        store.find("a-run")
    assert (store.runs / "a-run" / "run.json").read_bytes() == damage


def test_a_record_cut_anywhere_is_damaged(store: Store) -> None:
    store.create(run(machine=MACHINE))
    path = store.runs / "a-run" / "run.json"
    whole = path.read_bytes()
    for length in range(len(whole) - 2):
        path.write_bytes(whole[:length])
        assert store.all() == ([], ["a-run"])


def test_a_field_of_the_wrong_type_is_damage(store: Store) -> None:
    store.create(run(machine=MACHINE, attempts=(Asked("t", 1.0, "c"),)))
    path = store.runs / "a-run" / "run.json"
    body = json.loads(path.read_text())
    required = {"id", "spec", "where", "data", "created", "attempts"}
    for name in body:
        for wrong in ({"x": 1}, [5], 10**400, False, None):
            path.write_text(json.dumps({**body, name: wrong}))
            readable, _ = store.all()
            assert not readable or name not in required, (name, wrong)


def test_a_record_of_a_newer_version_is_refused_unchanged(store: Store) -> None:
    store.create(run())
    path = store.runs / "a-run" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "contract": "2.0"}))
    before = path.read_bytes()
    with pytest.raises(BadRequest, match="upgrade ec2emo"):
        store.find("a-run")
    assert path.read_bytes() == before


def test_a_copied_run_folder_is_not_taken_for_the_run(store: Store) -> None:
    """It would send what is asked of the copy to the run it was copied from."""
    store.create(run())
    (store.runs / "a-run").rename(store.runs / "copy")
    assert store.all() == ([], ["copy"])
    with pytest.raises(BadRequest, match="the record of another run, 'a-run'"):
        store.find("copy")


def test_a_record_that_is_no_file_is_named(store: Store) -> None:
    (store.runs / "a-run" / "run.json").mkdir(parents=True)
    assert store.all() == ([], ["a-run"])
    with pytest.raises(BadRequest, match=r"cannot read .*run\.json \(Is a directory\)"):
        store.find("a-run")


def test_strangers_in_the_folder_are_no_runs(store: Store) -> None:
    store.create(run())
    (store.runs / ".DS_Store").touch()
    (store.runs / "notes.txt").touch()
    (store.runs / "empty").mkdir()
    assert store.all() == ([run()], [])


def test_a_home_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    store = Store(tmp_path / "home")
    with pytest.raises(BadRequest, match=r"cannot write .*home.*EC2EMO_HOME"):
        store.create(run())
    with pytest.raises(BadRequest, match=r"cannot read .*home"):
        store.find(None)


def test_on_a_full_disk_nothing_changes_and_the_same_works_once_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = Store(disk)
        store.create(run())
        ballast = fill(disk)
        big = run(data="/d" * 5000)
        for write in (store.save, store.freeze):
            with pytest.raises(BadRequest, match=r"cannot write .*No space left on device.*free some room"):
                write(big)
        with pytest.raises(BadRequest, match="No space left on device"):
            store.create(run("b-run", data="/d" * 5000))
        assert store.all() == ([run()], [])
        assert not list(disk.glob("runs/.*"))
        ballast.unlink()
        store.freeze(big)
        store.create(run("b-run"))
        assert len(store.all()[0]) == 2


def test_on_a_full_disk_a_spec_that_does_not_fit_is_a_sentence(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = Store(disk)
        store.create(run())
        fill(disk, leave=28_000)  # enough for the record, not for the spec beside it
        big = run(spec=dataclasses.replace(run().spec, params={"x": "y" * 20_000}))
        with pytest.raises(BadRequest, match=r"cannot write .*spec\.json.*No space left"):
            store.freeze(big)
        assert store.load("a-run") == big


def test_a_home_that_cannot_be_written_can_still_be_read(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = Store(disk)
        store.create(run())
        read_only(disk)
        assert store.find(None) == run()
        for write in (store.save, store.freeze, store.create):
            with pytest.raises(BadRequest, match=r"cannot write .*Read-only file system.*EC2EMO_HOME"):
                write(run("b-run") if write == store.create else run())


def test_a_thousand_runs_are_listed_in_order(store: Store) -> None:
    for n in range(1000):
        folder = store.runs / f"r{n:04}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_bytes(run(folder.name, created=float((n * 7) % 1000)).to_json())
    readable, damaged = store.all()
    assert [r.created for r in readable] == [float(n) for n in range(1000)]
    assert not damaged
    assert store.find("r0500").id == "r0500"


def test_a_cross_validation_is_found_by_its_name_its_beginning_or_one_of_its_runs(store: Store) -> None:
    for name, created in (("cv", 1.0), ("cv-other", 2.0)):
        for fold in folded(run(name, created=created), 3):
            store.create(fold)
    store.create(run("alone"))
    for named in ("cv-o", "cv-other", "cv-other-f2", None):
        assert [one.id for one in store.folds(named)] == [f"cv-other-f{i}" for i in (1, 2, 3)]
    assert [one.id for one in store.folds("cv")] == ["cv-f1", "cv-f2", "cv-f3"]
    with pytest.raises(BadRequest, match="'c' begins 2 cross-validations: there are cv, cv-other"):
        store.folds("c")
    with pytest.raises(BadRequest, match="'alone' names no cross-validation"):
        store.folds("alone")
