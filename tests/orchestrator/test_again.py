"""Going on whenever a machine is taken away: while that gets anywhere, and within the cap on cost."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands import _again
from orchestrator.commands._again import FRUITLESS, Persistence, persistence
from orchestrator.errors import BadRequest, Interrupted
from orchestrator.lease import Lease
from orchestrator.machine import Machine, Terms
from orchestrator.progress import Progress, Snapshot, State, Verdict, fold
from orchestrator.run import Run
from orchestrator.store import Store
from tests.orchestrator import snapshots
from trainer.contract import Attempt


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that were gone on with; what that does is another test's."""
    gone_on: list[Run] = []
    monkeypatch.setattr(_again, "attempt_for", lambda *_: Attempt(number=0, token="t"))
    monkeypatch.setattr(_again, "go_on", lambda store, run, attempt, yes: gone_on.append(run) or "a follower")
    return gone_on


def rented(store: Store, max_cost: float | None = None) -> Run:
    machine = Machine("ec2", host="h", id="i-1", region="us-east-1")
    run = dataclasses.replace(snapshots.run(), machine=machine, terms=Terms(max_cost=max_cost))
    store.create(run)
    return run


def seen(run: Run, state: State = "interrupted", epochs: int = 0) -> Snapshot:
    progress = fold(Progress(), snapshots.events(epochs))
    return Snapshot(run, progress, Verdict(state, "AWS takes it back"), 0.0)


@pytest.mark.parametrize("state", ["finished", "stopped", "failed", "capped", "lost", "unreachable"])
def test_only_an_interruption_is_gone_on_from(store: Store, asked: list[Run], state: Any) -> None:
    assert Persistence(store).after(seen(rented(store), state)) is None
    assert not asked


def test_it_goes_on_as_long_as_epochs_come_of_it(store: Store, asked: list[Run]) -> None:
    run, again = rented(store), Persistence(store)
    for epochs in range(1, 8):
        assert again.after(seen(run, epochs=epochs)) == "a follower"
    assert len(asked) == 7


def test_it_gives_up_when_machine_after_machine_goes_without_an_epoch(store: Store, asked: list[Run]) -> None:
    run, again = rented(store), Persistence(store)
    again.after(seen(run, epochs=4))
    with pytest.raises(Interrupted, match=f"interrupted {FRUITLESS} times without an epoch") as e:
        for _ in range(FRUITLESS):
            again.after(seen(run, epochs=4))
    assert e.value.exit_code == 7
    assert len(asked) == FRUITLESS


def test_the_next_machine_may_cost_what_is_left(store: Store, asked: list[Run]) -> None:
    run = rented(store, max_cost=2.0)
    lease = Lease(
        run=run.id,
        uid="u",
        number=1,
        provider="ec2",
        region="us-east-1",
        owner="me",
        asked=0.0,
        terms=Terms(disk_gb=8),
        instance="i-1",
        usd_per_hour=1.0,
        launched=1000.0,
        ended=4600.0,
    )
    store.keep_lease(lease)
    Persistence(store).after(seen(run, epochs=1))
    (gone_on,) = asked
    assert gone_on.terms
    assert gone_on.terms.max_cost == pytest.approx(1.0, abs=0.01)


def test_it_needs_somebody_who_watches(store: Store) -> None:
    with pytest.raises(BadRequest, match="goes with --follow"):
        persistence(store, follow=False, asked=True)
    assert persistence(store, follow=True, asked=False) is None
