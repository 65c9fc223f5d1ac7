"""What is worth a word about a course, from streams a real trainer wrote and from made ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from orchestrator.hints import hints
from orchestrator.progress import Progress, fold
from tests.orchestrator.test_progress import recorded
from trainer.contract import Dataset, Epoch, Started

FOUND = Dataset(
    t=1.0,
    files=10,
    used=10,
    skipped=0,
    train=8,
    val=2,
    frames=5,
    dim=4,
    classes=["angry", "calm"],
    counts={"angry": 6, "calm": 4},
    fingerprint="f",
)


def course(
    val_accuracy: Sequence[float | None],
    *,
    accuracy: Sequence[float] = (),
    loss: Sequence[float | None] = (),
    val_loss: Sequence[float] = (),
) -> list[str]:
    """The kinds of hints on a run with these figures."""
    happened = [Started(t=1.0, attempt=1, first_epoch=1, epochs=99, recipe="v9_attention"), FOUND]
    for i, value in enumerate(val_accuracy):
        metrics: dict[str, float | None] = {"val_accuracy": value}
        for name, values in (("accuracy", accuracy), ("loss", loss), ("val_loss", val_loss)):
            if values:
                metrics[name] = values[i]
        happened.append(Epoch(t=2.0 + i, epoch=i + 1, metrics=metrics, lr=1e-3, seconds=1.0))  # type: ignore[arg-type]
    return [hint.kind for hint in hints(fold(Progress(), happened))]


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ([], []),
        ([0.7], []),
        ([0.7, 0.8, 0.75, 0.7, 0.72, 0.71], []),
        ([0.7, 0.8, 0.75, 0.7, 0.72, 0.71, 0.73], ["plateau"]),
        ([0.7, 0.8, 0.8, 0.8, 0.8], []),
        ([0.7, *[0.8] * 8], ["flat", "plateau"]),
        ([0.5, 0.51, 0.55, 0.58, 0.6], ["chance"]),
        ([0.5, 0.51, 0.55, 0.58, 0.61], []),
        ([0.0] * 8, ["flat", "chance", "plateau"]),
        ([0.7, None], ["not a number"]),
        ([None, None, None, None, None, None], ["not a number"]),
    ],
)
def test_the_course_of_val_accuracy(values: list[float | None], kinds: list[str]) -> None:
    assert course(values) == kinds


def test_overfitting_is_the_gap_or_a_val_loss_that_turns_while_the_loss_falls_on() -> None:
    rising = [0.61, 0.62, 0.63, 0.64, 0.65]
    assert course(rising, accuracy=[0.7, 0.7, 0.7, 0.7, 0.79]) == []
    assert course(rising, accuracy=[0.7, 0.7, 0.7, 0.7, 0.81]) == ["overfitting"]
    turned = [0.9, 0.7, 0.75, 0.8, 0.85]
    assert course(rising, loss=[0.9, 0.8, 0.7, 0.6, 0.5], val_loss=turned) == ["overfitting"]
    assert course(rising, loss=[0.9, 0.8, 0.81, 0.82, 0.83], val_loss=turned) == []


def test_of_a_real_run_with_the_same_val_accuracy_four_times_nothing_is_said() -> None:
    assert hints(fold(Progress(), recorded("finished"))) == []


def test_a_number_that_is_none_is_told_with_the_epoch_it_began_at() -> None:
    happened = [
        Epoch(t=float(n), epoch=n, metrics={"loss": 0.5 if n < 7 else None}, lr=None, seconds=1.0)
        for n in range(1, 10)
    ]
    assert hints(fold(Progress(), happened))[0].text == "loss not a number since epoch 7"
