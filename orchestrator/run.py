"""A run as home knows it: what was asked, where it trains, which attempts were made. `run.json` holds it."""

from __future__ import annotations

import dataclasses
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator import machine as machines
from orchestrator.errors import BadRequest
from orchestrator.machine import Machine, Terms
from trainer import contract

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(frozen=True)
class Asked:
    """An attempt, written down before it is launched; `number` comes with the machine's word."""

    token: str
    at: float
    code: str
    number: int | None = None


@dataclass(frozen=True)
class Run:
    """One run. `data` and `where` are what `--data` and `--on` said; `machine` is None until one is there.

    `terms` are those for renting one, None where none is rented. `accelerators` is what TensorFlow saw on a
    rented machine: GPUs, driver, versions.
    """

    id: str
    spec: contract.Spec
    where: str
    data: str
    created: float
    machine: Machine | None = None
    root: str | None = None
    python: str | None = None
    attempts: tuple[Asked, ...] = ()
    terms: Terms | None = None
    accelerators: Mapping[str, Any] | None = None

    @property
    def folder(self) -> str:
        """The run folder on the machine. Raises BadRequest while the machine is not known."""
        if self.root is None:
            raise BadRequest(
                f"{self.id} never reached a machine: deploy again, or see 'ec2emo runs'", run=self.id
            )
        return f"{self.root}/runs/{self.id}"

    @property
    def asked(self) -> int:
        """The number of the latest attempt; of one whose number the machine has not said, the next one."""
        known = max((a.number for a in self.attempts if a.number), default=0)
        return known if not self.attempts or self.attempts[-1].number else known + 1

    @property
    def group(self) -> str | None:
        """What the cross-validation is called that this run is a fold of; None when it is none."""
        return None if self.spec.fold is None else self.id.removesuffix(f"-f{self.spec.fold}")

    def with_attempt(self, asked: Asked) -> Run:
        """With one more attempt, or the last one again with its number."""
        kept = tuple(a for a in self.attempts if a.token != asked.token)
        return dataclasses.replace(self, attempts=(*kept, asked))

    def to_json(self) -> bytes:
        """As written to `run.json`."""
        return contract.to_json({"contract": contract.VERSION, **dataclasses.asdict(self)})


def parse(data: bytes, name: str) -> Run:
    """The run in `data`. Raises contract.ContractError when it is not one."""
    body = contract.parse_object(data, name)
    machine, attempts, terms = body.get("machine"), body.get("attempts", []), body.get("terms")
    if not isinstance(attempts, list):
        raise contract.ContractError(f"{name} has no list of attempts")
    return contract.build(
        Run,
        {
            **body,
            "spec": contract.build(contract.Spec, body.get("spec"), name),
            "machine": None if machine is None else contract.build(Machine, machine, name),
            "terms": None if terms is None else machines.terms(terms, name),
            "attempts": tuple(contract.build(Asked, a, name) for a in attempts),
        },
        name,
    )


def new_id(tag: str, name: str | None) -> str:
    """A run's id: the name given, else the recipe's tag, the minute, and three letters against a clash."""
    if name is None:
        letters = "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz") for _ in range(3))
        return f"{tag.replace('_', '-')}-{time.strftime('%m%d-%H%M')}-{letters}"
    if not NAME.fullmatch(name):
        raise BadRequest(
            f"{name!r:.80} cannot name a run: use small letters, digits, - and _, at most 63 characters"
        )
    return name


def folded(run: Run, count: int) -> list[Run]:
    """A run for each of `count` folds, called NAME-f1, NAME-f2…; each waits for those before it."""
    ids = [f"{run.id}-f{fold}" for fold in range(1, count + 1)]
    if not NAME.fullmatch(ids[-1]):
        raise BadRequest(f"{run.id!r:.80} is too long a name for {count} folds: choose a shorter --name")
    return [
        dataclasses.replace(
            run,
            id=one,
            spec=dataclasses.replace(
                run.spec, run=one, uid=new_token(), fold=i + 1, folds=count, after=ids[:i]
            ),
        )
        for i, one in enumerate(ids)
    ]


def new_token() -> str:
    """What makes one launch repeatable without ever starting twice."""
    return secrets.token_hex(8)


def describe(run: Run) -> dict[str, Any]:
    """The part of a run every `--json` answer begins with."""
    return {
        "run": run.id,
        "recipe": run.spec.recipe,
        "machine": run.machine.name if run.machine else run.where,
    }
