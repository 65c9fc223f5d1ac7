"""What the trainer's tests share: small data, run folders as a supervisor leaves them, real training."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from trainer import clips, recipes
from trainer.clips import demo
from trainer.contract import RunDir, Spec, publish

from .runs import TINY, add_attempt, tiny, train

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_configure(config: pytest.Config) -> None:
    """Warnings of libraries about themselves; ours stay errors."""
    for line in (
        # keras 3.15 writing HDF5 with numpy 2
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    ):
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's clips."""
    return demo.write(tmp_path_factory.mktemp("data") / demo.NAME)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory, demo_data: Path) -> Path:
    """A quarter of the demo's clips: 64 of eight speakers."""
    folder = tmp_path_factory.mktemp("small")
    for path in sorted(demo_data.glob("*_[12].npz")):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def make_run(folder: Path, data: Path, params: Mapping[str, Any] | None = None, **more: Any) -> RunDir:
    """A run folder as the supervisor leaves it before it starts the trainer."""
    run = RunDir(folder)
    report = clips.check(data)
    recipe = more.setdefault("recipe", "v9_attention")
    sizes = tiny(recipe) if recipe in recipes.names() and recipe != "v9_attention" else TINY
    spec = {
        "run": folder.name,
        "data": str(data),
        "fingerprint": report.fingerprint,
        "epochs": 3,
        "batch_size": 16,
        "params": {**sizes, **(params or {})},
        "synthetic": report.synthetic,
    }
    publish(run.spec, Spec(**{**spec, **more}).to_json())
    add_attempt(run, 1)
    return run


@pytest.fixture
def new_run(tmp_path: Path, small_data: Path) -> Callable[..., RunDir]:
    """Makes runs of the small data, or of `data`."""

    def make(name: str = "run", data: Path | None = None, **more: Any) -> RunDir:
        return make_run(tmp_path / name, data or small_data, **more)

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> RunDir:
    """A run of four epochs that has finished: to be read, never changed."""
    params = {"warmup": 3, "cosine_from": 50}
    run = make_run(tmp_path_factory.mktemp("finished") / "run", small_data, params, epochs=4)
    assert train(run) == 0
    return run


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """`main` listens for SIGTERM; pytest gets its own handler back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
