"""The last word on a run: its best model, evaluated as it lies published, with a report beside it."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import contract
from trainer.clips import Clip
from trainer.contract import Note
from trainer.data.batches import Validation
from trainer.eventlog import EventLog
from trainer.scores import evaluate
from trainer.training.keeper import Course, Keeper

# Of an epoch: where they are longer, a stop that was asked for does not wait for a report.
CHEAP_SECONDS = 10.0


@dataclass(frozen=True)
class Judged:
    """The clips that the best model is evaluated on; with `chose_epoch` it was chosen by these very clips."""

    side: Validation
    clips: Sequence[Clip]
    chose_epoch: bool


def conclude(keeper: Keeper, course: Course, log: EventLog, judged: Judged) -> None:
    """Publish the report of the best model so far.

    A report is a comfort: what goes wrong with it is told, and takes nothing from the run.
    """
    if course.best is None:
        return
    try:
        log.append(keeper.add_report(course, _files(keeper, course, judged)))
    except Exception as e:  # noqa: BLE001 - as the docstring says
        why = (str(e).splitlines() or ["no reason given"])[0]
        text = f"no report of epoch {course.best.epoch}, {type(e).__name__}: {why}; resume for another try"
        log.append(Note(time.time(), text, "warning"))


def conclude_if_missing(keeper: Keeper, course: Course, log: EventLog, judged: Judged) -> None:
    """As `conclude`, for a run that ended before its report was there."""
    if course.best is not None:
        page = course.best.weights.parent / keeper.who.report_names["report"]
        if not page.exists():
            conclude(keeper, course, log, judged)


def is_cheap(course: Course) -> bool:
    """Whether a person who asked for the end will hardly notice the report."""
    return bool(course.history) and course.history[-1]["seconds"] < CHEAP_SECONDS


def _files(keeper: Keeper, course: Course, judged: Judged) -> dict[str, bytes]:
    """Every file of the report by its name."""
    # Imported here: what draws is needed once, when training is over.
    from trainer.scores import drawing, report

    assert course.best is not None
    who, names = keeper.who, keeper.who.report_names
    model = keeper.proof.load(course.best.weights.parent / who.name("best", "model"))
    labels, probabilities = judged.side.labels, judged.side.predict(model)
    speakers = [clip.speaker for clip in judged.clips]
    found = evaluate.evaluate(labels, probabilities, classes=who.classes, speakers=speakers)
    body = contract.to_json(_about(keeper, course.best.epoch, found, judged))
    pictures = {
        "confusion": drawing.confusion(found.score.confusion, who.classes),
        "roc": drawing.rocs(labels, probabilities, who.classes),
        "curves": drawing.curves(course.history, course.best.epoch),
    }
    titles = {
        "confusion": "Confusion",
        "roc": "ROC, each class against the rest",
        "curves": "Learning curves",
    }
    page = report.page(json.loads(body), {titles[name]: png for name, png in pictures.items()})
    rows = _predictions(judged.clips, probabilities, who.classes)
    files = {"report": page, "evaluation": body, "predictions": rows, **pictures}
    return {names[role]: data for role, data in files.items()}


def _about(keeper: Keeper, epoch: int, found: evaluate.Evaluation, judged: Judged) -> dict[str, Any]:
    who = keeper.who
    adapts = bool(who.preprocessing["preparation"]["adapt"])
    heard = evaluate.heard_together([clip.speaker for clip in judged.clips]) if adapts else None
    known = ("split", "seed", "train", "val", "fold", "folds", "shared_speakers", "fingerprint")
    return {
        "run": who.run,
        "recipe": who.recipe,
        "epoch": epoch,
        "chose_epoch": judged.chose_epoch,
        "heard_together": heard,
        **found.to_dict(),
        **{name: who.preprocessing[name] for name in known},
        "params": who.preprocessing["params"],
        "synthetic": who.synthetic,
    }


def _predictions(clips: Sequence[Clip], probabilities: npt.NDArray[Any], classes: Sequence[str]) -> bytes:
    """A line for each clip: what it is, what it was taken for, and how likely each class seemed."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["clip", "speaker", "label", "taken_for", *classes])
    for clip, row in zip(clips, probabilities, strict=True):
        figures = [f"{p:.6f}" for p in row]
        table.writerow([clip.path, clip.speaker or "", clip.label, classes[int(np.argmax(row))], *figures])
    return out.getvalue().encode()
