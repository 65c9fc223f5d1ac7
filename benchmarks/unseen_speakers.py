"""How well a recipe does on speakers that had no part in training, nor in choosing a model.

    python -m benchmarks.unseen_speakers RECIPE --data FOLDER [--files "cremad_*"] [--test folds|sixth]
                                         [--seeds 3] [--epochs N] [--batch-size N] [--set key=value]…
                                         [--only-folds 0,1] [--results FILE]
    python -m benchmarks.unseen_speakers --page docs/results.md --results docs/unseen_speakers.jsonl

Speakers are sorted by name. `folds`: speaker i is tested in fold (i // 2) % 4, so that the pairs of RAVDESS,
a man and a woman, stay together. `sixth`: every sixth speaker is tested, once. All others train, and the
model of the last epoch is tested: nothing of the test is seen before. Only recipes whose rate is fixed
beforehand can be measured so. A recipe that adapts to voices hears all clips of a tested speaker, without
their labels; `alone` is the accuracy when a clip is all that is heard of anybody. A line goes to `--results`
for each training, and those there are not repeated; `--page` writes the table of them all into a page,
between the marks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import results_page
from trainer.training import memory

if TYPE_CHECKING:
    from trainer.data.dataset import Packed

FOLDS = 4
SIXTH = 6
BEGIN = "<!-- unseen speakers: what follows is written by benchmarks.unseen_speakers -->"
END = "<!-- end of unseen speakers -->"


def main() -> None:
    """Train, test and print; or write the table."""
    asked = _arguments()
    if asked.page:
        write(asked.page, asked.results)
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    memory.keep_freed()
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(asked.data.resolve().glob(f"{asked.files}.npz")):
            (Path(folder) / path.name).symlink_to(path)
        found = list(_measure(Path(folder), asked))
    print(f"{len(found)} trainings, {sum(f['seconds'] for f in found) / len(found):.0f} s each")
    for name in ("accuracy", "uar", "alone"):
        by_seed = [
            statistics.mean(f[name] for f in found if f["seed"] == seed) for seed in range(asked.seeds)
        ]
        print(f"{name:8} {statistics.mean(by_seed):.3f}   seeds {' '.join(f'{v:.3f}' for v in by_seed)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--files", default="*", help="which clips, as a pattern of names without .npz")
    parser.add_argument("--test", choices=("folds", "sixth"), default="folds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="key=value")
    parser.add_argument("--only-folds", default="0,1,2,3")
    parser.add_argument("--results", type=Path)
    asked = parser.parse_args()
    if (asked.page and not asked.results) or not (asked.page or (asked.recipe and asked.data)):
        parser.error("name a recipe and --data, or --page and --results")
    return asked


def write(page: Path, results: Path) -> None:
    """Put the table between the marks of a page. Raises SystemExit where there are none."""
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    results_page.put_between(page, BEGIN, END, table(lines))


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """A row for everything that was asked, over its folds and seeds: means, and the mean of each seed.

    Folds that a seed lacks are missing from its mean, and named.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for line in lines:
        more = [f"epochs={line['epochs']}"] * bool(line["epochs"]) + [f"batch={line['batch']}"] * bool(
            line["batch"]
        )
        groups.setdefault((line["recipe"], *_corpus(line), ", ".join([*line["set"], *more])), []).append(line)
    rows = ["| recipe | data | `--set` | accuracy | each seed | UAR | alone | trainings |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for (recipe, data, test, asked), of in sorted(groups.items()):
        seeds = sorted({line["seed"] for line in of})
        by_seed = [statistics.mean(x["accuracy"] for x in of if x["seed"] == seed) for seed in seeds]
        rows.append(
            f"| `{recipe}` | {data} | {asked or '–'} | **{statistics.mean(by_seed):.3f}** | "
            f"{' '.join(f'{v:.3f}' for v in by_seed)} | {_mean(of, 'uar')} | {_mean(of, 'alone')} | "
            f"{_trainings(of, test)} |"
        )
    return "\n".join(rows) + "\n"


def _corpus(line: Mapping[str, Any]) -> tuple[str, str]:
    """What was trained on, and how it was divided."""
    part = line["files"].partition("_")[0].strip("*")
    return f"`{line['data']}` {part}".strip(), line["test"]


def _mean(of: Sequence[Mapping[str, Any]], name: str) -> str:
    if any(name not in line for line in of):
        return "not run"
    seeds = {line["seed"] for line in of}
    return f"{statistics.mean(statistics.mean(x[name] for x in of if x['seed'] == s) for s in seeds):.3f}"


def _trainings(of: Sequence[Mapping[str, Any]], test: str) -> str:
    tested = {line["fold"]: line["tested"] for line in of}
    folds = "every sixth speaker" if test == "sixth" else f"folds {', '.join(map(str, sorted(tested)))}"
    seeds = len({line["seed"] for line in of})
    missing = len(tested) * seeds - len(of)
    told = f"{folds}, {sum(tested.values())} clips, {seeds} seed" + "s" * (seeds > 1)
    return told + (f", {missing} missing" if missing else "")


def _measure(folder: Path, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from trainer import clips
    from trainer.data import dataset

    packed = dataset.load(folder, clips.check(folder).fingerprint)
    wanted = [int(f) for f in asked.only_folds.split(",")] if asked.test == "folds" else [0]
    for seed in range(asked.seeds):
        for fold in wanted:
            what = {"recipe": asked.recipe, "files": asked.files, "data": asked.data.name, "test": asked.test}
            what |= {"seed": seed, "fold": fold, "epochs": asked.epochs, "batch": asked.batch_size}
            what |= {"set": sorted(asked.set)}
            line = _found_before(asked.results, what) or {**what, **_train(packed, asked, seed, fold)}
            if asked.results and not _found_before(asked.results, what):
                with asked.results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            print(
                f"fold {fold} seed {seed}: accuracy {line['accuracy']:.3f}, UAR {line['uar']:.3f}, "
                f"alone {line['alone']:.3f}, {line['seconds']:.0f} s",
                flush=True,
            )
            yield line


def _found_before(results: Path | None, what: dict[str, Any]) -> dict[str, Any] | None:
    if results is None or not results.exists():
        return None
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    # Lines of before `alone` was measured do not answer all that is asked.
    return next((line for line in lines if what.items() <= line.items() and "alone" in line), None)


def _train(packed: Any, asked: argparse.Namespace, seed: int, fold: int) -> dict[str, Any]:
    import keras
    import numpy as np

    from trainer import recipes
    from trainer.data import dataset
    from trainer.data.batches import Training, Validation
    from trainer.schedule import Schedule
    from trainer.scores import evaluate
    from trainer.training import graphs
    from trainer.training.callbacks import Pace
    from trainer.training.keeper import Course

    recipe = recipes.load(asked.recipe)
    params = recipes.make_params(recipe, dict(pair.split("=", 1) for pair in asked.set))
    wishes = recipes.preparation(recipe, params)
    epochs, size = asked.epochs or recipe.EPOCHS, asked.batch_size or recipe.BATCH_SIZE
    plan = recipe.schedule(params, epochs=epochs).fitted()
    if plan.cosine_from is None or plan.cosine_from > plan.warmup + 1:
        raise SystemExit(f"{asked.recipe} sets its rate by validation, which there is none of here")

    tested = np.flatnonzero([_is_tested(packed, c.speaker, asked.test, fold) for c in packed.report.used])
    train = np.setdiff1d(np.arange(len(packed.labels)), tested)
    norm = dataset.normaliser(packed, train, wishes)
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    graphs.leave_as_traced()
    model = recipe.build(wishes.shape(norm.frames, packed.dim), len(packed.classes), params)
    batches = Training(packed, train, norm, batch_size=size, seed=seed, asked=wishes)
    pace = Pace(Course(epochs, params.patience, Schedule(plan)), batches, seed)
    began = time.perf_counter()
    model.fit(batches.stream(), epochs=epochs, callbacks=[pace], shuffle=False, verbose=0)
    seconds = time.perf_counter() - began

    def score(clips: Packed) -> evaluate.Score:
        test = Validation(clips, tested, norm, batch_size=size, asked=wishes)
        return evaluate.score(test.labels, test.predict(model), packed.classes)

    found, alone = score(packed), score(_nameless(packed))
    return {
        "accuracy": found.accuracy,
        "uar": found.uar,
        "alone": alone.accuracy,
        "seconds": seconds,
        "tested": len(tested),
    }


def _nameless(packed: Packed) -> Packed:
    """The same clips, nobody knowing who speaks."""
    used = [clip._replace(speaker=None) for clip in packed.report.used]
    return replace(packed, report=replace(packed.report, used=tuple(used)))


def _is_tested(packed: Any, speaker: str, test: str, fold: int) -> bool:
    place = sorted(packed.report.speakers).index(speaker)
    return bool((place // 2) % FOLDS == fold if test == "folds" else place % SIXTH == 0)


if __name__ == "__main__":
    main()
