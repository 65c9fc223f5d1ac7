"""What a run leaves: `artifacts/best-NNNN/`, the files of each checkpoint, and the manifest of both."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer import contract, folders
from trainer.artifacts import weights
from trainer.artifacts.model import Bundle, load
from trainer.artifacts.proof import Proof, Result, Unfit
from trainer.contract import Artifact, Manifest, RunDir
from trainer.data.normaliser import Normaliser

__all__ = [
    "Bundle",
    "Identity",
    "Proof",
    "Result",
    "Unfit",
    "load",
    "publish_best",
    "publish_manifest",
    "write_last",
]

METRIC = "val_accuracy"

NAMES = {
    "model": "{of}_model_{tag}.keras",
    "weights": "{of}_{tag}.weights.h5",
    "config": "model_config_{tag}.json",
    "labels": "label_classes_{tag}.npy",
    "mean": "audio_mean_{tag}.npy",
    "std": "audio_std_{tag}.npy",
    "history": "history_{tag}.json",
    "metrics": "metrics_{tag}.json",
    "preprocessing": "preprocessing_{tag}.json",
}
# Written once a run is over.
REPORT = {
    "report": "report_{tag}.html",
    "evaluation": "evaluation_{tag}.json",
    "confusion": "confusion_{tag}.png",
    "roc": "roc_{tag}.png",
    "curves": "curves_{tag}.png",
    "predictions": "predictions_{tag}.csv",
}


@dataclass(frozen=True)
class Identity:
    """What is the same for all epochs of a run: who it is, and what a clip goes through before the model."""

    run: str
    recipe: str
    tag: str
    classes: tuple[str, ...]
    norm: Normaliser
    preprocessing: Mapping[str, Any]
    synthetic: bool

    def name(self, of: str, role: str) -> str:
        """What the file of a role is called at home."""
        return NAMES[role].format(of=of, tag=self.tag)

    @property
    def report_names(self) -> dict[str, str]:
        """What the files of a report are called at home, by role."""
        return {role: name.format(tag=self.tag) for role, name in REPORT.items()}


def publish_best(run: RunDir, model: Any, who: Identity, result: Result, proof: Proof) -> Path:
    """Publish `artifacts/best-NNNN/`. Raises Unfit when what was saved is not the model that was measured."""
    if not finite(model):
        raise Unfit(f"the weights of epoch {result.epoch} are not all finite")

    def fill(folder: Path) -> None:
        weights.save(model, folder / who.name("best", "model"), folder / who.name("best", "weights"))
        _write_companions(folder, who, result)
        proof.of(folder / who.name("best", "model"), model, result)

    return folders.publish(_free(run.artifacts / f"best-{result.epoch:04}"), fill)


def publish_report(run: RunDir, who: Identity, best: Path, epoch: int, files: Mapping[str, bytes]) -> Path:
    """Publish the set in the folder `best` once more, with a report: no reader sees a part of it."""
    old = set(who.report_names.values())

    def fill(folder: Path) -> None:
        for file in best.iterdir():
            if file.name not in old:
                _same(file, folder / file.name)
        for name, data in files.items():
            (folder / name).write_bytes(data)

    return folders.publish(_free(run.artifacts / f"best-{epoch:04}"), fill)


def write_last(folder: Path, model: Any, who: Identity, result: Result, saved: Path | None = None) -> None:
    """Fill a checkpoint folder with all that makes its epoch's model usable at home.

    `saved` are the weights of this very model where they were written before: a copy is the cheaper by far.
    """
    if saved:
        shutil.copyfile(saved, folder / who.name("last", "weights"))
    else:
        weights.save_weights(model, folder / who.name("last", "weights"))
    config = {**json.loads(model.to_json()), "compile_config": None}
    _write_json(folder / who.name("last", "config"), who, config)
    _write_companions(folder, who, result)


def publish_manifest(
    run: RunDir, who: Identity, *, best: tuple[Path, int, float] | None, last: tuple[Path, int, float] | None
) -> Manifest:
    """Rewrite the manifest from folder, epoch and value of best and of last."""
    artifacts: list[Artifact] = []
    values: dict[str, float | None] = {}
    for of, there in (("best", best), ("last", last)):
        if there is not None:
            folder, epoch, values[of] = there
            artifacts += _listed(run, who, of, folder, epoch)  # type: ignore[arg-type]
    manifest = Manifest(who.run, who.recipe, METRIC, tuple(artifacts), values, who.synthetic)
    contract.publish(run.manifest, manifest.to_json())
    return manifest


def prune(run: RunDir, wanted: set[str]) -> None:
    """Delete the best folders that are not `wanted`."""
    folders.keep(run.artifacts, "best-*", wanted)


def finite(model: Any) -> bool:
    """Whether every weight is a number."""
    return all(bool(np.isfinite(w).all()) for w in model.get_weights())


def _free(target: Path) -> Path:
    """`target`, or the next free name: a best that the manifest still lists is never written over."""
    number, free = 1, target
    while free.exists():
        number += 1
        free = target.with_name(f"{target.name}-{number}")
    return free


def _same(file: Path, there: Path) -> None:
    """The same file under another name, or a copy where the file system has no links."""
    try:
        there.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, there)


def _write_companions(folder: Path, who: Identity, result: Result) -> None:
    """Labels, statistics and JSON: the files that lie beside every set of weights."""
    np.save(folder / who.name("", "labels"), np.array(who.classes, dtype=np.str_))
    np.save(folder / who.name("", "mean"), who.norm.mean)
    np.save(folder / who.name("", "std"), who.norm.std)
    _write_json(folder / who.name("", "history"), who, _columns(result.history))
    _write_json(folder / who.name("", "metrics"), who, _metrics(who, result))
    _write_json(folder / who.name("", "preprocessing"), who, dict(who.preprocessing))


def _write_json(path: Path, who: Identity, body: dict[str, Any]) -> None:
    path.write_bytes(contract.to_json({**body, "synthetic": who.synthetic}))


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One list per name, all as long as there are epochs."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _metrics(who: Identity, result: Result) -> dict[str, Any]:
    score = result.score
    return {
        "run": who.run,
        "recipe": who.recipe,
        "epoch": result.epoch,
        "val_accuracy": result.val_accuracy,
        "val_loss": result.val_loss,
        "uar": score.uar,
        "macro_f1": score.macro_f1,
        "per_class": score.recall,
        "classes": list(who.classes),
        "confusion": score.confusion,
        "n": score.n,
        "split": who.preprocessing["split"],
        "speakers": who.preprocessing["speakers"],
        "shared_speakers": who.preprocessing["shared_speakers"],
    }


def _listed(
    run: RunDir, who: Identity, of: Literal["best", "last"], folder: Path, epoch: int
) -> list[Artifact]:
    listed = []
    names = {role: who.name(of, role) for role in NAMES} | who.report_names
    for role, name in names.items():
        path = folder / name
        if path.exists():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            where = path.relative_to(run.root).as_posix()
            listed.append(Artifact(of, role, name, where, path.stat().st_size, digest, epoch))
    return listed
