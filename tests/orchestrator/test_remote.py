"""What we do on a machine, done: over both shells, in folders whose names mean mischief."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator import bundle, remote
from orchestrator.connect import open_shell
from orchestrator.errors import BadRequest, ContactLost, RunFailed
from orchestrator.machine import Machine
from orchestrator.remote import Facts
from orchestrator.run import Asked, Run
from orchestrator.shell import Input, LocalShell, Result, Shell
from tests.conftest import Box, end_runs
from tests.disks import read_only, small_disk
from trainer import clips
from trainer.clips import demo
from trainer.clips.files import Clip
from trainer.contract import Attempt, Spec

CODE = bundle.make()
NAMES = [
    "plain.npz",
    "a b.npz",
    'it\'s "q".npz',
    "$(touch pwned).npz",
    "; touch pwned",
    "-rf",
    "ü/é.npz",
    "a\nb",
]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine("attached", root=str(tmp_path / 'it\'s a "$HOME" root'), host="h")


@pytest.fixture
def facts(shell: Shell, machine: Machine) -> Facts:
    return remote.probe(shell, machine, CODE)


class Sent(LocalShell):
    """This machine; what was run on it, and with how many bytes."""

    def __init__(self) -> None:
        self.runs: list[tuple[list[str], int]] = []

    def run(self, argv: Any, *, stdin: Input = b"", **options: Any) -> Result:
        whole = stdin if isinstance(stdin, bytes) else b"".join(stdin)
        self.runs.append((list(argv), len(whole)))
        return super().run(argv, stdin=whole, **options)


def nothing(done: int, total: int) -> None:
    """Who watches nothing."""


# Looking


def test_one_look_tells_what_there_is(shell: Shell, machine: Machine, tmp_path: Path) -> None:
    facts = remote.probe(shell, machine, CODE, "f" * 64)
    assert facts.root == machine.root
    assert facts.lock in (CODE.lock_hash(remote.CPU_LOCK), CODE.lock_hash(remote.GPU_LOCK))
    assert (facts.code, facts.env, facts.data, facts.python3, facts.writable) == (
        False,
        False,
        False,
        True,
        True,
    )
    assert facts.free_bytes > 1_000_000
    assert facts.now > 1_700_000_000
    assert list(tmp_path.iterdir()) == []
    assert not facts.objects
    for made in (f"code/{CODE.hash}", f"env/{facts.lock}", f"data/{'f' * 64}", "objects"):
        (Path(machine.root) / made).mkdir(parents=True)
    half = remote.probe(shell, machine, CODE, "f" * 64)
    assert (half.code, half.env, half.data, half.objects) == (True, False, True, True)
    (Path(machine.root) / "env" / facts.lock / ".ready").touch()
    assert remote.probe(shell, machine, CODE).env


def test_a_tilde_is_the_home_folder_there(box: Box) -> None:
    with open_shell(box.machine) as shell:
        assert remote.probe(shell, box.machine, CODE).root == f"{box.home}/.ec2emo"


def test_a_place_that_cannot_be_written_is_named(shell: Shell, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        read_only(disk)
        with pytest.raises(BadRequest, match=r"may not write to .*disk/x on local"):
            remote.probe(shell, Machine("local", root=str(disk / "x")), CODE)


def test_a_machine_without_a_plain_sh_is_told_so(own_box: Box) -> None:
    own_box.set_path("/nowhere")
    with open_shell(own_box.machine) as shell, pytest.raises(RunFailed, match="needs a plain sh there"):
        remote.probe(shell, own_box.machine, CODE)


# The code


def test_the_code_comes_once_and_whole(shell: Shell, machine: Machine, facts: Facts) -> None:
    remote.send_code(shell, facts, CODE)
    folder = Path(remote.code_dir(facts, CODE))
    there = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert there == CODE.files
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (folder / "remote_env" / "launch.sh").stat().st_mode & 0o111
    assert [p.name for p in folder.parent.iterdir()] == [CODE.hash]
    assert remote.probe(shell, machine, CODE).code


def test_code_that_is_there_is_not_sent_again(machine: Machine) -> None:
    shell = Sent()
    for _ in range(2):
        remote.send_code(shell, remote.probe(shell, machine, CODE), CODE)
    assert [size for _, size in shell.runs if size == len(CODE.archive)] == [len(CODE.archive)]


def test_of_several_at_once_one_lands_and_the_others_leave_nothing(
    shell: Shell, facts: Facts, box: Box
) -> None:
    def send(_: int) -> None:
        with open_shell(box.machine) as own:
            remote.send_code(own, facts, CODE)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(send, range(6)))
    folder = Path(remote.code_dir(facts, CODE))
    assert [p.name for p in folder.parent.iterdir()] == [CODE.hash]
    assert sorted(p.name for p in folder.iterdir()) == ["remote_env", "trainer"]


def test_a_second_one_that_comes_between_look_and_rename_leaves_nothing(
    machine: Machine, tmp_path: Path
) -> None:
    """Mv puts a folder into one that is there, and one lay inside the code ever after."""
    tools = tmp_path / "bin"
    tools.mkdir()
    code = Path(machine.root) / "code" / CODE.hash
    (tools / "mv").write_text(
        f'#!/bin/sh\nmkdir -p {shlex.quote(str(code / "trainer"))}\nexec /bin/mv "$@"\n'
    )
    (tools / "mv").chmod(0o755)
    facts = remote.probe(LocalShell(), machine, CODE)

    class Raced(LocalShell):
        def run(self, argv: Any, **options: Any) -> Result:
            return super().run(["env", f"PATH={tools}:/usr/bin:/bin", *argv], **options)

    remote.send_code(Raced(), facts, CODE)
    assert [p.name for p in code.iterdir()] == ["trainer"]
    assert [p.name for p in code.parent.iterdir()] == [CODE.hash]


def test_code_of_which_a_part_came_is_not_there(shell: Shell, machine: Machine, facts: Facts) -> None:
    half = dataclasses.replace(CODE, archive=CODE.archive[: len(CODE.archive) // 2])
    with pytest.raises(RunFailed, match="the code could not be put there on"):
        remote.send_code(shell, facts, half)
    assert not remote.probe(shell, machine, CODE).code
    remote.send_code(shell, facts, CODE)
    assert remote.probe(shell, machine, CODE).code


# The environment


def test_an_environment_that_is_ready_is_taken(shell: Shell, machine: Machine, facts: Facts) -> None:
    ready = dataclasses.replace(facts, env=True)
    python = remote.environment(shell, machine, ready, CODE, print)
    assert python == f"{facts.root}/env/{facts.lock}/bin/python"


def test_without_room_no_environment_is_begun(machine: Machine, facts: Facts) -> None:
    shell = Sent()
    full = dataclasses.replace(facts, free_bytes=1_000_000_000)
    with pytest.raises(BadRequest, match=r"the Python environment needs 3\.0 GB in .* has 1\.0 GB free"):
        remote.environment(shell, machine, full, CODE, print)
    assert not shell.runs


def test_an_environment_that_fails_says_why_with_its_last_line(
    shell: Shell, machine: Machine, facts: Facts
) -> None:
    code = Path(remote.code_dir(facts, CODE)) / "remote_env"
    code.mkdir(parents=True)
    (code / "bootstrap.sh").write_text("echo step one >&2; echo 'no such wheel' >&2; exit 3")
    heard: list[str] = []
    with pytest.raises(RunFailed, match=r"environment could not be made on .* \(no such wheel\)"):
        remote.environment(shell, machine, facts, CODE, heard.append)
    assert heard == ["step one", "no such wheel"]


# The data


def some(folder: Path, count: int = 0) -> list[Clip]:
    """Clips with names that mean mischief, and plain ones."""
    made = []
    for n, name in enumerate(NAMES + [f"{n:03}.npz" for n in range(count)]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"clip {n} ".encode() * (n % 7 * 300 + 1))
        made.append(clip(folder, name))
    return made


def clip(folder: Path, name: str) -> Clip:
    data = (folder / name).read_bytes()
    return Clip(
        path=name,
        label="angry",
        speaker=None,
        frames=1,
        dim=1,
        **{  # type: ignore[arg-type]
            **{f: "" for f in Clip._fields if f not in ("path", "label", "speaker", "frames", "dim")},
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        },
    )


def send(shell: Shell, facts: Facts, folder: Path, sent: list[Clip], on_bytes: Any = nothing) -> Path:
    remote.send_code(shell, facts, CODE)
    facts = dataclasses.replace(facts, objects=(Path(facts.root) / "objects").is_dir())
    code, name = remote.code_dir(facts, CODE), clips.fingerprint(sent)
    return Path(remote.send_data(shell, facts, code, sys.executable, folder, name, tuple(sent), on_bytes))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_data_arrive_under_their_names_byte_for_byte(shell: Shell, facts: Facts, tmp_path: Path) -> None:
    sent = some(tmp_path / "here", 20)
    told: list[tuple[int, int]] = []
    there = send(shell, facts, tmp_path / "here", sent, lambda done, total: told.append((done, total)))
    assert contents(there) == contents(tmp_path / "here")
    total = sum(c.bytes for c in sent)
    assert told == sorted(told)
    assert told[-1] == (total, total)
    assert not list(tmp_path.glob("pwned"))


def test_the_first_data_are_sent_with_one_command_and_the_next_with_two(facts: Facts, tmp_path: Path) -> None:
    folder, shell = tmp_path / "here", Sent()
    for files, verbs in ((5, ["accept"]), (6, ["need", "accept"])):
        shell.runs.clear()
        there = send(shell, facts, folder, some(folder, files))
        assert [argv[3] for argv, _ in shell.runs if argv[1] == "-IS"] == verbs
        assert contents(there) == contents(folder)


def test_data_that_another_brought_meanwhile_are_whole(facts: Facts, tmp_path: Path) -> None:
    """Both saw a machine without data."""
    folder = tmp_path / "here"
    sent = some(folder, 5)
    remote.send_code(LocalShell(), facts, CODE)
    code, name = remote.code_dir(facts, CODE), clips.fingerprint(sent)

    def both(_: int) -> str:
        return remote.send_data(LocalShell(), facts, code, sys.executable, folder, name, tuple(sent), nothing)

    with ThreadPoolExecutor(2) as pool:
        for there in pool.map(both, range(2)):
            assert contents(Path(there)) == contents(folder)


def test_of_five_hundred_files_the_one_that_changed_is_sent(facts: Facts, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    shell = Sent()
    sent = some(folder, 500)
    first = send(shell, facts, folder, sent)
    (folder / "007.npz").write_bytes(b"changed" * 100)
    shell.runs.clear()
    changed = [clip(folder, c.path) for c in sent]
    second = send(shell, facts, folder, changed)
    accepted = [size for argv, size in shell.runs if "accept" in argv]
    assert len(accepted) == 1
    assert accepted[0] < 700 + 2 * 10_240 + 1024
    assert contents(second) == contents(folder)
    assert (first / "007.npz").read_bytes() != b"changed" * 100


def test_data_that_only_moved_are_not_sent_again(facts: Facts, tmp_path: Path) -> None:
    folder, shell = tmp_path / "here", Sent()
    send(shell, facts, folder, some(folder, 5))
    (folder / "deep").mkdir()
    (folder / "000.npz").rename(folder / "deep" / "x.npz")
    shell.runs.clear()
    moved = [clip(folder, p.relative_to(folder).as_posix()) for p in sorted(folder.rglob("*")) if p.is_file()]
    there = send(shell, facts, folder, moved)
    assert not [argv for argv, _ in shell.runs if "accept" in argv]
    assert contents(there) == contents(folder)


def test_data_that_are_there_cost_nothing(facts: Facts, tmp_path: Path) -> None:
    folder, shell = tmp_path / "here", Sent()
    sent = some(folder)
    send(shell, facts, folder, sent)
    known = remote.probe(shell, Machine("local", root=facts.root), CODE, clips.fingerprint(sent))
    shell.runs.clear()
    send(shell, known, folder, sent)
    assert [argv[0] for argv, _ in shell.runs if "receive.py" in str(argv)] == []


def test_room_is_asked_for_what_is_missing_alone(facts: Facts, tmp_path: Path) -> None:
    """A large set of which one file changed was refused for want of room for all of it."""
    folder = tmp_path / "here"
    sent = some(folder, 5)
    send(LocalShell(), facts, folder, sent)
    tight = dataclasses.replace(facts, free_bytes=5000)
    (folder / "000.npz").write_bytes(b"x" * 4000)
    send(LocalShell(), tight, folder, [clip(folder, c.path) for c in sent])
    (folder / "001.npz").write_bytes(b"y" * 6000)
    with pytest.raises(BadRequest, match=r"the data needs 0\.0 GB in"):
        send(LocalShell(), tight, folder, [clip(folder, c.path) for c in sent])


def test_a_file_that_changes_while_it_is_sent_is_named_and_no_folder_appears(
    shell: Shell, facts: Facts, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    sent = some(folder, 3)
    path = folder / "002.npz"
    before = path.read_bytes()
    for change, error in (
        (b"longer" + before, BadRequest),
        (b"X" + before[1:], RunFailed),
        (None, BadRequest),
    ):
        if change is None:
            path.unlink()
        else:
            path.write_bytes(change)
        with pytest.raises(error, match=r"002\.npz|did not arrive"):
            send(shell, facts, folder, sent)
        assert not (Path(facts.root) / "data" / clips.fingerprint(sent)).exists()
    path.write_bytes(before)
    assert contents(send(shell, facts, folder, sent)) == contents(folder)


def test_cut_while_data_are_sent_the_next_try_goes_on(own_box: Box, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    for n in range(40):
        (folder / f"{n}.npz").write_bytes(bytes([n]) * 500_000)
    sent = [clip(folder, p.name) for p in sorted(folder.iterdir())]
    machine = dataclasses.replace(own_box.machine, root=str(tmp_path / "root"))

    def cut(done: int, total: int) -> None:
        if done > total / 2 and own_box.process and own_box.process.poll() is None:
            own_box.stop()

    with open_shell(machine) as shell, pytest.raises(ContactLost):
        send(shell, remote.probe(shell, machine, CODE), folder, sent, cut)
    assert not (tmp_path / "root" / "data" / clips.fingerprint(sent)).exists()
    own_box.start()
    totals: set[int] = set()
    with open_shell(machine) as shell:
        facts = remote.probe(shell, machine, CODE)
        there = send(shell, facts, folder, sent, lambda done, total: totals.add(total))
    assert contents(there) == contents(folder)
    assert max(totals) < sum(c.bytes for c in sent)


def test_data_that_lie_there_are_looked_at_by_the_same_code(
    shell: Shell, facts: Facts, tmp_path: Path
) -> None:
    folder = demo.write(tmp_path / "it's demo")
    remote.send_code(shell, facts, CODE)
    seen = remote.check_data_there(shell, facts, remote.code_dir(facts, CODE), sys.executable, str(folder))
    here = clips.check(folder)
    assert (seen["fingerprint"], seen["used"], seen["synthetic"]) == (here.fingerprint, len(here.used), True)
    none = remote.check_data_there(shell, facts, remote.code_dir(facts, CODE), sys.executable, "/no such")
    assert [p["kind"] for p in none["problems"] if p["fatal"]] == ["no-folder"]


# Launching


def run_on(facts: Facts) -> Run:
    spec = Spec("a-run", "v9_attention", "/d", "f" * 64, 3, 8)
    asked = (Asked("t1", 1.0, CODE.hash),)
    machine = Machine("local", root=facts.root)
    return Run("a-run", spec, "local", "/d", 1.0, machine, facts.root, sys.executable, asked)


def test_a_launch_that_cannot_start_says_why(shell: Shell, facts: Facts) -> None:
    run = run_on(facts)
    with pytest.raises(RunFailed, match="a-run could not be started"):
        remote.launch(shell, run, run.spec, Attempt(0, "t1"), remote.code_dir(facts, CODE), sys.executable)
    with pytest.raises(ContactLost, match="answers, but not for a-run"):
        remote.status(shell, run)


def test_a_run_that_lives_is_not_started_again_and_another_spec_not_at_all(
    shell: Shell, facts: Facts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMUX_TMPDIR", str(tmp_path))
    code = Path(facts.root) / "code" / CODE.hash
    remote.send_code(shell, facts, CODE)
    (code / "trainer" / "__main__.py").write_text("import time; time.sleep(600)")
    run = run_on(facts)
    try:
        start: Any = lambda token, spec=run.spec: remote.launch(  # noqa: E731
            shell, run, spec, Attempt(0, token), str(code), sys.executable
        )
        assert start("t1") == 1
        assert start("t1") == 1
        with pytest.raises(BadRequest, match="a-run is running already: 'ec2emo monitor a-run --follow'"):
            start("t2")
        with pytest.raises(RunFailed, match="is another run's folder: choose another --name"):
            start("t3", dataclasses.replace(run.spec, seed=1))
        assert remote.status(shell, run).alive
        assert remote.stop(shell, run, kill=True)
    finally:
        end_runs(Path(facts.root) / "runs")


def test_what_was_never_launched_has_no_status(facts: Facts) -> None:
    never = dataclasses.replace(run_on(facts), attempts=())
    with pytest.raises(BadRequest, match="a-run was never launched"):
        remote.status(LocalShell(), never)


@pytest.mark.parametrize("said", [b"", b"welcome", b"[1]", b"{", b"\xff\xfe", b'"x"', b"[" * 100_000])
def test_an_answer_that_is_none_is_contact_lost(said: bytes) -> None:
    with pytest.raises(ContactLost, match="the machine's answer is not readable") as raised:
        remote._json(said)
    assert len(str(raised.value)) < 300


def test_a_greeting_before_the_answer_is_passed_over() -> None:
    assert remote._json(b"Welcome to the machine\n" + json.dumps({"a": 1}).encode() + b"\n") == {"a": 1}
