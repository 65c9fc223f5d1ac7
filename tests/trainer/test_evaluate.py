import numpy as np
import pytest

from trainer.scores import evaluate


def test_a_score_counts_what_was_taken_for_what() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    guesses = np.array([0, 0, 1, 1, 0, 2])
    found = evaluate.score(labels, np.eye(3)[guesses], ["a", "b", "c"])
    assert found.confusion == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert (found.n, found.correct, found.accuracy) == (6, 4, 4 / 6)
    assert found.recall == {"a": pytest.approx(2 / 3), "b": 0.5, "c": 1.0}
    assert found.uar == pytest.approx((2 / 3 + 0.5 + 1) / 3)
    assert found.macro_f1 == pytest.approx((2 / 3 + 0.5 + 1) / 3)


def test_it_agrees_with_scikit_learn() -> None:
    from sklearn import metrics

    random = np.random.default_rng(1)
    labels, probabilities = random.integers(0, 5, 200), random.random((200, 5))
    found = evaluate.score(labels, probabilities, list("abcde"))
    guesses = probabilities.argmax(axis=1)
    assert found.confusion == metrics.confusion_matrix(labels, guesses).tolist()
    assert found.uar == pytest.approx(metrics.balanced_accuracy_score(labels, guesses))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(labels, guesses, average="macro"))


def test_a_class_without_clips_has_no_recall_and_does_not_count() -> None:
    found = evaluate.score(np.array([0, 1]), np.eye(3)[[0, 1]], ["a", "b", "c"])
    assert found.recall == {"a": 1.0, "b": 1.0, "c": None}
    assert found.uar == found.macro_f1 == 1.0
