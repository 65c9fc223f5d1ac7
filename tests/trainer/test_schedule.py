import itertools
import json
import math

import pytest

from trainer.schedule import Plan, Schedule


def rates(schedule: Schedule, epochs: range, losses: list[float] | None = None) -> list[float]:
    """Run it with ever better losses, or those given."""
    found = []
    better = (1 - 0.001 * i for i in itertools.count())
    for i, epoch in enumerate(epochs):
        found.append(schedule.rate(epoch))
        schedule.observe(epoch, losses[i] if losses else next(better))
    return found


def test_warm_up_starts_low_and_reaches_the_full_rate_in_epoch_eight() -> None:
    found = rates(Schedule(Plan(epochs=100)), range(1, 21))
    assert found[0] == 5e-6
    assert found[7] == 3e-4
    assert all(a < b for a, b in itertools.pairwise(found[:8]))
    steps = [b - a for a, b in itertools.pairwise(found[:8])]
    assert max(steps) == pytest.approx(min(steps))
    assert found[8:] == [3e-4] * 12


def test_the_cosine_goes_from_epoch_twenty_to_the_last_without_compounding() -> None:
    found = rates(Schedule(Plan(epochs=100)), range(1, 101))
    for epoch in range(20, 101):
        whole = 5e-6 + (3e-4 - 5e-6) * (1 + math.cos(math.pi * (epoch - 20) / 80)) / 2
        assert found[epoch - 1] == pytest.approx(whole, rel=1e-12)
    assert found[-1] == pytest.approx(5e-6)


def test_a_plateau_of_five_epochs_lowers_the_rate_and_the_cosine_starts_there() -> None:
    schedule = Schedule(Plan(epochs=100))
    found = rates(schedule, range(1, 22), [1.0] * 21)
    assert found[7:12] == [3e-4] * 5
    assert found[12] == pytest.approx(9e-5)
    assert found[17] == pytest.approx(2.7e-5)
    assert schedule.rate(20) == found[19] == pytest.approx(2.7e-5)
    assert schedule.rate(60) == pytest.approx(5e-6 + (2.7e-5 - 5e-6) / 2)


def test_epochs_of_the_warm_up_cost_no_patience() -> None:
    assert rates(Schedule(Plan(epochs=100)), range(1, 12), [1.0] * 11)[-1] == 3e-4


def test_a_step_is_told_once_and_in_words() -> None:
    schedule = Schedule(Plan(epochs=100))
    said = [schedule.observe(epoch, 1.0) for epoch in range(1, 14)]
    assert [s for s in said if s] == ["learning rate 0.0003 → 9e-05: val_loss stood still for 5 epochs"]


def test_a_loss_that_is_no_number_is_no_improvement() -> None:
    schedule = Schedule(Plan(epochs=100, patience=2))
    schedule.observe(8, 1.0)
    assert schedule.observe(9, math.nan) is None
    assert schedule.observe(10, None) is not None


def test_a_resume_goes_on_as_if_nothing_had_been() -> None:
    losses = [1.0, 0.9, *[0.95] * 60]
    whole = rates(Schedule(Plan(epochs=60)), range(1, 61), losses)
    for cut in range(1, 60):
        first = Schedule(Plan(epochs=60))
        head = rates(first, range(1, cut + 1), losses)
        state = json.loads(json.dumps(first.state))
        tail = rates(Schedule(Plan(epochs=60), state), range(cut + 1, 61), losses[cut:])
        assert head + tail == whole


def test_extended_training_warms_up_for_three_epochs_and_then_watches_the_plateau() -> None:
    schedule = Schedule.extended(Plan(epochs=40), lr=9e-5, first_epoch=31)
    found = rates(schedule, range(31, 41), [1.0] * 10)
    assert found[:3] == pytest.approx([3e-5, 6e-5, 9e-5])
    assert found[3:7] == [9e-5] * 4
    assert found[8] == pytest.approx(2.7e-5)


def test_extended_training_survives_a_resume() -> None:
    schedule = Schedule.extended(Plan(epochs=40), lr=9e-5, first_epoch=31)
    rates(schedule, range(31, 33))
    again = Schedule(Plan(epochs=40), json.loads(json.dumps(schedule.state)))
    assert again.rate(33) == 9e-5


@pytest.mark.parametrize("epochs", range(1, 20))
def test_a_short_run_warms_up_reaches_the_full_rate_and_comes_down(epochs: int) -> None:
    found = rates(Schedule(Plan(epochs=epochs)), range(1, epochs + 1))
    assert max(found) == 3e-4
    assert all(5e-6 <= rate <= 3e-4 for rate in found)
    if epochs >= 4:
        assert found.index(3e-4) < epochs / 2
        assert found[-1] == pytest.approx(5e-6)


@pytest.mark.parametrize("lr", [1e-7, 1e-3])
def test_no_rate_is_ever_negative_or_above_what_was_asked(lr: float) -> None:
    schedule = Schedule.extended(Plan(epochs=90), lr=lr, first_epoch=1)
    assert all(0 < rate <= lr for rate in rates(schedule, range(1, 91), [1.0] * 90))


def test_without_a_cosine_the_plateau_goes_on_to_its_own_floor() -> None:
    plan = Plan(
        epochs=60, low=1e-4, high=1e-3, warmup=10, factor=0.5, patience=5, cosine_from=None, floor=1e-6
    )
    found = rates(Schedule(plan), range(1, 61), [1.0] * 60)
    assert found[:10] == pytest.approx([1e-4 * i for i in range(1, 11)])
    assert found[9] == 1e-3
    assert found[13:15] == [1e-3, 5e-4]
    assert found[58] == pytest.approx(1e-3 / 2**9)
    assert min(rates(Schedule(plan), range(1, 400), [1.0] * 400)) == 1e-6


def test_without_a_warm_up_the_full_rate_is_there_at_once() -> None:
    plan = Plan(epochs=30, low=3e-5, high=1e-3, warmup=1, factor=0.5, patience=2, cosine_from=None)
    found = rates(Schedule(plan), range(1, 31), [1.0] * 30)
    assert found[:5] == [1e-3, 1e-3, 1e-3, 5e-4, 5e-4]
    assert found[-1] == 3e-5


@pytest.mark.parametrize("epochs", range(1, 25))
def test_a_short_run_without_a_cosine_reaches_its_rate_half_way(epochs: int) -> None:
    plan = Plan(epochs=epochs, low=1e-4, high=1e-3, warmup=10, cosine_from=None)
    found = rates(Schedule(plan), range(1, epochs + 1))
    assert found.index(1e-3) + 1 == max(1, min(10, epochs // 2))


def test_extended_training_comes_down_to_the_plan_s_floor() -> None:
    plan = Plan(epochs=400, low=1e-4, high=1e-3, cosine_from=None, floor=1e-6)
    schedule = Schedule.extended(plan, lr=5e-4, first_epoch=1)
    assert rates(schedule, range(1, 401), [1.0] * 400)[-1] == 1e-6
