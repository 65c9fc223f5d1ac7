"""What a run's best model is worth on other data: they come to the run's machine, and we ask there."""

from __future__ import annotations

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
