"""Where attempts begin, told from files alone: no keras here."""

import subprocess
import sys
from pathlib import Path

import pytest

from trainer import folders
from trainer.contract import Artifact, Attempt, ContractError, Manifest, RunDir, Spec, publish
from trainer.training import checkpoints
from trainer.training.beginning import Beginning, ResumeError, begin
from trainer.training.checkpoints import State

from .runs import add_attempt

SPEC = Spec(
    run="r", recipe="v9_attention", data="d", fingerprint="f", epochs=30, batch_size=8, params={"units": 4}
)


def state(epoch: int, *, planned: int = 30, attempt: int = 1, wait: int = 0) -> State:
    rows = [{"epoch": i, "val_accuracy": 0.5} for i in range(1, epoch + 1)]
    return State(epoch, planned, attempt, 1, 0.5, wait, 42, {}, {"units": 4}, {}, rows)


def checkpoint(run: RunDir, at: State) -> Path:
    return checkpoints.write(run, at, lambda folder: _fill(folder)).folder


def _fill(folder: Path) -> None:
    (folder / "last_v9.weights.h5").write_bytes(b"weights")


def best(run: RunDir, epoch: int, value: float) -> None:
    path = run.artifacts / f"best-{epoch:04}" / "best_v9.weights.h5"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    row = Artifact("best", "weights", path.name, path.relative_to(run.root).as_posix(), 1, "0", epoch)
    publish(run.manifest, Manifest("r", "v9_attention", "val_accuracy", (row,), {"best": value}).to_json())


def where(run: RunDir, number: int, **more: object) -> Beginning:
    add_attempt(run, number, **more)
    return begin(run, SPEC, Attempt.latest(run))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def test_a_first_attempt_trains_what_the_spec_asks_for(run: RunDir) -> None:
    first = where(run, 1)
    assert (first.first_epoch, first.epochs, first.weights, first.extended) == (1, 30, None, False)


def test_a_resume_goes_on_after_the_last_whole_checkpoint(run: RunDir) -> None:
    checkpoint(run, state(6))
    folder = checkpoint(run, state(7, wait=3))
    again = where(run, 2, origin="checkpoint")
    assert (again.first_epoch, again.epochs, again.weights) == (8, 30, folder / "last_v9.weights.h5")
    assert again.state is not None
    assert again.state.wait == 3


def test_a_resume_without_any_checkpoint_starts_at_epoch_one(run: RunDir) -> None:
    again = where(run, 2, origin="checkpoint")
    assert (again.first_epoch, again.weights) == (1, None)


@pytest.mark.parametrize(
    "damage", ["state gone", "state torn", "weights gone", "weights short", "left aside"]
)
def test_half_a_checkpoint_is_passed_over(run: RunDir, damage: str) -> None:
    whole = checkpoint(run, state(6))
    half = checkpoint(run, state(7))
    if damage == "state gone":
        (half / "state.json").unlink()
    elif damage == "state torn":
        (half / "state.json").write_bytes((half / "state.json").read_bytes()[:40])
    elif damage == "weights gone":
        (half / "last_v9.weights.h5").unlink()
    elif damage == "weights short":
        (half / "last_v9.weights.h5").write_bytes(b"w")
    else:
        half.rename(half.with_name(".epoch-0007.xyz"))
    assert where(run, 2, origin="checkpoint").weights == whole / "last_v9.weights.h5"


def test_more_epochs_are_counted_from_where_it_goes_on_and_patience_starts_anew(run: RunDir) -> None:
    checkpoint(run, state(30, wait=12))
    again = where(run, 2, origin="checkpoint", more_epochs=5)
    assert (again.first_epoch, again.epochs) == (31, 35)
    assert again.state is not None
    assert again.state.wait == 0


def test_extended_training_starts_from_the_best_and_numbers_go_on_after_the_last(run: RunDir) -> None:
    checkpoint(run, state(9))
    best(run, 4, 0.6)
    more = where(run, 2, origin="best", lr=1e-5, more_epochs=10)
    assert (more.first_epoch, more.epochs, more.lr, more.extended) == (10, 19, 1e-5, True)
    assert more.weights == run.artifacts / "best-0004" / "best_v9.weights.h5"
    assert more.best is not None
    assert (more.best.epoch, more.best.value) == (4, 0.6)
    assert where(run, 3, origin="best", lr=1e-5).epochs == 39


def test_extended_training_killed_before_its_first_checkpoint_is_not_forgotten(run: RunDir) -> None:
    checkpoint(run, state(9))
    best(run, 4, 0.6)
    add_attempt(run, 2, origin="best", lr=1e-5, more_epochs=10)
    add_attempt(run, 3, origin="checkpoint")
    again = where(run, 4, origin="checkpoint")
    assert (again.attempt, again.first_epoch, again.epochs, again.lr) == (4, 10, 19, 1e-5)
    checkpoint(run, state(10, planned=19, attempt=4))
    assert where(run, 5, origin="checkpoint").lr is None
    assert where(run, 6, origin="checkpoint").epochs == 19


def test_overrides_of_a_resume_are_inherited_by_the_next(run: RunDir) -> None:
    checkpoint(run, state(9))
    changed = where(run, 2, origin="checkpoint", params={"patience": 3})
    assert changed.params == {"units": 4, "patience": 3}


def test_a_start_over_what_is_there_is_refused(run: RunDir) -> None:
    checkpoint(run, state(9))
    with pytest.raises(ResumeError, match="r has trained 9 epochs already: resume it instead"):
        where(run, 1)


def test_extended_training_needs_a_best_and_a_rate(run: RunDir) -> None:
    with pytest.raises(ResumeError, match="no best model yet"):
        where(run, 2, origin="best", lr=1e-5)
    checkpoint(run, state(9))
    best(run, 4, 0.6)
    for number, lr in enumerate((None, 0.0, -1.0), 3):
        with pytest.raises(ResumeError, match="needs a learning rate above 0"):
            where(run, number, origin="best", lr=lr)


def test_a_best_that_the_manifest_lists_and_the_disk_lacks_is_said(run: RunDir) -> None:
    checkpoint(run, state(9))
    best(run, 4, 0.6)
    (run.artifacts / "best-0004" / "best_v9.weights.h5").unlink()
    with pytest.raises(ContractError, match="in the manifest and not there"):
        where(run, 2, origin="checkpoint")


def test_nothing_heavy_is_imported_to_say_where_an_attempt_begins() -> None:
    code = (
        "import sys, trainer.__main__; "
        "sys.exit(any(m in sys.modules for m in ('keras', 'numpy', 'tensorflow', 'sklearn', "
        "'trainer.training.fit')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_whose_filling_fails_leaves_nothing(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        folders.publish(tmp_path / "a", fill)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_aside_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".best-0001.abc").mkdir()
    (tmp_path / ".best-0001.abc" / "x").touch()
    (tmp_path / ".manifest.json.abc").touch()
    (tmp_path / "best-0002").mkdir()
    folders.remove_half_written(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["best-0002"]
