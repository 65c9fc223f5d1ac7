"""What best models are worth, asked where they lie: one on other data, the folds of a division together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator import bundle as bundles
from orchestrator import fetch, remote
from orchestrator.errors import BadRequest
from orchestrator.run import Run
from orchestrator.shell import Shell
from orchestrator.start import Telling

if TYPE_CHECKING:
    from trainer.clips import Report

REMOTE = "remote:"


def assess(run: Run, shell: Shell, named: str, report: Report | None, telling: Telling) -> dict[str, Any]:
    """The answer of `trainer.examine`; `report` is None for data that lie on the machine.

    Raises BadRequest for data that do not fit the model, before any of them is sent; every Ec2emoError.
    """
    assert run.machine is not None
    about = fetch.about_best(run, shell)
    if report and (why := report.misfit(dim=about["dim"], key=about["feature_key"])):
        raise BadRequest(f"{named} cannot be evaluated on: {why}", run=run.id)
    bundle = bundles.make()
    facts = remote.probe(shell, run.machine, bundle, report.fingerprint if report else "-")
    remote.send_code(shell, facts, bundle)
    code = remote.code_dir(facts, bundle)
    if report is None:
        place = named.removeprefix(REMOTE)
    elif run.machine.provider == "local":
        place = str(report.folder)
    else:
        if not facts.data:
            telling.phase(f"sending {len(report.used):,} clips")
        place = remote.send_data(
            shell,
            facts,
            code,
            str(run.python),
            report.folder,
            report.fingerprint,
            report.used,
            telling.on_bytes,
        )
    telling.phase(f"evaluating {run.id} on {run.machine.name}")
    return remote.examine(shell, run, code, place)


def pool(runs: Sequence[Run], shell: Shell) -> dict[str, Any]:
    """The answer of `trainer.pool` for folds that lie on one machine. Raises every Ec2emoError."""
    first = runs[0]
    assert first.machine is not None
    bundle = bundles.make()
    facts = remote.probe(shell, first.machine, bundle, "-")
    remote.send_code(shell, facts, bundle)
    return remote.pool(shell, runs, remote.code_dir(facts, bundle))
