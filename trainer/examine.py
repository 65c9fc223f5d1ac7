"""python -m trainer.examine RUN_DIR DATA_DIR: what a run's best model is worth on any data.

Reads the manifest, the best set and every clip of DATA_DIR; writes nothing. Prints one JSON object. Exit code
0; 2 with a sentence on stderr when these data cannot be evaluated, 1 when the model cannot.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import clips, contract
from trainer.artifacts import model
from trainer.artifacts.model import Bundle, BundleError
from trainer.clips import Clip, DataError, files
from trainer.contract import ContractError, Manifest, RunDir
from trainer.data.normaliser import Voice
from trainer.imports import NOT_YET, without
from trainer.scores import evaluate

BATCH = 32
TRIES = 3


def main(argv: list[str]) -> int:
    """Evaluate; returns the exit code."""
    if len(argv) != 2:
        return _said("usage: python -m trainer.examine RUN_DIR DATA_DIR", 2)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # The run may be training: its GPU is its own, and another process would take the memory.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    try:
        answer = examine(RunDir(Path(argv[0]).resolve()), Path(argv[1]).resolve())
    except DataError as e:
        return _said(str(e), 2)
    except (ContractError, BundleError, ValueError, OSError) as e:
        return _said(str(e), 1)
    print(json.dumps(answer, allow_nan=False))  # noqa: T201 - the answer
    return 0


def examine(run: RunDir, data: Path) -> dict[str, Any]:
    """The evaluation of the best model on every clip of `data` whose class it knows.

    Raises DataError, or ContractError, BundleError and ValueError for a model that cannot be used.
    """
    epoch, bundle, about = _best(run)
    report = clips.check(data)
    if why := report.misfit(dim=about["dim"], key=about["feature_key"]):
        raise DataError(why)
    known = [c for c in report.used if c.label in bundle.classes]
    if not known:
        raise DataError(
            f"the model knows {', '.join(bundle.classes)}, the clips are {', '.join(report.classes)}: "
            "not one can be evaluated"
        )
    found = evaluate.evaluate(
        np.array([bundle.classes.index(c.label) for c in known]),
        predict(bundle, data, known),
        classes=bundle.classes,
        speakers=[c.speaker for c in known],
    )
    return {
        "epoch": epoch,
        **found.to_dict(),
        "left_out": dict(
            sorted(Counter(c.label for c in report.used if c.label not in bundle.classes).items())
        ),
        "absent": [name for name in bundle.classes if name not in report.classes],
        "skipped": len(report.skipped),
        "speakers_shared_with_training": _shared(known, about.get("training_speakers")),
        "heard_together": evaluate.heard_together([c.speaker for c in known]) if bundle.adaptation else None,
        "trained_on_these_data": report.fingerprint == about["fingerprint"],
        "fingerprint": report.fingerprint,
        "synthetic": bundle.synthetic or report.synthetic,
    }


def _best(run: RunDir) -> tuple[int, Bundle, dict[str, Any]]:
    """The best model, its epoch and preprocessing; once more when a newer one took its place meanwhile."""
    for left in reversed(range(TRIES)):
        try:
            listed = Manifest.parse(run.manifest.read_bytes()).of("best")
            found = next(a for a in listed if a.role == "preprocessing")
            folder = (run.root / found.path).parent
            about = contract.parse_object((run.root / found.path).read_bytes(), found.name)
            with without(*NOT_YET):
                return found.epoch, model.load(folder), about
        except (FileNotFoundError, BundleError):
            if not left:
                raise
        except StopIteration:
            break
    raise ContractError(f"{run.root.name} has no best model yet")


def predict(bundle: Bundle, data: Path, known: Sequence[Clip]) -> npt.NDArray[np.float32]:
    """(n, classes) probabilities of clips of the folder `data`, read as they are needed, so that no data are
    too large. Raises DataError for one that is no longer there.
    """
    voices = _voices(bundle, data, known)
    rows = []
    for start in range(0, len(known), BATCH):
        # Always a whole batch: another size would be another graph.
        chosen = range(start, min(start + BATCH, len(known)))
        whole = [*chosen, *[start] * (BATCH - len(chosen))]
        frames = bundle.norm.batch([_features(data, known[i]) for i in whole], [voices[i] for i in whole])
        rows.append(bundle.model.predict_on_batch(frames)[: len(chosen)])
    return np.concatenate(rows)


def _voices(bundle: Bundle, data: Path, known: Sequence[Clip]) -> list[Voice]:
    """By what each clip is normalised: a model that adapts has all of a speaker's clips to do so."""
    if not bundle.adaptation:
        return [bundle.norm.general] * len(known)
    spoken: dict[Hashable, list[Clip]] = {}
    for i, clip in enumerate(known):
        spoken.setdefault(clip.speaker or i, []).append(clip)
    voices = {who: bundle.voice([_features(data, c) for c in heard]) for who, heard in spoken.items()}
    return [voices[clip.speaker or i] for i, clip in enumerate(known)]


def _features(data: Path, clip: Clip) -> npt.NDArray[Any]:
    try:
        return files.parse((data / clip.path).read_bytes(), clip.path).features
    except (OSError, files.NotAClip) as e:
        raise DataError(f"{clip.path} changed while it was read ({e}); start again") from e


def _shared(known: list[Clip], trained: list[str] | None) -> int | None:
    """How many of the speakers were trained on; None where one side does not say."""
    speakers = {c.speaker for c in known if c.speaker}
    return len(speakers & set(trained)) if speakers and trained else None


def _said(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr, flush=True)  # noqa: T201 - for people
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
