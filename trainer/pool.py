"""python -m trainer.pool RUN_DIR…: the clips that several folds held out, as one evaluation.

Reads the manifest of each run, and the evaluation and predictions of its best model; writes nothing. Prints
one JSON object. Exit code 0; 2 with a sentence on stderr when these are not folds of one division.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer import contract
from trainer.contract import ContractError, Manifest, RunDir, Spec
from trainer.scores import evaluate

SCORES = ("accuracy", "uar", "macro_f1")
# What all folds of a division have in common.
SHARED = ("recipe", "fingerprint", "split", "seed", "folds", "params", "classes")


@dataclass(frozen=True)
class Fold:
    """What one run says of the clips it held out."""

    about: dict[str, Any]
    rows: list[dict[str, str]]


def main(argv: list[str]) -> int:
    """Pool; returns the exit code."""
    if not argv:
        return _said("usage: python -m trainer.pool RUN_DIR…")
    try:
        answer = pool([RunDir(Path(name).resolve()) for name in argv])
    except (ContractError, OSError, ValueError, KeyError) as e:
        return _said(str(e) or type(e).__name__)
    print(json.dumps(answer, allow_nan=False))  # noqa: T201 - the answer
    return 0


def pool(runs: list[RunDir]) -> dict[str, Any]:
    """Every fold's scores, their mean and standard deviation, and one evaluation of all held-out clips.

    Folds that are not evaluated yet are `missing`. Raises ContractError for runs that do not belong together.
    """
    found = {run.root.name: fold for run in runs if (fold := _fold(run))}
    missing = [run.root.name for run in runs if run.root.name not in found]
    if not found:
        raise ContractError("no fold is evaluated yet: each is when its run ends")
    first, *others = (fold.about for fold in found.values())
    for other in others:
        if differs := [name for name in SHARED if other[name] != first[name]]:
            raise ContractError(
                f"{other['run']} and {first['run']} are no folds of one division: {differs[0]} differs"
            )
    folds = [_line(fold) for fold in found.values()]
    return {
        **{name: first[name] for name in ("recipe", "fingerprint", "split", "seed")},
        "of": first["folds"],
        "folds": folds,
        "missing": missing,
        "mean": {name: statistics.mean(f[name] for f in folds) for name in SCORES},
        "deviation": {
            name: statistics.stdev(f[name] for f in folds) if len(folds) > 1 else None for name in SCORES
        },
        "best": max(folds, key=lambda f: f["accuracy"])["run"],
        "pooled": _pooled(list(found.values()), first["classes"]).to_dict(),
        "synthetic": any(fold.about["synthetic"] for fold in found.values()),
    }


def _fold(run: RunDir) -> Fold | None:
    """What the best model of a run is worth on its fold; None while that is not there."""
    if not run.manifest.exists():
        return None
    spec = Spec.read(run.spec)
    if spec.fold is None:
        raise ContractError(f"{spec.run} holds out no fold")
    there = {a.role: run.root / a.path for a in Manifest.parse(run.manifest.read_bytes()).of("best")}
    if "predictions" not in there:
        return None
    about = contract.parse_object(there["evaluation"].read_bytes(), there["evaluation"].name)
    with there["predictions"].open(encoding="utf-8", newline="") as file:
        return Fold(about, list(csv.DictReader(file)))


def _line(fold: Fold) -> dict[str, Any]:
    about = fold.about
    speakers = {row["speaker"] for row in fold.rows}
    return {
        **{name: about[name] for name in ("run", "fold", "epoch", "n", *SCORES)},
        "speakers": None if "" in speakers else len(speakers),
    }


def _pooled(folds: list[Fold], classes: list[str]) -> evaluate.Evaluation:
    rows = [row for fold in folds for row in fold.rows]
    return evaluate.evaluate(
        np.array([classes.index(row["label"]) for row in rows]),
        np.array([[float(row[name]) for name in classes] for row in rows]),
        classes=classes,
        speakers=[row["speaker"] or None for row in rows],
    )


def _said(sentence: str) -> int:
    print(sentence, file=sys.stderr, flush=True)  # noqa: T201 - for people
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
