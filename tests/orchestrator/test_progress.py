"""Events to Progress, from streams a real trainer wrote; and who is believed about the state of a run."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.machine import Machine
from orchestrator.progress import METRIC, Progress, Snapshot, State, Status, Verdict, fold, judge
from orchestrator.published import Answer, answer
from orchestrator.run import Asked, Run
from trainer.contract import Ended, Epoch, Note, Saved, Spec, Started, Unknown, decode

DATA = Path(__file__).parent / "data"
STREAMS = sorted(p.stem for p in DATA.glob("*.jsonl"))


def recorded(name: str) -> list[Any]:
    return [decode(line) for line in (DATA / f"{name}.jsonl").read_bytes().splitlines()]


def started(attempt: int = 1, first: int = 1, epochs: int = 10, t: float = 1.0) -> Started:
    return Started(t=t, attempt=attempt, first_epoch=first, epochs=epochs, recipe="v9_attention")


def epoch(number: int, value: float | None = 0.5, *, t: float = 2.0, seconds: float = 10.0) -> Epoch:
    return Epoch(t=t, epoch=number, metrics={"accuracy": 0.9, METRIC: value}, lr=1e-3, seconds=seconds)


def ended(status: Any = "finished") -> Ended:
    return Ended(t=3.0, status=status, reason="because")


# The fold


def test_a_finished_run() -> None:
    seen = fold(Progress(), recorded("finished"))
    assert (seen.attempt, seen.first_epoch, seen.epochs, seen.unreadable) == (1, 1, 4, 0)
    assert [p.epoch for p in seen.points] == [1, 2, 3, 4]
    assert seen.best == seen.points[0]  # 0.625 four times: the first holds
    assert {p.metrics[METRIC] for p in seen.points} == {0.625}
    assert seen.dataset is not None
    assert (seen.dataset.classes, seen.dataset.synthetic) == (["angry", "happy", "neutral", "sad"], True)
    assert set(seen.saved) == {"model", "weights", "checkpoint"}
    assert seen.saved["checkpoint"].epoch == 4
    assert seen.ended is not None
    assert (seen.ended.status, seen.ended.best_epoch, seen.host) == ("finished", 1, "gpu-box")
    assert seen.last_event == seen.ended.t
    assert seen.eta_seconds(seen.ended.t) is None


def test_a_run_that_was_stopped_resumed_and_extended() -> None:
    seen = fold(Progress(), recorded("stopped-resumed-extended"))
    assert (seen.attempt, seen.first_epoch, seen.epochs) == (3, 7, 8)
    assert [p.epoch for p in seen.points] == list(range(1, 9))
    assert seen.best is not None
    assert seen.best.epoch == 1
    assert [n.text for n in seen.notes] == [
        "goes on from epoch-0002, after 8 steps",
        "goes on from best-0001, after 4 steps",
    ]
    assert seen.ended is not None
    assert seen.ended.reason == "all 8 epochs are trained"


def test_a_run_that_was_killed_in_the_middle_of_a_line_and_trained_an_epoch_twice() -> None:
    events = recorded("killed-torn-resumed")
    seen = fold(Progress(), events)
    assert (seen.attempt, seen.unreadable) == (2, 1)
    assert [p.epoch for p in seen.points] == [1, 2, 3, 4]
    twice = [e for e in events if isinstance(e, Epoch) and e.epoch == 2]
    assert len(twice) == 2
    assert seen.points[1].seconds == twice[1].seconds != twice[0].seconds


def test_a_run_that_failed_before_its_first_epoch() -> None:
    seen = fold(Progress(), recorded("failed"))
    assert (seen.points, seen.best, seen.last, seen.gap, seen.seconds_per_epoch) == (
        (),
        None,
        None,
        None,
        None,
    )
    assert seen.eta_seconds(1.0) is None
    assert seen.ended is not None
    assert "is not the run's" in seen.ended.reason


@pytest.mark.parametrize("name", STREAMS)
def test_piece_by_piece_the_fold_comes_to_the_same(name: str) -> None:
    events = recorded(name)
    piecewise = Progress()
    for event in events:
        piecewise = fold(piecewise, [event])
    assert piecewise == fold(Progress(), events)
    for cut in range(len(events)):
        assert fold(fold(Progress(), events[:cut]), events[cut:]) == piecewise


def test_a_started_after_an_end_is_running_again() -> None:
    seen = fold(Progress(), [started(), epoch(1), ended(), started(2, 2)])
    assert (seen.ended, seen.attempt, seen.first_epoch, len(seen.points)) == (None, 2, 2, 1)


def test_for_a_repeated_epoch_the_later_line_holds_and_later_epochs_go_with_it() -> None:
    """They were trained from weights that are not this run's any more."""
    first = [started(), epoch(1, 0.3), epoch(2, 0.9), epoch(3, 0.8)]
    seen = fold(Progress(), [*first, started(2, 2), epoch(2, 0.4)])
    assert [(p.epoch, p.metrics[METRIC]) for p in seen.points] == [(1, 0.3), (2, 0.4)]
    assert seen.best == seen.points[1]


@pytest.mark.parametrize("values", [(0.5, 0.7, 0.7, 0.6), (0.0, 0.0), (None, 0.1), (0.2, None, 0.2)])
def test_of_equal_best_values_the_first_is_best(values: tuple[float | None, ...]) -> None:
    seen = fold(Progress(), [epoch(n, v) for n, v in enumerate(values, 1)])
    top = max(v for v in values if v is not None)
    assert seen.best is not None
    assert seen.best.epoch == values.index(top) + 1


@pytest.mark.parametrize("nothing", [math.nan, math.inf, None])
def test_what_is_no_number_is_never_best(nothing: float | None) -> None:
    seen = fold(Progress(), [epoch(1, nothing), epoch(2, 0.1), epoch(3, nothing)])
    assert seen.best is not None
    assert seen.best.epoch == 2
    assert fold(Progress(), [epoch(1, nothing)]).best is None
    no_such_metric = Epoch(t=1.0, epoch=1, metrics={}, lr=None, seconds=1.0)
    assert fold(Progress(), [no_such_metric]).best is None


def test_only_the_latest_notes_are_kept() -> None:
    seen = fold(Progress(), [Note(t=1.0, text=str(n)) for n in range(100)])
    assert [n.text for n in seen.notes] == [str(n) for n in range(80, 100)]


def test_the_latest_file_of_a_role_is_kept() -> None:
    seen = fold(Progress(), [Saved(t=1.0, role="weights", path=f"{n}", epoch=n) for n in (1, 2)])
    assert seen.saved["weights"].path == "2"


def test_the_gap_is_training_minus_validation() -> None:
    assert fold(Progress(), [epoch(1, 0.4)]).gap == pytest.approx(0.5)
    assert fold(Progress(), [epoch(1, None)]).gap is None


# The time that is left


def test_before_the_first_epoch_nobody_knows_how_long_it_takes() -> None:
    assert fold(Progress(), [started()]).eta_seconds(100.0) is None


def test_the_time_left_shrinks_while_an_epoch_is_trained_and_never_below_the_epochs_after_it() -> None:
    seen = fold(Progress(), [started(epochs=10), epoch(1, t=100.0), epoch(2, t=110.0)])
    assert seen.eta_seconds(110.0) == 80.0
    assert seen.eta_seconds(114.0) == 76.0
    assert seen.eta_seconds(500.0) == 70.0
    assert seen.eta_seconds(0.0) == 80.0  # a clock that was put back


def test_the_time_left_is_by_the_median_so_one_slow_epoch_changes_little() -> None:
    slow = [epoch(1, seconds=300.0), *(epoch(n, seconds=10.0) for n in range(2, 6))]
    seen = fold(Progress(), [started(epochs=6), *slow])
    assert seen.seconds_per_epoch == 10.0


def test_after_the_last_epoch_nothing_is_left() -> None:
    assert fold(Progress(), [started(epochs=2), epoch(1), epoch(2), epoch(3)]).eta_seconds(5.0) == 0.0
    assert fold(Progress(), [started(), epoch(1), ended()]).eta_seconds(5.0) is None


@settings(deadline=None)
@given(
    st.lists(
        st.builds(epoch, st.integers(), st.none() | st.floats(), t=st.floats(), seconds=st.floats())
        | st.builds(started, st.integers(), st.integers(), st.integers(0, 2**63))
        | st.just(ended())
        | st.just(Unknown(t=0.0, line="x"))
    ),
    st.floats(),
)
def test_whatever_comes_the_fold_holds_and_can_be_written(events: list[Any], now: float) -> None:
    seen = fold(Progress(), events)
    numbers = [p.epoch for p in seen.points]
    assert numbers == sorted(set(numbers))
    snapshot = Snapshot(RUN, seen, judge(seen, None), now)
    assert json.dumps(answer(snapshot))
    if seen.best:
        value = seen.best.metrics[METRIC]
        assert value is not None
        assert math.isfinite(value)
        assert all(
            value >= v for p in seen.points if (v := p.metrics[METRIC]) is not None and math.isfinite(v)
        )


# Who is believed

EXITS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "zero": {"code": 0, "signal": None, "stopped": False},
    "one": {"code": 1, "signal": None, "stopped": False, "tail": ["Traceback", "ValueError: no", ""]},
    "signal": {"code": None, "signal": "SIGSEGV", "stopped": False, "oom": False},
    "oom": {"code": None, "signal": "SIGKILL", "stopped": False, "oom": True},
    "stopped": {"code": None, "signal": "SIGKILL", "stopped": True, "oom": False},
    "interrupted": {
        "code": 0,
        "signal": None,
        "stopped": False,
        "cause": "interrupted",
        "why": "AWS wants it",
    },
    "capped": {
        "code": 0,
        "signal": None,
        "stopped": False,
        "cause": "capped",
        "why": "the limit of 12 hours",
    },
    "hung": {"code": None, "signal": "SIGKILL", "stopped": False, "cause": "hung", "why": "no sign of work"},
}
BY_EXIT = {"zero": "finished", "one": "failed", "signal": "failed", "oom": "failed", "stopped": "stopped"}
BY_GUARD = {"interrupted": "interrupted", "capped": "capped", "hung": "failed"}
TOLD = {
    "nothing": [],
    "begun": [started(2)],
    "finished": [started(2), ended("finished")],
    "stopped": [started(2), ended("stopped")],
    "failed": [started(2), ended("failed")],
    "only the attempt before": [started(1), ended("finished")],
}


def cases() -> Iterator[tuple[bool, bool, str, str, bool]]:
    """Reached or not, lock held or not, what the trainer told, what the supervisor recorded, restarted."""
    yield from itertools.product((True, False), (True, False), TOLD, EXITS, (True, False))


def expected(reached: bool, alive: bool, told: str, end: str, rebooted: bool) -> str:
    """As docs/design.md says it: the lock, a guard's word, `ended`, the exit record, else lost."""
    its_own_word = told in ("finished", "stopped", "failed")
    if not reached:
        return told if its_own_word else "unreachable"
    if alive:
        return "starting" if told in ("nothing", "only the attempt before") else "running"
    if end in BY_GUARD and told != "finished":
        return BY_GUARD[end]
    if its_own_word:
        return told
    return BY_EXIT.get(end, "lost")


@pytest.mark.parametrize(("reached", "alive", "told", "end", "rebooted"), list(cases()))
def test_the_lock_then_the_trainers_word_then_the_exit_record(
    reached: bool, alive: bool, told: str, end: str, rebooted: bool
) -> None:
    status = Status(alive, 2, 1.0, exit=EXITS[end], rebooted=rebooted) if reached else None
    verdict = judge(fold(Progress(), TOLD[told]), status, asked=2)
    assert verdict.state == expected(reached, alive, told, end, rebooted)
    assert (verdict.error is not None) == (verdict.state in ("failed", "lost"))
    if verdict.state == "lost":
        assert ("restarted" in str(verdict.error)) == rebooted


def test_an_end_of_an_earlier_attempt_says_nothing_of_a_later_one_out_of_reach() -> None:
    """A run that was resumed, and whose machine then went out of reach, was reported finished."""
    seen = fold(Progress(), [started(1), ended("finished")])
    assert judge(seen, None, asked=1).state == "finished"
    assert judge(seen, None, asked=2).state == "unreachable"


def test_a_machine_that_knows_no_attempt_has_not_launched_it() -> None:
    assert judge(Progress(), Status(False, 0, 1.0)) == Verdict("starting", "not launched yet")
    assert judge(Progress(), Status(True, 0, 1.0)).state == "starting"


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("one", "exit code 1: ValueError: no"),
        ("signal", "ended by SIGSEGV"),
        ("oom", "ended by SIGKILL; the kernel was out of memory"),
        ("stopped", "stopped when asked"),
        ("zero", "ended with exit code 0"),
        ("interrupted", "AWS wants it"),
        ("capped", "the limit of 12 hours"),
    ],
)
def test_an_exit_record_is_told_in_words(end: str, words: str) -> None:
    assert judge(Progress(), Status(False, 1, 1.0, exit=EXITS[end])).reason == words


# What is printed

SPEC = Spec("a-run", "v9_attention", "/d", "f", 30, 8)
RUN = Run("a-run", SPEC, "local", "demo", 1.0, Machine("local"), "/r", "/p", (Asked("t", 1.0, "c", 1),))


@pytest.mark.parametrize("state", get_args(State))
def test_the_object_has_the_same_keys_in_every_state_and_says_what_to_type_next(state: Any) -> None:
    for events in ([], [started(epochs=7)], recorded("finished")):
        body = answer(Snapshot(RUN, fold(Progress(), events), Verdict(state), 5.0))
        assert list(body) == list(Answer.__annotations__)
        assert body["next"].startswith("ec2emo ")
        assert "a-run" in body["next"]


def test_the_object_of_a_run_on_its_way() -> None:
    seen = fold(Progress(), [started(epochs=7), epoch(1, 0.5, t=10.0), epoch(2, 0.4, t=20.0)])
    body = answer(Snapshot(RUN, seen, Verdict("running"), 25.0))
    assert (body["epoch"], body["epochs"], body["best"]) == (2, 7, {"epoch": 1, METRIC: 0.5})
    assert (body["eta_seconds"], body["seconds_per_epoch"], body["lr"]) == (45.0, 10.0, 1e-3)
    over = answer(Snapshot(RUN, seen, Verdict("lost", "x", "x"), 25.0))
    assert over["eta_seconds"] is None


def test_before_the_trainer_speaks_the_epochs_are_those_asked_for() -> None:
    assert answer(Snapshot(RUN, Progress(), Verdict("starting"), 1.0))["epochs"] == 30


def test_the_attempt_asked_for_counts_before_the_machine_has_answered() -> None:
    asked = [None, 1, 2]
    runs = dataclasses.replace(RUN, attempts=())
    assert runs.asked == 0
    seen = []
    for number in asked:
        runs = runs.with_attempt(Asked(f"t{len(runs.attempts)}", 1.0, "c", number))
        seen.append(runs.asked)
    assert seen == [1, 1, 2]
    assert runs.with_attempt(Asked("new", 1.0, "c")).asked == 3


# No epoch for too long


def slow(*, planned: int = 10, attempt_at: float = 1.0) -> Progress:
    """Four epochs of 30 s each, the last at 121 s."""
    begun = started(t=attempt_at, epochs=planned)
    return fold(Progress(), [begun, *(epoch(n, t=1.0 + 30 * n, seconds=30.0) for n in range(1, 5))])


@pytest.mark.parametrize(("now", "state"), [(121.0 + 89, "running"), (121.0 + 91, "stalled")])
def test_three_times_the_usual_without_an_epoch_is_a_stall(now: float, state: str) -> None:
    alive = Status(alive=True, attempt=1, now=now)
    verdict = judge(slow(), alive)
    assert verdict.state == state
    assert (verdict.reason == "an epoch takes 30 s, and none has come after epoch 4") == (state == "stalled")
    assert judge(slow(), alive, 1, now + 3600).state == "stalled"


def test_what_takes_its_time_is_no_stall() -> None:
    late = Status(alive=True, attempt=1, now=9999.0)
    assert judge(slow(planned=4), late).state == "running"  # all are trained: it evaluates
    assert judge(slow(attempt_at=200.0), late).state == "running"  # a new attempt reads its data
    assert judge(fold(Progress(), [started()]), late).state == "running"  # nobody knows how long one takes
    quick = fold(Progress(), [started(), epoch(1, t=2.0, seconds=0.5)])
    assert judge(quick, Status(alive=True, attempt=1, now=60.0)).state == "running"
    assert judge(quick, Status(alive=True, attempt=1, now=63.0)).state == "stalled"


def test_a_dead_run_is_never_stalled_and_an_unreachable_one_neither() -> None:
    assert judge(slow(), Status(alive=False, attempt=1, now=9999.0)).state == "lost"
    assert judge(slow(), None, 1, 9999.0).state == "unreachable"
