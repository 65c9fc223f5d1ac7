"""docs/results.md says what its rows say, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import results, results_page, unseen_speakers
from trainer.clips import demo

ROOT = Path(__file__).parent.parent
PAGE, ROWS = ROOT / "docs" / "results.md", ROOT / "docs" / "results.jsonl"
ASK = ["--split", "speaker", "--folds", "2", "--fold", "1", "--epochs", "1"]


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *argv: str) -> list[dict[str, object]]:
    """Run the script; its rows."""
    files = ["--rows", str(folder / "rows.jsonl"), "--page", str(folder / "page.md")]
    monkeypatch.setattr("sys.argv", ["results", *files, "--work", str(folder / "work"), *argv])
    results.main()
    return results_page.read(folder / "rows.jsonl")


def test_the_page_is_written_from_its_rows_alone() -> None:
    text = PAGE.read_text(encoding="utf-8")
    _, _, rest = text.partition(results_page.BEGIN)
    written, _, _ = rest.partition(results_page.END)
    assert written.strip() == results_page.tables(results_page.read(ROWS)).strip()


def test_the_table_of_unseen_speakers_is_written_from_its_lines_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    unseen_speakers.write(page, ROOT / "docs" / "unseen_speakers.jsonl")
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")


def test_the_table_of_unseen_speakers_says_what_is_missing() -> None:
    line = {
        "recipe": "r",
        "files": "a_*",
        "data": "d",
        "test": "folds",
        "epochs": None,
        "batch": None,
        "set": [],
    }
    lines = [
        {**line, "seed": 0, "fold": 0, "accuracy": 0.5, "uar": 0.4, "alone": 0.3, "tested": 10},
        {**line, "seed": 0, "fold": 1, "accuracy": 0.7, "uar": 0.6, "tested": 20},
        {**line, "seed": 1, "fold": 0, "accuracy": 0.8, "uar": 0.8, "tested": 10},
    ]
    (row,) = unseen_speakers.table(lines).splitlines()[2:]
    assert "| **0.700** | 0.600 0.800 | 0.650 | not run | folds 0, 1, 30 clips, 2 seeds, 1 missing |" in row


def test_parameters_that_were_set_stand_below_the_same_trainings_without() -> None:
    def row(seed: int, right: int, *asked: str) -> dict[str, object]:
        return {
            "data": "d",
            "fingerprint": "f",
            "recipe": "v9_attention",
            "split": "speaker",
            "fold": 1,
            "folds": 4,
            "cap": 15,
            "seed": seed,
            "set": asked,
            "val_accuracy": right / 10,
            "classes": ["a", "b"],
            "clips": 20,
            "speakers": 5,
            "machine": "m",
            "threads": 1,
            "seconds": 1,
            "train": 5,
            "val": 5,
            "epochs": 15,
            "best_epoch": 3,
            "capped": True,
            "by_speaker": {"s": [[right, 10 - right], [0, 10]]},
        }

    rows = [row(1, 4), row(2, 6), row(3, 9), row(1, 6, "buckets=8"), row(2, 8, "buckets=8")]
    text = results_page.tables([{**row(1, 1), "cap": 10}, *rows])  # type: ignore[arg-type]
    main, _, changes = text.partition("## What shortcuts change")
    assert "buckets" not in main and "n = 60" in main
    wanted = "| `v9_attention` | d | speaker | 1 of 4 | 15 | "
    assert [line for line in changes.splitlines() if line.startswith(wanted)] == [
        f"{wanted}– | 2 | 0.500 ± 0.100 | 0.750 ± 0.050 |",
        f"{wanted}buckets=8 | 2 | 0.700 ± 0.100 | 0.850 ± 0.050 |",
    ]


def test_what_is_written_between_the_marks_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{results_page.BEGIN}\nold\n{results_page.END}\nafter\n")
    results_page.write(page, [])
    assert (
        page.read_text()
        == f"before\n{results_page.BEGIN}\n\nNothing has been run.\n\n{results_page.END}\nafter\n"
    )
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="there is no place to write to"):
        results_page.write(page, [])


def test_a_training_is_run_once_and_judged_by_the_clips_that_chose_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_clips: Path
) -> None:
    both = ("cnn_lstm_simplified", results.BASELINE)
    asked = ("--data", f"small={small_clips}/demo-*", "--recipe", *both, *ASK)
    rows = run(monkeypatch, tmp_path, *asked)
    assert [row["recipe"] for row in rows] == [*both]
    for row in rows:
        found = results_page.pooled([row])
        assert found.n + row["train"] + row["val"] == row["clips"] == 64  # type: ignore[operator]
        assert found.sure.speakers == len(row["by_speaker"]) == 4  # type: ignore[arg-type]
    assert (rows[0]["epochs"], rows[0]["capped"]) == (1, True)
    assert not list((tmp_path / "work" / "runs").iterdir())
    monkeypatch.setattr(results, "_train", None)
    assert run(monkeypatch, tmp_path, *asked) == rows
    text = (tmp_path / "page.md").read_text()
    assert f"| `cnn_lstm_simplified` | **{results_page.pooled([rows[0]]).accuracy:.3f}** |" in text
    assert "| `v9_attention` | not run |" in text
    assert f"1{results_page.CAP}" in text


def test_folds_are_pooled_clip_by_clip() -> None:
    row = {"classes": ["a", "b"], "by_speaker": {"s": [[3, 1], [0, 4]], "t": [[0, 4], [4, 0]]}}
    other = {"classes": ["a", "b"], "by_speaker": {"u": [[2, 0], [0, 2]]}}
    found = results_page.pooled([row, other])
    assert (found.n, found.accuracy) == (20, 11 / 20)
    assert found.uar == pytest.approx((5 / 10 + 6 / 10) / 2)
    assert found.each == (7 / 16, 1.0)


@pytest.fixture
def small_clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for path in sorted(demo.write(tmp_path / "demo").glob("*_[12].npz")):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_the_key_changes_with_all_that_may_change_a_figure(small_clips: Path) -> None:
    from dataclasses import replace

    from trainer import clips

    job = results.Job(
        "v9_attention", "d", small_clips, clips.check(small_clips), "clip", 1, 4, 42, 15, {"units": 128}
    )
    changes = [
        {"recipe": "v8"},
        {"split": "speaker"},
        {"fold": 2},
        {"folds": 5},
        {"seed": 1},
        {"epochs": 30},
        {"params": {"units": 64}},
        {"plain": True},
    ]
    keys = {replace(job, **change).key for change in changes}  # type: ignore[arg-type]
    assert len(keys) == len(changes)
    assert job.key not in keys
    assert replace(job, data="another name").key == job.key
    assert json.dumps(job.key)
