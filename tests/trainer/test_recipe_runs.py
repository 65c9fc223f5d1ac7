"""Every recipe through the real trainer: it trains, comes home, and goes on after a kill as it would have."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer import artifacts, clips, examine, recipes
from trainer.contract import Manifest, RunDir, Spec

from .conftest import make_run
from .runs import ROOT, add_attempt, events, spawn, tiny, train, wait_for

EPOCHS = 2
# Those with most random state, and the one of another optimizer: the others in the whole matrix.
SAMPLED = ("attn_crnn_v2", "conv_committee", "wav2vec_fixed")
# Enough that each recipe's rate, patience and augmentation do something in two epochs.
LIVELY = {"plateau_patience": 1, "validation": 0.2}

NewRun = Callable[..., RunDir]


def params_of(name: str) -> dict[str, Any]:
    there = recipes.load(name).Params.__dataclass_fields__
    return {**tiny(name), **{k: v for k, v in LIVELY.items() if k in there}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> dict[str, RunDir]:
    """A finished run of every recipe, each by a process of its own."""
    folder = tmp_path_factory.mktemp("recipes")

    def run_of(name: str) -> RunDir:
        run = make_run(folder / name, small_data, params_of(name), recipe=name, epochs=EPOCHS)
        assert spawn(run).wait() == 0, run.log.read_text()
        return run

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(recipes.names(), pool.map(run_of, recipes.names()), strict=True))


AT_HOME = """
import json, sys
from pathlib import Path
import numpy as np
from trainer import artifacts, examine, recipes
from trainer.data import dataset
from trainer.contract import Manifest, RunDir, Spec
found = {}
for root in sys.argv[1:]:
    run = RunDir(Path(root))
    spec = Spec.read(run.spec)
    recipe = recipes.load(spec.recipe)
    asked = recipes.preparation(recipe, recipes.make_params(recipe, spec.params))
    packed = dataset.load(Path(spec.data), spec.fingerprint)
    val = dataset.divide(packed, spec.split, spec.seed, asked).val
    best = Manifest.parse(run.manifest.read_bytes()).of("best")
    bundle = artifacts.load((run.root / best[0].path).parent)
    guesses = examine.predict(bundle, Path(spec.data), [packed.report.used[i] for i in val])
    right = guesses.argmax(axis=1) == packed.labels[val]
    found[spec.recipe] = [int(right.sum()), len(val), bundle.norm.frames]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def at_home(trained: dict[str, RunDir]) -> dict[str, list[int]]:
    """What the best model of each scores in a process that has trained nothing."""
    roots = [str(run.root) for run in trained.values()]
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", AT_HOME, *roots],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[int]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", recipes.names())
def test_it_trains_and_says_with_which_parameters(trained: dict[str, RunDir], name: str) -> None:
    run = trained[name]
    assert [e.epoch for e in events(run, "epoch")] == list(range(1, EPOCHS + 1))
    assert events(run, "ended")[0].status == "finished"
    spec = Spec.read(run.spec)
    assert spec.params == params_of(name)
    best = Manifest.parse(run.manifest.read_bytes()).of("best")
    told = json.loads((run.root / next(a.path for a in best if a.role == "preprocessing")).read_bytes())
    recipe = recipes.load(name)
    params = recipes.make_params(recipe, spec.params)
    assert told["params"] == {f: getattr(params, f) for f in recipe.Params.__dataclass_fields__}
    asked = recipes.preparation(recipe, params)
    assert told["preparation"]["class_weights"] == asked.class_weights
    assert told["frames"] == (asked.frames or told["frames"])


def test_a_model_that_adapts_knows_a_voice_by_its_other_clips(
    trained: dict[str, RunDir], small_data: Path
) -> None:
    run = trained["conv_committee"]
    best = Manifest.parse(run.manifest.read_bytes()).of("best")
    bundle = artifacts.load((run.root / best[0].path).parent)
    report = clips.check(small_data)
    heard = [c for c in report.used if c.speaker == report.used[0].speaker]
    first, *others = [small_data / c.path for c in heard]
    alone, known = bundle.predict(first), bundle.predict(first, others)
    assert alone != known
    evaluated = examine.predict(bundle, small_data, heard)[0]
    assert known == pytest.approx(dict(zip(bundle.classes, evaluated, strict=True)), abs=1e-5)


@pytest.mark.parametrize("name", recipes.names())
def test_its_best_model_scores_in_a_fresh_process_what_was_recorded(
    trained: dict[str, RunDir], at_home: dict[str, list[int]], name: str
) -> None:
    right, n, _ = at_home[name]
    best = Manifest.parse(trained[name].manifest.read_bytes())
    metrics = json.loads(
        (trained[name].root / next(a.path for a in best.of("best") if a.role == "metrics")).read_bytes()
    )
    assert n == metrics["n"]
    assert right / n == metrics["val_accuracy"] == best.values["best"]


def test_the_fixed_length_is_the_one_that_comes_home(at_home: dict[str, list[int]]) -> None:
    assert at_home["cnn_lstm_simplified"][2] == 20


def killed_and_resumed(new_run: NewRun, name: str, whole: RunDir, *, epochs: int, wait: float) -> None:
    """Kill it some time after so many epochs, go on, and compare what is told with the run nobody killed."""
    cut = new_run(f"cut-{name}", recipe=name, epochs=EPOCHS, params=params_of(name))
    process = spawn(cut)
    try:
        wait_for(lambda: len(events(cut, "epoch" if epochs else "dataset")) >= max(1, epochs), 600)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait)
    finally:
        process.kill()
        process.wait()
    add_attempt(cut, 2, origin="checkpoint")
    assert train(cut) == 0
    told = {e.epoch: {**e.metrics, "lr": e.lr} for e in events(cut, "epoch")}
    wanted = {e.epoch: {**e.metrics, "lr": e.lr} for e in events(whole, "epoch")}
    assert told.keys() == wanted.keys()
    for epoch, row in wanted.items():
        assert told[epoch] == pytest.approx(row, abs=1e-6), epoch
    values = [Manifest.parse(run.manifest.read_bytes()).values["best"] for run in (cut, whole)]
    assert values[0] == values[1]


@pytest.mark.parametrize("name", SAMPLED)
def test_killed_and_resumed_it_is_the_run_that_was_not(
    trained: dict[str, RunDir], new_run: NewRun, name: str
) -> None:
    killed_and_resumed(new_run, name, trained[name], epochs=1, wait=0)


@pytest.mark.slow
@pytest.mark.parametrize("draw", range(4))
@pytest.mark.parametrize("name", recipes.names())
def test_killed_at_any_step_of_any_epoch_it_is_the_run_that_was_not(
    trained: dict[str, RunDir], new_run: NewRun, name: str, draw: int
) -> None:
    chosen = random.Random(f"{name}-{draw}")
    killed_and_resumed(
        new_run, name, trained[name], epochs=chosen.randrange(EPOCHS), wait=chosen.uniform(0, 0.6)
    )


def test_features_with_bins_and_channels_are_trained_on_and_predicted(
    new_run: NewRun, small_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "features"
    folder.mkdir()
    for path in sorted(small_data.glob("*.npz")):
        with np.load(path) as stored:
            arrays = {key: stored[key] for key in stored.files}
        np.savez(folder / path.name, **{**arrays, "features": arrays["features"].reshape(-1, 4, 4)})
    run = new_run("deep", data=folder, recipe="cnn_lstm_simplified", epochs=1)
    assert train(run) == 0
    assert events(run, "dataset")[0].dim == 16
    best = Manifest.parse(run.manifest.read_bytes()).of("best")
    bundle = artifacts.load((run.root / best[0].path).parent)
    with np.load(folder / path.name) as stored:
        features = stored["features"]
    found = bundle.predict(folder / path.name)
    assert found == bundle.predict(features) == bundle.predict(features.reshape(-1, 16))
