"""What every recipe is worth on data of yours, on speakers that chose nothing; writes docs/results.md.

    python -m benchmarks.results --data NAME=FOLDER… [--recipe R…] [--split speaker clip] [--epochs N]
                                 [--folds K] [--fold I…] [--seed N…] [--set key=value…] [--plain]
                                 [--threads N] [--rows FILE] [--page FILE]

NAME=FOLDER/PATTERN takes the files of a folder that match: of two corpora in one folder, one. Each training
is a run of the trainer's own, cross-validated: one fold of K is held out, the rest is divided into training
and validation clips, these choose the epoch, and the held-out clips are evaluated once. Which split is meant
holds for both divisions. `--epochs` caps what the recipe asks for, and the table says where the cap ended a
run. `--set` gives parameters to the recipes that have them, and leaves the others out; `--plain` trains as
plain Keras does (`benchmarks.plain`): such rows stand in a table of their own, below the same trainings
without. Beside the recipes, logistic regression on mean and
deviation over time: who is not better than that has learnt nothing from time.

What is in the rows already is not trained again, and a training that was cut short goes on where it was.
Nothing is searched for: without --data the page is written anew from the rows.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results_page
from trainer import clips, contract, recipes
from trainer.contract import Attempt, Dataset, Ended, Epoch, Manifest, RunDir, Spec
from trainer.data import dataset

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "logistic regression"
SPLITS = ("speaker", "clip")


@dataclass(frozen=True)
class Job:
    """One training. `epochs` is what it may train at most, None for what has none."""

    recipe: str
    data: str
    folder: Path
    report: clips.Report
    split: str
    fold: int
    folds: int
    seed: int
    epochs: int | None
    params: dict[str, Any]
    asked: tuple[str, ...] = ()
    plain: bool = False

    @property
    def key(self) -> str:
        """The same for the same question: the data by content, the recipe by its parameters."""
        parts = [self.recipe, self.report.fingerprint, self.split, self.fold, self.folds, self.seed]
        parts += ["plain"] * self.plain
        said = json.dumps([*parts, self.epochs, self.params], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def main() -> None:
    """Train what is missing, then write the page."""
    asked = _asked()
    rows = {row["key"]: row for row in results_page.read(asked.rows)}
    with tempfile.TemporaryDirectory() as links:
        for job in _jobs(asked, Path(links)):
            if job.key not in rows:
                row = _baseline(job) if job.recipe == BASELINE else _train(job, asked.work, asked.threads)
                rows[job.key] = row
                with asked.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            print(results_page.line(rows[job.key]), flush=True)
    results_page.write(asked.page, list(rows.values()))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    everything = [BASELINE, *recipes.names()]
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--recipe", nargs="+", choices=everything, default=everything, metavar="RECIPE")
    parser.add_argument("--split", nargs="+", choices=SPLITS, default=SPLITS)
    parser.add_argument("--epochs", type=int, help="no run trains more; else as many as its recipe says")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--fold", type=int, nargs="+", help="of them only these; else all")
    parser.add_argument("--seed", type=int, nargs="+", default=[42])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--plain", action="store_true", help="as plain Keras, without our layers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=Path, default=ROOT / "docs" / "results.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "ec2emo-results")
    return parser.parse_args()


def _jobs(asked: argparse.Namespace, links: Path) -> Iterator[Job]:
    """In an order that has something to say about everything early."""
    sets = [_data(named, links) for named in asked.data]
    for seed in asked.seed:
        for fold in asked.fold or range(1, asked.folds + 1):
            for name, folder, report in sets:
                for split in asked.split:
                    for recipe in filter(lambda r: _takes(r, asked), asked.recipe):
                        epochs, params = _plan(recipe, asked.epochs, asked.set)
                        where = (name, folder, report, split, fold, asked.folds, seed)
                        yield Job(recipe, *where, epochs, params, tuple(asked.set), asked.plain)


def _data(named: str, links: Path) -> tuple[str, Path, clips.Report]:
    name, _, place = named.partition("=")
    folder = Path(place).expanduser().resolve()
    if not name or not place:
        raise SystemExit(f"--data {named!r} is not of the form NAME=FOLDER")
    if "*" in folder.name:
        folder = _linked(folder, links / hashlib.sha256(place.encode()).hexdigest()[:8])
    report = clips.check(folder)
    if report.fatal:
        raise SystemExit(f"{place}: {report.fatal[0].text}")
    return name, folder, report


def _linked(pattern: Path, folder: Path) -> Path:
    """A folder of links to the files that match."""
    folder.mkdir()
    for path in sorted(pattern.parent.glob(pattern.name)):
        (folder / path.name).symlink_to(path)
    return folder


def _takes(recipe: str, asked: argparse.Namespace) -> bool:
    """Whether it can be trained so: it has all parameters that are to be set."""
    if recipe == BASELINE:
        return not asked.set and not asked.plain
    known = {field.name for field in dataclasses.fields(recipes.load(recipe).Params)}
    return known.issuperset(pair.partition("=")[0] for pair in asked.set)


def _plan(recipe: str, cap: int | None, asked: Sequence[str]) -> tuple[int | None, dict[str, Any]]:
    if recipe == BASELINE:
        return None, {}
    module = recipes.load(recipe)
    given = dict(pair.split("=", 1) for pair in asked)
    params = dataclasses.asdict(recipes.make_params(module, given))
    return min(module.EPOCHS, cap or module.EPOCHS), params


def _train(job: Job, work: Path, threads: int) -> dict[str, Any]:
    """Train one run, or go on with one that was cut short, and say what came of it."""
    run = RunDir(work / "runs" / job.key)
    attempt = _ask(run, job)
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(threads)}
    env |= {"TF_NUM_INTRAOP_THREADS": str(threads), "TF_NUM_INTEROP_THREADS": "1"}
    before = _processor()
    with run.log.open("ab") as log:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.plain" if job.plain else "trainer", str(run.root)],
            cwd=ROOT,
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        raise SystemExit(f"{job.recipe} on {job.data} failed: read {run.log}")
    whole = attempt == 1
    row = _row(job, run, threads) | {"processor": _processor() - before if whole else None}
    shutil.rmtree(run.root)
    return row


def _processor() -> float:
    """Seconds of the processor that all programs took which were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ask(run: RunDir, job: Job) -> int:
    """Write the spec, and the next attempt, whose number is answered."""
    module = recipes.load(job.recipe)
    spec = Spec(
        run=job.key,
        recipe=job.recipe,
        data=str(job.folder),
        fingerprint=job.report.fingerprint,
        epochs=job.epochs or module.EPOCHS,
        batch_size=module.BATCH_SIZE,
        params=job.params,
        seed=job.seed,
        split=job.split,
        synthetic=job.report.synthetic,
        fold=job.fold,
        folds=job.folds,
    )
    contract.publish(run.spec, spec.to_json())
    number = 1 + len(list(run.attempts.glob("*.json")))
    attempt = Attempt(number, f"{job.key}-{number}", "start" if number == 1 else "checkpoint")
    contract.publish(run.attempts / f"{number}.json", attempt.to_json())
    return number


def _row(job: Job, run: RunDir, threads: int) -> dict[str, Any]:
    events = [contract.decode(line) for line in run.events.read_bytes().splitlines()]
    said = next(e for e in reversed(events) if isinstance(e, Dataset))
    ended = next(e for e in reversed(events) if isinstance(e, Ended))
    epochs = {e.epoch: e for e in events if isinstance(e, Epoch)}
    best = {a.role: run.root / a.path for a in Manifest.parse(run.manifest.read_bytes()).of("best")}
    module = recipes.load(job.recipe)
    with best["predictions"].open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    return {
        **_about(job, said.classes),
        "train": said.train,
        "val": said.val,
        "epochs": len(epochs),
        "best_epoch": ended.best_epoch,
        "val_accuracy": ended.best,
        "capped": len(epochs) == job.epochs < module.EPOCHS,
        "seconds": sum(e.seconds for e in epochs.values()),
        "threads": threads,
        "by_speaker": _confusions(
            said.classes,
            [(line["speaker"], line["label"], line["taken_for"]) for line in table],
        ),
    }


def _baseline(job: Job) -> dict[str, Any]:
    """Logistic regression on the mean and deviation over time of every clip that is not held out."""
    # Imported here: a second, for one row of many.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    began = time.monotonic()
    packed = dataset.load(job.folder, job.report.fingerprint)
    split = dataset.divide(packed, job.split, job.seed, fold=(job.fold, job.folds))
    frames = [packed.clip(i).astype(np.float32) for i in range(len(packed.labels))]
    x = np.stack([np.concatenate([f.mean(axis=0), f.std(axis=0)]) for f in frames])
    rest = np.setdiff1d(np.arange(len(x)), split.test)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=5000))
    guesses = model.fit(x[rest], packed.labels[rest]).predict(x[split.test])
    told = [
        (packed.report.used[i].speaker or "", packed.report.used[i].label, packed.classes[guess])
        for i, guess in zip(split.test, guesses, strict=True)
    ]
    return {
        **_about(job, packed.classes),
        "train": len(rest),
        "val": 0,
        "epochs": None,
        "best_epoch": None,
        "val_accuracy": None,
        "capped": False,
        "seconds": time.monotonic() - began,
        "threads": None,
        "by_speaker": _confusions(packed.classes, told),
    }


def _about(job: Job, classes: Sequence[str]) -> dict[str, Any]:
    known = job.report.every_speaker_known
    return {
        "key": job.key,
        "recipe": job.recipe,
        "data": job.data,
        "fingerprint": job.report.fingerprint,
        "clips": len(job.report.used),
        "speakers": len(job.report.speakers) if known else None,
        "classes": list(classes),
        "split": job.split,
        "fold": job.fold,
        "folds": job.folds,
        "seed": job.seed,
        "cap": job.epochs,
        "set": [*job.asked, *["plain Keras"] * job.plain],
        "machine": _machine(),
    }


def _confusions(classes: Sequence[str], told: list[tuple[str, str, str]]) -> dict[str, list[list[int]]]:
    """Of each speaker: rows are what was said, columns what it was taken for."""
    found = {speaker: np.zeros((len(classes), len(classes)), int) for speaker, _, _ in sorted(told)}
    for speaker, label, guess in told:
        found[speaker][classes.index(label), classes.index(guess)] += 1
    return {speaker: table.tolist() for speaker, table in found.items()}


def _machine() -> str:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "an unnamed processor",
    )
    return f"{os.cpu_count()} cores of {model}, shared, without GPU"


if __name__ == "__main__":
    main()
