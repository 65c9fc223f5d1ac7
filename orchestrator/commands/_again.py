"""Going on with a run that has ended: `resume`, and `--auto-resume` while following."""

from __future__ import annotations

import dataclasses
import time

from orchestrator import providers, remote, settings, view
from orchestrator import run as runs
from orchestrator.commands import _renting
from orchestrator.errors import BadRequest, Interrupted, MachineGone
from orchestrator.follow import Follower
from orchestrator.progress import Snapshot
from orchestrator.providers import Errand
from orchestrator.run import Run
from orchestrator.store import Store
from trainer import contract

LEAST_CAP = 0.01  # US dollars; too little for any machine, which is then said
FRUITLESS = 3  # machines in a row that were taken away before an epoch was trained


def go_on(store: Store, run: Run, attempt: contract.Attempt, *, yes: bool) -> Follower:
    """Start the attempt, on a new machine where the last one is gone. Raises every Ec2emoError."""
    key = settings.read().identity
    wish = providers.wish_for(run.where, key)
    _renting.consent(wish, Errand(run, store, view.say), yes=yes)
    run, shell = _renting.begun(store, run, attempt, f"{run.id} goes on", key=key, report=None)
    return Follower(store, run, shell)


def persistence(store: Store, *, follow: bool, asked: bool) -> Persistence | None:
    """For `--auto-resume`. Raises BadRequest where nobody would see that it is needed."""
    if asked and not follow:
        raise BadRequest("--auto-resume goes with --follow: who does not watch does not see an interruption")
    return Persistence(store) if asked else None


class Persistence:
    """Goes on with a run as often as its machine is taken away, while that gets it anywhere."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._fruitless = 0
        self._epoch = 0

    def after(self, seen: Snapshot) -> Follower | None:
        """The run on its next machine; None when it ended for another reason. Raises Interrupted at last."""
        if seen.verdict.state != "interrupted":
            return None
        run, epoch = self._store.load(seen.run.id), seen.progress.last.epoch if seen.progress.last else 0
        self._fruitless = 0 if epoch > self._epoch else self._fruitless + 1
        self._epoch = epoch
        if self._fruitless >= FRUITLESS:
            raise Interrupted(
                f"{run.id} was interrupted {FRUITLESS} times without an epoch between: 'ec2emo resume "
                f"{run.id}' tries again; a machine that is not spot is not taken away",
                run=run.id,
            )
        view.say(f"{run.id} was interrupted ({seen.verdict.reason}): it goes on", level="warning")
        attempt = attempt_for(self._store, run, None, None)
        return go_on(self._store, self._with_the_rest(run), attempt, yes=True) if attempt else None

    def _with_the_rest(self, run: Run) -> Run:
        """Under what is left of the cap on cost: nobody was asked for more than that."""
        renter = providers.renter(run.machine.provider) if run.machine else None
        if renter is None or run.terms is None or run.terms.max_cost is None:
            return run
        bill = renter.bill(self._store, run)
        rest = max(LEAST_CAP, run.terms.max_cost - (bill.usd if bill else 0.0))
        return dataclasses.replace(run, terms=dataclasses.replace(run.terms, max_cost=rest))


def attempt_for(store: Store, run: Run, lr: float | None, epochs: int | None) -> contract.Attempt | None:
    """What to ask for, by what the run has come to; None when there is nothing to do."""
    now = _now(store, run) if run.machine and run.python and run.attempts else None
    has_begun = now is not None and (now.progress.attempt > 0 or now.verdict.state != "starting")
    if lr is not None and not (now and now.progress.points):
        raise BadRequest(
            f"{run.id} has no best weights yet: 'ec2emo resume {run.id}' without --lr", run=run.id
        )
    if not has_begun:
        # Asked for, but never begun: the same token cannot start it twice.
        token = run.attempts[-1].token if run.attempts else runs.new_token()
        return contract.Attempt(number=0, token=token, more_epochs=epochs)
    if now and now.verdict.state == "finished" and lr is None and epochs is None:
        return None
    if now and now.verdict.state == "interrupted":
        _leave_the_doomed(store, run)
    return contract.Attempt(
        number=0,
        token=runs.new_token(),
        origin="checkpoint" if lr is None else "best",
        more_epochs=epochs,
        lr=lr,
    )


def _leave_the_doomed(store: Store, run: Run) -> None:
    """A machine that is about to be taken away is still there: nothing starts on it any more.

    It is given up once the copy of the run is whole. Raises BadRequest where there is no copy.
    """
    renter = providers.renter(run.machine.provider) if run.machine else None
    if renter is None or run.machine is None:
        return
    try:
        renter.again(run.machine)
    except MachineGone:
        return
    replica = providers.replica(run)
    if replica is None:
        raise BadRequest(
            f"{run.machine.name} is being taken away, and nothing of {run.id} is kept elsewhere: 'ec2emo "
            f"download {run.id} --best' at once; after 'ec2emo setup' runs go on elsewhere",
            run=run.id,
        )
    with view.progress(f"the last of {run.id} on {run.machine.name}") as telling:
        telling.phase("waiting for the copy in S3 to be whole")
        until = time.monotonic() + remote.MIRROR_PATIENCE
        while replica.status().alive and time.monotonic() < until:
            time.sleep(1.0)
        view.say(renter.terminate(store, run.id, run.machine.region))


def _now(store: Store, run: Run) -> Snapshot:
    """How the run stands; a run that lives or cannot be seen is left alone."""
    follower = Follower(store, run)
    try:
        status = remote.status(follower.contact(), run)
        if status.alive:
            raise BadRequest(
                f"{run.id} is running: 'ec2emo monitor {run.id} --follow' watches it, 'ec2emo stop {run.id}' "
                f"ends it",
                run=run.id,
            )
        return follower.once()
    except MachineGone:
        return follower.once()
    finally:
        follower.close()
