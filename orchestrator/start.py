"""One start of a run, its first or a later one: make the machine ready, launch, hear the trainer's word.

Every step is written down before it is taken and can be taken again: a kill anywhere leaves a run that
`ec2emo resume` starts, or finds started.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import aliases, data, providers, remote
from orchestrator import bundle as bundles
from orchestrator.connect import Ahead, open_shell
from orchestrator.errors import BadRequest, RunFailed
from orchestrator.machine import Machine
from orchestrator.run import Asked, Run
from orchestrator.settings import is_folder
from orchestrator.shell import Shell
from orchestrator.store import Store
from trainer import contract

if TYPE_CHECKING:
    from trainer.clips import Report


@dataclass(frozen=True)
class Telling:
    """Where the words and the bytes of a start are shown."""

    phase: Callable[[str], None]
    on_bytes: Callable[[int, int], None]


def ahead(wish: providers.Wish) -> Ahead | None:
    """A connection that opens while data are looked at, to a machine of yours; a rented one, which may cost,
    hears nothing before the data are judged.
    """
    if wish.provider != "attached":
        return None
    machine: Machine = providers.load(wish.provider).acquire(wish, None)
    return Ahead(machine)


def begin(
    store: Store,
    run: Run,
    attempt: contract.Attempt,
    *,
    key: str | None,
    report: Report | None,
    telling: Telling,
    opening: Ahead | None = None,
) -> tuple[Run, Shell]:
    """Start an attempt; answers the run with the attempt's number, and the shell, still open.

    `report` is what was seen of the data here; None when it lies on the machine or was sent before.
    `opening` is a connection that was begun earlier. Raises every Ec2emoError.
    """
    with ThreadPoolExecutor(max_workers=1) as meanwhile:  # a machine that boots leaves time for it
        packed = meanwhile.submit(bundles.make)
        run = _with_machine(store, run, key, telling)
    assert run.machine is not None
    bundle = packed.result()
    shell = opening.shell() if opening and opening.machine == run.machine else open_shell(run.machine)
    try:
        facts = remote.probe(shell, run.machine, bundle, run.spec.fingerprint)
        remote.send_code(shell, facts, bundle)
        code = remote.code_dir(facts, bundle)
        python = remote.environment(shell, run.machine, facts, bundle, telling.phase)
        run = dataclasses.replace(run, root=facts.root, python=python)
        run = _see_gpus(store, run, shell, facts, telling)
        _bring_back(run, shell, code, telling)
        run = _settle_data(store, run, shell, facts, code, report, telling)
        asked = Asked(attempt.token, time.time(), bundle.hash)
        run = run.with_attempt(asked)
        store.freeze(run)
        number = remote.launch(shell, run, run.spec, attempt, code, python)
        run = run.with_attempt(dataclasses.replace(asked, number=number))
        store.save(run)
    except BaseException:
        shell.close()
        raise
    return run, shell


def _see_gpus(store: Store, run: Run, shell: Shell, facts: remote.Facts, telling: Telling) -> Run:
    """With what TensorFlow sees of a rented machine. Raises RunFailed when a GPU is paid for and not seen."""
    assert run.machine is not None and run.python is not None
    renter = providers.renter(run.machine.provider)
    if renter is None:
        return run
    telling.phase("looking at the GPU")
    seen = remote.accelerators(shell, facts, run.python)
    name = run.machine.name
    run = dataclasses.replace(run, accelerators=seen)
    store.save(run)
    if not seen["gpus"] and renter.has_gpu(store, run) and not (run.terms and run.terms.allow_cpu):
        driver = f"driver {facts.driver}" if facts.driver else "no driver"
        raise RunFailed(
            f"{name} is paid for its GPU, and TensorFlow {seen['tensorflow']} sees none ({driver}): choose "
            f"another image, or 'ec2emo resume {run.id} --allow-cpu' trains on its CPU; it costs on until "
            f"'ec2emo machines terminate {name}'",
            run=run.id,
        )
    return run


def _bring_back(run: Run, shell: Shell, code: str, telling: Telling) -> None:
    """On a new machine, what an earlier one has kept of the run in S3."""
    assert run.machine is not None and run.python is not None
    if run.machine.store is None or not run.attempts:
        return
    files = remote.restore(shell, run, code, run.python)
    if files:
        telling.phase(f"brought {files} files of {run.id} back from S3")
    elif files == 0 and any(asked.number for asked in run.attempts):
        telling.phase(f"nothing of {run.id} had reached S3 yet: it starts over")


def _with_machine(store: Store, run: Run, key: str | None, telling: Telling) -> Run:
    """With a machine that is there; one that is rented may have ended, moved, or never come."""
    if run.machine is not None and not providers.renter(run.machine.provider):
        return run
    wish = providers.wish_for(run.where, key)
    machine = providers.load(wish.provider).acquire(wish, providers.Errand(run, store, telling.phase))
    if machine != run.machine:
        run = dataclasses.replace(run, machine=machine)
        store.save(run)
        aliases.write(store, run)
    return run


def call_off(store: Store, run_id: str, telling: Telling) -> None:
    """Give back a rented machine on which nothing was launched; what was, goes on."""
    run = store.load(run_id)
    if not run.attempts:
        for renter in providers.renters():
            renter.roll_back(providers.Errand(run, store, telling.phase))


def _settle_data(
    store: Store,
    run: Run,
    shell: Shell,
    facts: remote.Facts,
    code: str,
    report: Report | None,
    telling: Telling,
) -> Run:
    """The data where the trainer finds it, and the spec that says where."""
    assert run.machine is not None and run.python is not None
    if run.data.startswith("remote:"):
        return _look_there(run, shell, facts, code, run.data.removeprefix("remote:"))
    there = run.machine.provider != "local"
    if there and facts.data:
        return _with_spec(run, data=f"{facts.root}/data/{run.spec.fingerprint}")
    report = report or _look_again(store, run)
    if not there:
        return _with_spec(run, data=str(report.folder))
    telling.phase(f"sending {len(report.used):,} clips")
    place = remote.send_data(
        shell, facts, code, run.python, report.folder, report.fingerprint, report.used, telling.on_bytes
    )
    return _with_spec(run, data=place)


def _look_again(store: Store, run: Run) -> Report:
    """The data of an earlier start, which must be what they were."""
    if is_folder(run.data) and not Path(run.data).is_dir():
        copied = store.is_narrowed(Path(run.data))
        raise BadRequest(
            f"{run.data}, which {run.id} was trained on, is no longer on this machine: "
            + ("'ec2emo deploy --float16' of the same data makes it again" if copied else "put it back")
            + ", or deploy a new run",
            run=run.id,
        )
    report = data.look(data.folder_of(run.data, store), store)
    if report.fingerprint != run.spec.fingerprint:
        raise BadRequest(
            f"{run.data} is not what {run.id} was trained on: its content has changed; put the files back, "
            f"or deploy a new run",
            run=run.id,
        )
    return report


def _look_there(run: Run, shell: Shell, facts: remote.Facts, code: str, folder: str) -> Run:
    """Data that lies on the machine is looked at there, before anything is started on it."""
    assert run.python is not None
    seen = remote.check_data_there(shell, facts, code, run.python, folder)
    fatal = [p["text"] for p in seen["problems"] if p["fatal"]]
    if fatal:
        raise BadRequest(f"{folder} on {facts.host} cannot be trained on: {'; '.join(fatal)}", run=run.id)
    if run.spec.fingerprint and seen["fingerprint"] != run.spec.fingerprint:
        raise BadRequest(
            f"{folder} on {facts.host} is not what {run.id} was trained on: its content has changed; deploy "
            f"a new run",
            run=run.id,
        )
    speakers_known = sum(seen["speakers"].values()) == seen["used"]
    split = run.spec.split or ("speaker" if speakers_known else "clip")
    return _with_spec(
        run, data=folder, fingerprint=seen["fingerprint"], synthetic=seen["synthetic"], split=split
    )


def _with_spec(run: Run, **changes: object) -> Run:
    if all(getattr(run.spec, name) == value for name, value in changes.items()):
        return run
    if any(a.number for a in run.attempts):
        raise BadRequest(
            f"{run.id} was started with other data ({run.spec.data}): what was asked of a run never changes; "
            f"deploy a new one",
            run=run.id,
        )
    return dataclasses.replace(run, spec=dataclasses.replace(run.spec, **changes))  # type: ignore[arg-type]
