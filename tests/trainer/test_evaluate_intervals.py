"""Intervals and curves, against scikit-learn, against drawing clips one by one, and by hand."""

from typing import Any

import numpy as np
import pytest

from trainer.scores import evaluate, intervals, roc

RANDOM = np.random.default_rng(5)
LABELS = RANDOM.integers(0, 4, 300)
PROBABILITIES = RANDOM.dirichlet(np.ones(4), 300)
PROBABILITIES[np.arange(300), LABELS] += 0.3
CLASSES = ["angry", "calm", "happy", "sad"]


def found(speakers: list[str | None] | None = None) -> evaluate.Evaluation:
    who = speakers or [None] * len(LABELS)
    return evaluate.evaluate(LABELS, PROBABILITIES, classes=CLASSES, speakers=who)


def test_every_class_agrees_with_scikit_learn() -> None:
    from sklearn import metrics

    guesses = PROBABILITIES.argmax(axis=1)
    told = metrics.precision_recall_fscore_support(LABELS, guesses)
    for i, (name, one) in enumerate(found().per_class.items()):
        assert name == CLASSES[i]
        assert (one.precision, one.recall, one.f1, one.support) == pytest.approx([t[i] for t in told])
        assert one.auc == pytest.approx(metrics.roc_auc_score(i == LABELS, PROBABILITIES[:, i]))


def test_the_area_counts_ties_half_as_scikit_learn_does() -> None:
    from sklearn import metrics

    positive, scores = RANDOM.random(200) < 0.3, RANDOM.integers(0, 6, 200) / 5
    assert roc.area(positive, scores) == pytest.approx(metrics.roc_auc_score(positive, scores))
    false, true = roc.curve(positive, scores) or ()
    theirs = metrics.roc_curve(positive, scores, drop_intermediate=False)
    assert np.allclose(false, theirs[0])
    assert np.allclose(true, theirs[1])


@pytest.mark.parametrize(
    ("positive", "scores", "area"),
    [
        ([True, False], [0.9, 0.1], 1.0),
        ([True, False], [0.1, 0.9], 0.0),
        ([True, False, False], [0.5, 0.5, 0.5], 0.5),
        ([True, True, False, False], [0.9, 0.4, 0.6, 0.1], 0.75),
        ([True, True], [0.9, 0.1], None),
        ([False, False], [0.9, 0.1], None),
    ],
)
def test_areas_by_hand(positive: Any, scores: Any, area: float | None) -> None:
    assert roc.area(np.array(positive), np.array(scores)) == area


def test_the_interval_over_clips_is_that_of_drawing_clips_one_by_one() -> None:
    guesses = PROBABILITIES.argmax(axis=1)
    random, drawn = np.random.default_rng(0), []
    for _ in range(2000):
        chosen = random.integers(0, len(LABELS), len(LABELS))
        score = evaluate.score(LABELS[chosen], np.eye(4)[guesses[chosen]], CLASSES)
        drawn.append((score.accuracy, score.uar, score.macro_f1))
    wanted = np.percentile(drawn, [2.5, 97.5], axis=0).T
    sure = found().intervals
    assert sure.resampled == "clips"
    for bounds, low_high in zip(vars(sure.believed).values(), wanted, strict=True):
        assert bounds == pytest.approx(low_high, abs=0.008)


def test_where_speakers_differ_their_interval_is_the_wider_one() -> None:
    speakers = [f"s{i // 30}" for i in range(300)]
    labels = np.tile([0, 1], 150)
    # Half of the speakers are always understood, the others never.
    guesses = np.where(np.arange(300) // 30 % 2, labels, 1 - labels)
    sure = intervals.estimate(labels, guesses, classes=2, speakers=speakers)
    assert (sure.resampled, sure.speakers) == ("speakers", 10)
    assert sure.believed.accuracy == pytest.approx((0.2, 0.8), abs=0.11)
    assert sure.by_clip.accuracy == pytest.approx((0.443, 0.557), abs=0.01)


def test_the_interval_over_speakers_is_that_of_drawing_speakers_one_by_one() -> None:
    speakers = np.array([f"s{i % 12}" for i in range(300)])
    guesses = PROBABILITIES.argmax(axis=1)
    random, drawn = np.random.default_rng(0), []
    for _ in range(2000):
        chosen = np.concatenate([np.flatnonzero(speakers == f"s{i}") for i in random.integers(0, 12, 12)])
        drawn.append(evaluate.score(LABELS[chosen], np.eye(4)[guesses[chosen]], CLASSES).uar)
    sure = found(list(speakers)).intervals
    assert sure.believed.uar == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.01)


@pytest.mark.parametrize(
    ("speakers", "told"),
    [
        ([f"s{i % 4}" for i in range(300)], ("clips", 4)),
        ([f"s{i % 5}" for i in range(300)], ("speakers", 5)),
        ([None, *["s"] * 299], ("clips", None)),
    ],
)
def test_speakers_are_drawn_where_five_or_more_are_known(
    speakers: list[str | None], told: tuple[str, int | None]
) -> None:
    body = found(speakers).to_dict()["intervals"]
    assert (body["resampled"], body["speakers"]) == told
    assert (body["level"], body["resamples"]) == (0.95, 1000)
    assert (body["accuracy"] == body["by_clip"]["accuracy"]) == (told[0] == "clips")


def test_the_same_predictions_have_the_same_interval_and_hold_their_score() -> None:
    one, again = found(), found()
    assert one.to_dict() == again.to_dict()
    low, high = one.intervals.believed.accuracy
    assert low < one.score.accuracy < high


def test_a_class_without_clips_is_left_empty() -> None:
    body = evaluate.evaluate(
        np.array([0, 1, 1]), np.eye(3)[[0, 1, 0]], classes=["a", "b", "c"], speakers=[None] * 3
    ).to_dict()
    assert body["per_class"]["c"] == {
        "precision": None, "recall": None, "f1": None, "support": 0, "auc": None,
    }  # fmt: skip
    assert body["per_class"]["a"]["precision"] == 0.5
    assert body["uar"] == 0.75


def test_nothing_and_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="no clip"):
        evaluate.evaluate(np.array([], int), np.zeros((0, 2)), classes=["a", "b"], speakers=[])
    with pytest.raises(ValueError, match="not all numbers"):
        evaluate.evaluate(np.array([0]), np.full((1, 2), np.nan), classes=["a", "b"], speakers=[None])
