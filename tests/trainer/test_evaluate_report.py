"""What a run leaves when it ends: an evaluation and a report of its best model, whole or not at all."""

import json
import re
import shutil
import signal
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer import artifacts, clips
from trainer.contract import Manifest, RunDir
from trainer.data import dataset
from trainer.scores import evaluate, report

from .runs import add_attempt, clip, events, spawn, train, wait_for

NewRun = Callable[..., RunDir]
PICTURES = {"confusion_v9.png", "roc_v9.png", "curves_v9.png"}
NAMES = {"report_v9.html", "evaluation_v9.json", "predictions_v9.csv", *PICTURES}


def best(run: RunDir) -> dict[str, Path]:
    """The best set by name, as the manifest has it."""
    return {a.name: run.root / a.path for a in Manifest.parse(run.manifest.read_bytes()).of("best")}


class Page(HTMLParser):
    """The words of a page, and what it would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words, self.loads, self.tags = "", [], []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        self.words += data + " "


def test_a_run_that_finished_has_a_report_of_its_best_epoch(finished: RunDir) -> None:
    whole = Manifest.parse(finished.manifest.read_bytes()).of("best")
    listed = [a for a in whole if a.role in artifacts.REPORT]
    assert {a.name for a in listed} == NAMES
    assert len({Path(path).parent for path in best(finished).values()}) == 1
    ended, (saved,) = events(finished)[-1], [e for e in events(finished, "saved") if e.role == "report"]
    assert {a.epoch for a in listed} == {saved.epoch} == {ended.best_epoch}
    for name, path in best(finished).items():
        if name.endswith(".png"):
            assert path.read_bytes().startswith(b"\x89PNG")


def test_the_evaluation_is_of_the_model_that_lies_beside_it(finished: RunDir, small_data: Path) -> None:
    found = json.loads(best(finished)["evaluation_v9.json"].read_bytes())
    metrics = json.loads(best(finished)["metrics_v9.json"].read_bytes())
    assert found["accuracy"] == metrics["val_accuracy"]
    assert (found["uar"], found["macro_f1"]) == (metrics["uar"], metrics["macro_f1"])
    assert (found["confusion"], found["n"]) == (metrics["confusion"], metrics["n"])
    assert found["synthetic"] is True
    assert (found["split"], found["shared_speakers"]) == ("speaker", 0)
    for name in ("accuracy", "uar", "macro_f1"):
        low, high = found["intervals"][name]
        assert 0 <= low <= found[name] <= high <= 1
    bundle = artifacts.load(best(finished)["report_v9.html"].parent)
    packed = dataset.load(small_data, clips.check(small_data).fingerprint)
    val = [packed.report.used[i] for i in dataset.divide(packed, "speaker", 42).val]
    told = [bundle.predict(small_data / one.path)["happy"] for one in val]
    from sklearn.metrics import roc_auc_score

    area = roc_auc_score([one.label == "happy" for one in val], told)
    assert found["per_class"]["happy"]["auc"] == pytest.approx(area, abs=1e-6)


def test_the_report_says_what_it_is_about_and_needs_nothing_else(finished: RunDir) -> None:
    html = best(finished)["report_v9.html"].read_text()
    found = json.loads(best(finished)["evaluation_v9.json"].read_bytes())
    page = Page(html)
    for words in ("v9_attention", "SYNTHETIC", "by speaker, seed 42", found["fingerprint"], "warmup"):
        assert words in page.words
    assert f"n = {found['n']} clips" in page.words
    assert f"{found['uar']:.3f}" in page.words
    assert "{:.3f} to {:.3f}".format(*found["intervals"]["uar"]) in page.words
    for name in found["classes"]:
        assert name in page.words
    assert "script" not in page.tags
    assert page.tags.count("img") == 3
    assert all(source.startswith("data:image/png;base64,") for source in page.loads)
    assert not re.search(r"https?:|url\(|@import", html)


def test_nothing_in_a_report_is_markup_of_somebody_else(finished: RunDir) -> None:
    body = json.loads(best(finished)["evaluation_v9.json"].read_bytes())
    hostile = {"run": "</title><script>", "params": {"<b>": '"><script src=//evil>'}}
    html = report.page(body | hostile, {"<i>": b""}).decode()
    assert "script" not in Page(html).tags
    assert html.count("&lt;script") == 3


def test_the_report_of_clips_without_speakers_says_what_that_costs(finished: RunDir) -> None:
    body = json.loads(best(finished)["evaluation_v9.json"].read_bytes())
    words = Page(report.page(body | {"shared_speakers": None}, {}).decode()).words
    assert "Speakers are not known" in words
    assert "for strangers they are too narrow" in words
    assert "3 of the speakers were trained on too" in report.page(body | {"shared_speakers": 3}, {}).decode()


def test_the_report_of_a_model_that_adapts_says_how_much_it_heard(finished: RunDir) -> None:
    body = json.loads(best(finished)["evaluation_v9.json"].read_bytes())
    assert body["heard_together"] is None  # v9 adapts to nobody
    assert "single clip" not in report.page(body, {}).decode()
    assert "single clip" not in report.page(body | {"heard_together": 1}, {}).decode()
    words = Page(report.page(body | {"heard_together": 60}, {}).decode()).words
    assert "heard all clips of a speaker together, 60 in the median" in words
    assert "single clip will be understood less well" in words


def test_clips_of_nobody_known_are_heard_alone() -> None:
    assert evaluate.heard_together(["a"] * 5 + ["b"] * 3 + ["c"] * 9) == 5
    assert evaluate.heard_together([None, None, "a"]) == 1


def test_the_sets_before_and_after_the_report_are_both_whole(finished: RunDir) -> None:
    """Who was fetching the earlier folder finds it as it was."""
    folder = best(finished)["report_v9.html"].parent
    (before,) = [p for p in finished.artifacts.glob("best-*") if p != folder]
    kept = {p.name for p in folder.iterdir()} - NAMES
    assert {p.name for p in before.iterdir()} == kept
    assert all((before / name).read_bytes() == (folder / name).read_bytes() for name in kept)


def test_a_run_that_is_stopped_has_its_report_too(new_run: NewRun) -> None:
    """Nor does anything draw before: keras by itself would import matplotlib, for its galleries, and
    scikit-learn, for its wrappers, which costs as much as the rest of keras.
    """
    run = new_run(epochs=5000, params={"patience": 5000})
    process = spawn(run, PYTHONPROFILEIMPORTTIME="1")
    wait_for(lambda: len(events(run, "epoch")) >= 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert events(run)[-1].status == "stopped"
    assert best(run).keys() >= NAMES
    assert json.loads(best(run)["evaluation_v9.json"].read_bytes())["epoch"] == events(run)[-1].best_epoch
    before, _, after = run.log.read_text().partition("Epoch 2/5000")
    for name in ("scipy._lib._util", "sklearn._config"):
        assert not re.search(rf"\| +{re.escape(name)}$", before, re.MULTILINE)
    for name in ("matplotlib.figure", "jinja2"):
        imported = re.compile(rf"\| +{re.escape(name)}$", re.MULTILINE)
        assert not imported.search(before)
        assert imported.search(after)


def test_a_run_killed_before_its_report_gets_it_when_it_is_resumed(finished: RunDir, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    shutil.copytree(finished.root, run.root)
    manifest = json.loads(run.manifest.read_bytes())
    for path in [p for name, p in best(run).items() if name in NAMES]:
        path.unlink()
    manifest["artifacts"] = [a for a in manifest["artifacts"] if a["name"] not in NAMES]
    run.manifest.write_text(json.dumps(manifest))
    add_attempt(run, 2, origin="checkpoint")
    assert train(run) == 0
    assert best(run).keys() >= NAMES
    assert events(run)[-1].best_epoch == events(finished)[-1].best_epoch
    add_attempt(run, 3, origin="checkpoint")
    assert train(run) == 0
    assert [e.role for e in events(run, "saved")].count("report") == 2


def test_where_no_report_can_be_made_the_run_has_finished_all_the_same(
    finished: RunDir, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    shutil.copytree(finished.root, run.root)
    folder = best(run)["report_v9.html"].parent
    (folder / "report_v9.html").unlink()
    (folder / "best_model_v9.keras").write_bytes(b"damaged")
    add_attempt(run, 2, origin="checkpoint")
    assert train(run) == 0
    assert events(run)[-1].status == "finished"
    assert any(e.level == "warning" and "no report of epoch" in e.text for e in events(run, "note"))
    assert {p.name for p in run.artifacts.iterdir() if p.name[0] == "."} == set()


def test_a_first_epoch_too_good_to_be_true_is_said_aloud(
    new_run: NewRun, finished: RunDir, tmp_path: Path
) -> None:
    """The predecessor's labels were in the features: 99 % after one epoch, and nobody wondered."""
    data, random = tmp_path / "leaky", np.random.default_rng(1)
    for i in range(80):
        features = random.normal(size=(12, 4)).astype(np.float32)
        features[:, 0] = 20 * (i % 2) - 10
        clip(data, f"{i}.npz", emotion=("sad", "calm")[i % 2], speaker=f"s{i % 10}", features=features)
    run = new_run(data=data, epochs=1, batch_size=4, params={"warmup": 1, "high_lr": 0.05, "low_lr": 0.05})
    assert train(run) == 0
    assert [e.level for e in alarms(run)] == ["warning"]
    assert alarms(finished) == []


def alarms(run: RunDir) -> list[Any]:
    return [e for e in events(run, "note") if "first epoch already" in e.text]
