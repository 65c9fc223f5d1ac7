"""`ec2emo.toml`: where and on what data this project trains. The nearest one upwards counts."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import tomlkit

from orchestrator import machine
from orchestrator.errors import BadRequest
from orchestrator.machine import Terms
from trainer import contract

FILE = "ec2emo.toml"


@dataclass(frozen=True)
class Settings:
    """What the file may say, its paths absolute. `path` is the file itself, None without one.

    `ec2` is a table of the file: the terms on which machines are rented.
    """

    on: str | None = None
    data: str | None = None
    identity: str | None = None
    path: Path | None = None
    ec2: Terms = field(default_factory=Terms)


def read(start: Path | None = None) -> Settings:
    """The nearest settings from `start` upwards. Raises BadRequest for a broken file or an unknown key."""
    start = start or Path.cwd()
    path = next((p / FILE for p in (start, *start.parents) if (p / FILE).is_file()), None)
    if path is None:
        return Settings()
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise BadRequest(f"cannot read {path}: {e}; mend it, or write it anew with 'ec2emo init'") from e
    known = {f.name for f in dataclasses.fields(Settings)} - {"path"}
    rented = body.pop("ec2", {})
    for key, value in body.items():
        if key not in known:
            raise BadRequest(
                f"{path} has an unknown setting {key!r:.60}; known are {', '.join(sorted(known))}"
            )
        if not isinstance(value, str) or not value:
            raise BadRequest(f"{path}: {key} must be a text in quotes, not {value!r:.60}")
    if "data" in body and is_folder(body["data"]):
        body["data"] = _from(path, body["data"])
    if "identity" in body:
        body["identity"] = _from(path, body["identity"])
    return Settings(**body, path=path, ec2=_terms(path, rented))


def write(folder: Path, *, on: str, data: str | None, identity: str | None) -> Path:
    """Write or change `folder/ec2emo.toml`, keeping a person's comments; returns its path."""
    path = folder / FILE
    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
    except (OSError, ValueError) as e:
        raise BadRequest(f"cannot read {path}: {e}; mend it or move it away") from e
    if not path.exists():
        document.add(tomlkit.comment("Where this project trains and on what; flags of a command come first."))
    for key, value in (("on", on), ("data", data), ("identity", identity)):
        if value is not None:
            document[key] = value
    try:
        contract.publish(path, tomlkit.dumps(document).encode())
    except OSError as e:
        raise BadRequest(f"cannot write {path}: {e.strerror}") from e
    return path


def is_folder(data: str) -> bool:
    """Whether `--data` names a folder on this machine, not `demo`, `remote:PATH` or `s3://...`."""
    return data != "demo" and not data.startswith(("remote:", "s3://"))


def _terms(path: Path, table: object) -> Terms:
    """The terms under [ec2]. Raises BadRequest for what is unknown there, or of another kind."""
    if not isinstance(table, dict):
        raise BadRequest(f"{path}: ec2 is a table, written [ec2]")
    unknown = sorted(set(table) - set(machine.TERMS))
    if unknown:
        raise BadRequest(
            f"{path} has an unknown setting ec2.{unknown[0]!s:.60}; known are {', '.join(machine.TERMS)}"
        )
    try:
        return machine.terms(table, f"{path} under [ec2]")
    except contract.ContractError as e:
        raise BadRequest(f"{e}: mend it") from e


def _from(path: Path, named: str) -> str:
    """What the file names, as seen from the folder it lies in."""
    try:
        return str((path.parent / Path(named).expanduser()).resolve())
    except RuntimeError as e:
        raise BadRequest(f"{path}: {named!r:.80} begins in a home folder that is not there") from e
