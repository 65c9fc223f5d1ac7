"""JSON to dataclasses and back, and files that are whole or not there. Standard library only."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

VERSION = "1.0"

T = TypeVar("T")


class ContractError(ValueError):
    """A file of a run that this version cannot read, or that is not what it should be."""


def to_json(body: Mapping[str, Any]) -> bytes:
    """Indented JSON with a final newline, every number finite or null, ASCII only."""
    return json.dumps(finite(body), indent=2, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def publish(path: Path, data: bytes) -> None:
    """Write `data` so that a reader, or a kill at any instant, sees the old file or the new one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def load(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ContractError, also when there is none."""
    try:
        return parse_object(path.read_bytes(), path.name)
    except OSError as e:
        raise ContractError(f"cannot read {path}: {e.strerror}") from e


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in `data`. Raises ContractError, also for a larger major version, naming `name`."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise ContractError(f"{name} is not JSON: {e}") from e
    if not isinstance(body, dict):
        raise ContractError(f"{name} is not a JSON object")
    check_major(body.get("contract", VERSION), name)
    return body


def check_major(version: object, name: str) -> None:
    """Raises ContractError for a larger major version than ours, naming the side to upgrade."""
    major = major_of(version)
    if major is None:
        raise ContractError(f"{name}: {version!r:.40} is not a contract version")
    if major > int(VERSION.split(".")[0]):
        raise ContractError(
            f"{name} speaks contract {version}, this ec2emo speaks {VERSION}: upgrade ec2emo on this side"
        )


def major_of(version: object) -> int | None:
    """The major number of a contract version; None when it is none."""
    match = re.match(r"(\d{1,9})(\.|$)", version, re.ASCII) if isinstance(version, str) else None
    return int(match[1]) if match else None


def build(cls: type[T], body: object, name: str) -> T:
    """A dataclass from JSON: unknown keys are left, types are checked. Raises ContractError naming `name`."""
    if not isinstance(body, Mapping):
        raise ContractError(f"{name}: {body!r:.80} is not a JSON object")
    try:
        return fill(cls, body)
    except TypeError as e:
        raise ContractError(f"{name}: {e}") from e


def fill(cls: type[T], body: Mapping[str, Any]) -> T:
    """As `build`, without a name to blame. Raises TypeError."""
    hints = _hints(cast(Hashable, cls))
    known = {k: v for k, v in body.items() if k in hints}
    for name, value in known.items():
        hint, fits = hints[name]
        if not fits(value):
            raise TypeError(f"{name} is {value!r:.80}, not {hint}")
    return cls(**known)


@cache
def _hints(cls: Hashable) -> dict[str, tuple[Any, Callable[[Any], bool]]]:
    hints = get_type_hints(cls)
    return {f.name: (hints[f.name], _fits(hints[f.name])) for f in dataclasses.fields(cast(Any, cls))}


@cache
def _fits(hint: Any) -> Callable[[Any], bool]:
    """Tells whether a value read from JSON is of an annotated type. An int passes for a float, a bool for
    nothing else.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        tests = [_fits(a) for a in arguments]
        return lambda value: any(test(value) for test in tests)
    if origin is Literal:
        return lambda value: value in arguments
    if origin is list:
        each = _fits(arguments[0])
        return lambda value: isinstance(value, list) and all(map(each, value))
    if origin is tuple:
        return lambda value: isinstance(value, tuple)
    if origin in (dict, Mapping):
        each = _fits(arguments[1])
        return lambda value: isinstance(value, Mapping) and all(map(each, value.values()))
    if hint is Any:
        return lambda value: True
    return lambda value: _is_plain(value, hint)


def _is_plain(value: object, hint: Any) -> bool:
    if isinstance(value, bool):
        return hint is bool
    if isinstance(value, int) and abs(value) >= 2**64:
        return False  # no count of ours, and more than a float can hold
    return isinstance(value, (int, float) if hint is float else hint)


def finite(value: Any) -> Any:
    """The value with null for every number that is not finite, which JSON cannot say."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value
