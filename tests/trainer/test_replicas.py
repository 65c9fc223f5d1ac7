"""Training on all GPUs of a machine, shown on processors: TensorFlow divides one into two here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trainer import recipes
from trainer.contract import RunDir
from trainer.data.batches import Training, Validation
from trainer.data.dataset import Normaliser, Packed

from .runs import ROOT, add_attempt, events, train

NewRun = Callable[..., RunDir]

# `python -m trainer` on a machine of two processors.
DIVIDED = """
import runpy, sys
import tensorflow as tf
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
runpy.run_module("trainer", run_name="__main__", alter_sys=True)
"""


def train_on_two(run: RunDir) -> int:
    command = [sys.executable, "-c", DIVIDED, str(run.root)]
    with run.log.open("ab") as log:
        return subprocess.run(
            command, cwd=ROOT, stdout=log, stderr=log, env=os.environ, check=False
        ).returncode


def test_what_two_have_trained_is_to_one_what_they_measured(new_run: NewRun) -> None:
    """The final evaluation loads the published model for one."""
    run = new_run("run", recipe="attn_crnn_v2", epochs=1, gpus="all", batch_size=10)
    assert train_on_two(run) == 0, run.log.read_text()
    assert "trains on 2 GPUs, 5 clips of every batch on each" in [e.text for e in events(run, "note")]
    (file,) = run.artifacts.glob("best-*/evaluation_*.json")
    assert json.loads(file.read_text())["accuracy"] == pytest.approx(events(run, "ended")[-1].best)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", recipes.names())
def test_a_run_on_two_goes_on_after_a_stop_as_if_there_had_been_none(new_run: NewRun, recipe: str) -> None:
    asked = {"recipe": recipe, "gpus": "all", "batch_size": 10}
    whole, cut = new_run("whole", epochs=2, **asked), new_run("cut", epochs=1, **asked)
    assert [train_on_two(whole), train_on_two(cut)] == [0, 0], whole.log.read_text() + cut.log.read_text()
    add_attempt(cut, 2, origin="checkpoint", more_epochs=1)
    assert train_on_two(cut) == 0, cut.log.read_text()
    told = [[(e.epoch, e.metrics) for e in events(run, "epoch")] for run in (whole, cut)]
    assert [epoch for epoch, _ in told[0]] == [1, 2]
    assert told[0] == told[1]


def test_a_batch_that_cannot_be_divided_is_refused_with_one_that_can(new_run: NewRun) -> None:
    run = new_run("run", gpus="all", batch_size=15)
    assert train_on_two(run) == 1
    assert events(run, "ended")[-1].reason == (
        "a batch of 15 clips cannot be divided equally among 2 GPUs: deploy with --batch-size 14, or with "
        "--gpus one"
    )


def test_one_gpu_trains_alone_and_that_is_said(new_run: NewRun) -> None:
    run = new_run("run", epochs=1, gpus="all", batch_size=15)
    assert train(run) == 0
    assert "all GPUs were asked for, and there is one: it trains alone" in [
        e.text for e in events(run, "note")
    ]


@pytest.mark.parametrize(("clips", "shares", "used"), [(23, 2, 22), (23, 4, 20), (24, 4, 24), (9, 4, 8)])
def test_no_share_of_a_batch_is_without_a_clip(clips: int, shares: int, used: int) -> None:
    packed, norm, everyone = some(clips)
    training = Training(packed, everyone, norm, batch_size=8, seed=1, shares=shares)
    sizes = [len(targets) for _, targets, _ in training.stream()]
    assert sum(sizes) == used and len(sizes) == training.steps
    assert all(size % shares == 0 for size in sizes)


@pytest.mark.parametrize(("clips", "shares"), [(23, 2), (23, 4), (24, 4), (3, 4)])
def test_every_validation_clip_is_answered_once(clips: int, shares: int) -> None:
    import keras

    packed, norm, everyone = some(clips)
    inputs = keras.Input((None, 2))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(inputs))
    alone, shared = (
        Validation(packed, everyone, norm, batch_size=8, shares=n).predict(model) for n in (1, shares)
    )
    np.testing.assert_array_equal(alone, shared)
    assert len(shared) == clips


def some(clips: int) -> tuple[Packed, Normaliser, Any]:
    values = np.random.default_rng(0).normal(size=(clips * 3, 2)).astype(np.float32)
    labels = (np.arange(clips) % 2).astype(np.int32)
    packed = Packed(values, np.arange(clips + 1) * 3, labels, ("a", "b"), report=None)  # type: ignore[arg-type]
    return packed, Normaliser(np.zeros(2, np.float32), np.ones(2, np.float32), 3), np.arange(clips)
