"""What becomes of a model's graph before its first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import pytest
import tensorflow as tf

from trainer.contract import RunDir
from trainer.training import graphs
from trainer.training.stopping import StopRequested

from .runs import events, train


@pytest.fixture(autouse=True)
def rewriting() -> Iterator[None]:
    """On, as it is for everybody, and afterwards again."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def is_rewritten() -> bool:
    return not tf.config.optimizer.get_experimental_options()["disable_meta_optimizer"]


@pytest.mark.parametrize("gpu", [False, True])
def test_graphs_are_rewritten_for_a_gpu_alone(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "on_gpu", lambda: gpu)
    graphs.leave_as_traced()
    assert is_rewritten() == gpu


def test_the_trainer_leaves_its_graph_as_traced(
    new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: Any) -> None:
        raise StopRequested(f"rewritten: {is_rewritten()}")

    monkeypatch.setattr(graphs, "trace_once", asked)
    run = new_run()
    assert train(run) == 0
    assert events(run, "ended")[0].reason == "rewritten: False"


def test_a_model_is_made_of_its_file_once_to_be_proven_and_for_the_report(
    new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load = keras.models.load_model

    def counted(path: Any, **more: Any) -> Any:
        loaded.append(path)
        return load(path, **more)

    monkeypatch.setattr(keras.models, "load_model", counted)
    run = new_run(epochs=3)
    assert train(run) == 0
    assert [e.role for e in events(run, "saved")][-1] == "report"
    assert len(loaded) == 1
