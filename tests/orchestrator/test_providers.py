"""What may be written after --on, and which machine it names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator import providers
from orchestrator.errors import BadRequest
from orchestrator.machine import Machine

CONFIG = """
Host gpu MyBox   other-box
    HostName gpu.example.org
host=equals
Host *.example.org !not-this "quoted" a;b
HOST Loud
Match host matched
    User x
"""


def machine(where: str, key: str | None = None) -> Machine:
    wish = providers.wish_for(where, key)
    made: Machine = providers.load(wish.provider).acquire(wish, None)
    return made


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_folder_is_the_registry() -> None:
    folder = Path(str(providers.__file__)).parent
    files = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")}
    assert providers.names() == sorted(files - {"__init__"})
    for name in providers.names():
        module = providers.load(name)
        assert {"claim", "acquire", "HELP"} <= set(vars(module))


def test_local_is_this_machine_apart_from_the_registry(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EC2EMO_HOME", str(home / "e"))
    assert machine("local") == Machine("local", root=str(home / "e" / "machine"))
    assert machine("local").name == "local"


@pytest.mark.parametrize(
    ("where", "user", "host", "port"),
    [
        ("ssh://gpu.example.org", None, "gpu.example.org", None),
        ("ssh://ubuntu@10.0.0.1:2222", "ubuntu", "10.0.0.1", 2222),
        ("ssh://ubuntu@gpu/", "ubuntu", "gpu", None),
        ("ssh://MyAlias", None, "MyAlias", None),
        ("ssh://me@[::1]:22", "me", "::1", 22),
        ("ssh://[fe80::1%eth0]", None, "fe80::1%eth0", None),
        ("ssh://host:65535", None, "host", 65535),
    ],
)
def test_an_address_is_taken_apart_and_its_letters_stay(
    where: str, user: str | None, host: str, port: int | None
) -> None:
    made = machine(where)
    assert made == Machine("attached", host=host, user=user, port=port)
    assert made.name == where.rstrip("/")


@pytest.mark.parametrize(
    "where",
    [
        "ssh://",
        "ssh://host:0",
        "ssh://host:65536",
        "ssh://host:22x",
        "ssh://host:-1",
        "ssh://-oProxyCommand=touch",
        "ssh://u@-oProxyCommand=touch",
        "ssh://-l@host",
        "ssh://user:secret@host",
        "ssh://host/path",
        "ssh://host?x=1",
        "ssh://a b",
        "ssh://host\n",
        "ssh://$(touch pwned)",
        "ssh://a;b",
        "ssh://u@v@host",
        "ssh://[::1",
        "ssh://[x]",
        "ssh://ü.example.org",
    ],
)
def test_an_address_of_another_form_is_refused(where: str) -> None:
    with pytest.raises(BadRequest, match="is not of the form ssh://user@host:port"):
        machine(where)


@pytest.mark.parametrize("where", ["gpu", "MyBox", "other-box", "equals", "Loud"])
def test_a_host_of_the_ssh_configuration_is_taken_by_its_name(home: Path, where: str) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh" / "config").write_text(CONFIG)
    assert machine(where) == Machine("attached", host=where)


@pytest.mark.parametrize(
    "where",
    [
        "",
        "gpux",
        "*.example.org",
        "a.example.org",
        "!not-this",
        "a;b",
        "matched",
        "-gpu",
        "LOCAL",
        "x\n",
    ],
)
def test_a_place_nobody_knows_is_refused_with_all_ways_to_write_one(home: Path, where: str) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh" / "config").write_bytes(CONFIG.encode() + b"\xff\xfe")
    with pytest.raises(BadRequest, match="is no place ec2emo knows") as refused:
        machine(where)
    for name in providers.names():
        assert providers.load(name).HELP in str(refused.value)


def test_a_key_is_remembered_with_its_whole_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named as ./id in one folder, it was not found from any other."""
    monkeypatch.chdir(home)
    assert machine("ssh://host", "keys/id").key == os.fspath(home / "keys" / "id")
    assert machine("ssh://host", "~/id").key == os.fspath(home / "id")
