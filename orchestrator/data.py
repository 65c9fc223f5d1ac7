"""What `--data` names, looked at before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import BadRequest
from orchestrator.run import Run
from orchestrator.settings import is_folder
from orchestrator.store import Store
from trainer import clips
from trainer.clips import demo

THREE_WAYS = (
    "no data named: --data FOLDER for a folder of .npz or .npy features, 'ec2emo init' to set one for this "
    "project, or --data demo for small synthetic data"
)


def folder_of(named: str, store: Store) -> Path:
    """The folder on this machine; the demo data is written when it is asked for."""
    if named == "demo":
        return demo.write(store.root / "demo-synthetic")
    if not is_folder(named):
        raise BadRequest(f"--data {named!r:.100} is not a folder on this machine")
    return Path(named).expanduser().resolve()


def look(folder: Path, store: Store, progress: Callable[[int, int], None] | None = None) -> clips.Report:
    """Every clip below the folder; what was seen before is remembered. Raises BadRequest."""
    try:
        return clips.check(folder, cache=store.about("clips", folder).with_suffix(".json"), progress=progress)
    except clips.DataError as e:
        raise BadRequest(str(e)) from e


def refuse_fatal(report: clips.Report) -> None:
    """Raises BadRequest with every reason why nothing can be trained on this."""
    if report.fatal:
        why = "; ".join(p.text for p in report.fatal)
        raise BadRequest(f"these data cannot be trained on: {why}")


def refuse_split(asked: str | None) -> None:
    """Raises BadRequest for what `--split` may not say."""
    if asked not in (None, "speaker", "clip"):
        raise BadRequest(f"--split is speaker or clip, not {asked!r:.40}")


def split_of(report: clips.Report, asked: str | None) -> str:
    """How clips are divided: as asked, else by speaker where every speaker is known."""
    return asked or ("speaker" if report.every_speaker_known else "clip")


def folds(report: clips.Report, split: str, count: int, seed: int) -> list[dict[str, object]]:
    """What each of `count` folds holds out. Raises BadRequest when the clips cannot be divided so."""
    # Imported here: numpy's dearer half, which most commands do not need.
    from trainer.clips import folds as divided

    try:
        return divided.describe(report, divided.held_out(report, split, count, seed))
    except clips.DataError as e:
        raise BadRequest(f"these data cannot be cross-validated: {e}") from e


def sender(store: Store, run: Run) -> str | None:
    """The latest run whose data, the same, were sent where this one goes; None where none is known.

    A new machine has none, whatever the name it is asked for by.
    """
    if not run.spec.fingerprint or run.where == "ec2":
        return None
    there = [
        other
        for other in store.all()[0]
        if (other.where, other.spec.fingerprint) == (run.where, run.spec.fingerprint)
        and any(asked.number for asked in other.attempts)
    ]
    return max(there, key=lambda other: other.created).id if there else None
