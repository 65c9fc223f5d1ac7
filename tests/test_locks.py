"""The locks pin by hash all that pyproject.toml and requirements-*.in ask for, and agree with each other."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CPU = ROOT / "remote_env/requirements-cpu.lock"
GPU = ROOT / "remote_env/requirements-gpu.lock"
DEV = ROOT / "requirements-dev.lock"
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")


@dataclass(frozen=True)
class Pin:
    """One requirement of a lock."""

    name: NormalizedName
    version: Version
    hashes: int


def pins(lock: Path) -> list[Pin]:
    lines = [line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#")]
    return [pin(text) for text in "\n".join(lines).replace("\\\n", " ").splitlines() if text.strip()]


def pin(text: str) -> Pin:
    asked = Requirement(text.split(" --hash", 1)[0])
    (only,) = asked.specifier
    assert only.operator == "=="
    return Pin(canonicalize_name(asked.name), Version(only.version), len(HASH.findall(text)))


def asked(path: Path) -> list[Requirement]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return [Requirement(line) for line in lines]


def project() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for: of everyone, and by extra."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = {"": told["project"]["dependencies"], **told["project"]["optional-dependencies"]}
    listed["build"] = told["build-system"]["requires"]
    return {extra: [Requirement(line) for line in lines] for extra, lines in listed.items()}


def missing(wanted: list[Requirement], lock: Path) -> list[str]:
    """What a lock lacks, or pins at a version that was not asked for."""
    held: dict[NormalizedName, list[Pin]] = {}
    for one in pins(lock):
        held.setdefault(one.name, []).append(one)
    return [
        str(want)
        for want in wanted
        if not (found := held.get(canonicalize_name(want.name)))
        or not all(want.specifier.contains(one.version) for one in found)
    ]


@pytest.mark.parametrize("lock", [CPU, GPU, DEV], ids=lambda lock: lock.name)
def test_every_requirement_is_pinned_by_hash(lock: Path) -> None:
    assert len(pins(lock)) > 30
    assert [one.name for one in pins(lock) if not one.hashes] == []
    assert len(HASH.findall(lock.read_text())) == lock.read_text().count("--hash")


@pytest.mark.parametrize("lock", [CPU, GPU, DEV], ids=lambda lock: lock.name)
def test_where_packages_come_from_is_left_to_the_machine(lock: Path) -> None:
    text = lock.read_text()
    assert re.findall(r"\S*(?:://|\bwww\.|\.(?:org|com|net|io)\b)\S*", text) == []
    assert re.findall(r"^\s*(?:-i|-f|--(?!hash)\S+).*", text, re.MULTILINE) == []


def test_what_two_locks_both_pin_they_pin_alike() -> None:
    cpu = {(one.name, one.version) for one in pins(CPU)}
    for lock in (GPU, DEV):
        other = {(one.name, one.version) for one in pins(lock)}
        names = {name for name, _ in cpu} & {name for name, _ in other}
        assert len(names) > 30
        assert {one for one in cpu if one[0] in names} == {one for one in other if one[0] in names}


@pytest.mark.parametrize("extra", project())
def test_the_developers_lock_covers_the_project(extra: str) -> None:
    assert missing(project()[extra], DEV) == [], "run scripts/lock"


@pytest.mark.parametrize("lock", [CPU, GPU], ids=lambda lock: lock.name)
def test_a_machines_lock_covers_what_was_asked_for_it(lock: Path) -> None:
    assert missing(asked(lock.with_suffix(".in")), lock) == [], "run scripts/lock"


def test_a_machine_is_asked_for_what_the_train_extra_asks_for() -> None:
    train = {str(want) for want in project()["train"]}
    numpy = {str(want) for want in project()[""] if want.name in ("boto3", "botocore", "numpy")}
    assert {str(want) for want in asked(CPU.with_suffix(".in"))} == train | numpy

    tensorflow = {want for want in train if want.startswith("tensorflow")}
    gpu = {str(want) for want in asked(GPU.with_suffix(".in"))}
    assert gpu == (train | numpy) - tensorflow | {"tensorflow[and-cuda]==2.21.*"}


@pytest.mark.parametrize("lock", [CPU, GPU], ids=lambda lock: lock.name)
def test_a_machine_gets_nothing_of_the_laptops(lock: Path) -> None:
    names = {one.name for one in pins(lock)}
    trains = {canonicalize_name(want.name) for want in asked(lock.with_suffix(".in"))}
    ours = {canonicalize_name(want.name) for want in project()[""] + project()["dev"]} - trains
    # What tensorflow itself brings: it prints with rich and is built with setuptools.
    assert names & ours <= {"rich", "setuptools"}


@pytest.mark.parametrize("lock", [CPU, DEV], ids=lambda lock: lock.name)
def test_a_lock_is_whole_so_that_nothing_else_need_be_looked_up(lock: Path) -> None:
    """Locks are installed without looking at what a package asks for, so all of it must be in them."""
    here = {canonicalize_name(one.name): Version(one.version) for one in metadata.distributions()}
    known = [one for one in pins(lock) if here.get(one.name) == one.version]
    assert len(known) > 30, "this environment was not made from the lock; use scripts/test"
    for one in known:
        wanted = [Requirement(line) for line in metadata.requires(one.name) or []]
        needed = [want for want in wanted if not want.marker or want.marker.evaluate({"extra": ""})]
        assert missing(needed, lock) == [], f"{one.name} asks for it"
