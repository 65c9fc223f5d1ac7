"""Words, data, tables and waiting, as they come out of a pipe."""

from __future__ import annotations

import io
import json
import re
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from orchestrator import view
from orchestrator.history import Known
from tests.orchestrator.snapshots import EVIL, HOSTILE, acting, hostile

anything = st.text(st.characters(exclude_categories=()), max_size=200)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def show_everything() -> None:
    """One call of everything that prints, with hostile text wherever text goes."""
    view.follow([hostile()], log_lines=40)
    view.say(EVIL, level="warning")
    view.error(f"{EVIL}\n{EVIL}")
    view.data(EVIL)
    view.json_line({EVIL: EVIL})
    with view.progress(EVIL, unit="bytes") as telling:
        telling(1, 2)
        telling.phase(EVIL)
        telling(2, 2)
    known = Known(hostile().run, hostile().progress, EVIL, None)
    sys.stdout.write(view.compared_page([known, known], {EVIL: [EVIL, None]}))
    show_pages()


def show_pages() -> None:
    """What is laid out for the width of the window."""
    row = {
        "run": EVIL,
        "recipe": EVIL,
        "machine": EVIL,
        "data": EVIL,
        "state": EVIL,
        "best": {"epoch": 1, "val_accuracy": 0.5},
        "epoch": 1,
        "epochs": 2,
        "age_seconds": 4.0,
        "heard_seconds": None,
        "synthetic": True,
    }
    view.show(hostile(), log_lines=40)
    view.runs_table([row])
    known = Known(hostile().run, hostile().progress, EVIL, None)
    view.compared([known, known], {EVIL: [EVIL, None]})
    view.recipes_table([(EVIL, EVIL, EVIL)])
    view.recipe_page(EVIL, EVIL, [(EVIL, EVIL, EVIL, EVIL)])
    view.evaluation(EVALUATION | {"run": EVIL, "data": EVIL, "left_out": {EVIL: 3}, "absent": [EVIL]})
    fold = FOLDS["folds"][0] | {"run": EVIL}
    view.folds(FOLDS | dict.fromkeys(("run", "best", "recipe", "split"), EVIL) | {"folds": [fold]})
    view.machines_table([{"machine": EVIL, "state": EVIL, "running": [EVIL], "why": EVIL, "provider": EVIL}])
    view.files_table([(EVIL, EVIL, 12, EVIL)])
    view.doctor_table([(EVIL, "fail", EVIL, EVIL)])
    view.plan({EVIL: {EVIL: [EVIL]}, "x": EVIL})
    view.data_report(REPORT | {"classes": {EVIL: 3}, "key": EVIL, "fingerprint": EVIL} | BAD)


SCORES = ("accuracy", "uar", "macro_f1")
REPORT: dict[str, Any] = {
    "files": 96,
    "used": 90,
    "skipped": [{"path": f"a/{i}.npz", "reason": "no label in its name"} for i in range(6)],
    "classes": {"angry": 16, "calm": 8},
    "speakers": {"ravdess-01": 20, "ravdess-02": 60},
    "frames": {"min": 80, "median": 180.5, "max": 260},
    "dim": 768,
    "key": "embedding",
    "synthetic": False,
    "problems": [],
    "fingerprint": "ab" * 32,
}
EVALUATION: dict[str, Any] = {
    "run": "v9-0611-1420-abc",
    "data": "others",
    "epoch": 9,
    "n": 100,
    "accuracy": 0.61,
    "uar": 0.6,
    "macro_f1": 0.59,
    "intervals": {
        "level": 0.95,
        "resampled": "speakers",
        "resamples": 1000,
        "speakers": 12,
        "accuracy": [0.55, 0.66],
        "uar": [0.54, 0.65],
        "macro_f1": [0.53, 0.64],
    },
    "classes": ["angry", "calm"],
    "per_class": {
        "angry": {"precision": 0.5, "recall": 0.75, "f1": 0.6, "support": 40, "auc": 0.8},
        "calm": {"precision": None, "recall": None, "f1": None, "support": 0, "auc": None},
    },
    "confusion": [[30, 10], [0, 0]],
    "left_out": {"sad": 7},
    "absent": ["calm"],
    "skipped": 2,
    "speakers_shared_with_training": 0,
    "heard_together": 60,
    "trained_on_these_data": False,
    "synthetic": False,
}
FOLDS: dict[str, Any] = {
    "run": "cv",
    "recipe": "v9_attention",
    "split": "speaker",
    "of": 3,
    "folds": [
        {"run": f"cv-f{i}", "fold": i, "epoch": 9, "n": 50, "speakers": 6, **dict.fromkeys(SCORES, i / 4)}
        for i in (1, 2)
    ],
    "missing": ["cv-f3"],
    "mean": dict.fromkeys(SCORES, 0.375),
    "deviation": dict.fromkeys(SCORES, 0.1768),
    "best": "cv-f2",
    "pooled": EVALUATION,
    "synthetic": False,
}
BAD = {
    "skipped": [{"path": EVIL, "reason": EVIL}],
    "problems": [{"kind": EVIL, "fatal": True, "text": EVIL, "paths": [EVIL]}],
}


def test_nothing_hostile_gets_into_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    show_everything()
    out, err = capsys.readouterr()
    assert acting(out) == set() and acting(err) == set()
    for printed in (out, err):
        assert "[link=http://evil.example]markup[/link][bold red]" in printed  # to the letter
        assert ":bomb:" in printed


def test_an_error_keeps_its_lines_and_begins_with_our_name(capsys: pytest.CaptureFixture[str]) -> None:
    view.error("the machine said:\n  no room")
    assert capsys.readouterr() == ("", "ec2emo: the machine said:\n  no room\n")


@pytest.mark.parametrize(("level", "sign"), [("info", ""), ("warning", "! "), ("good", "✓ ")])
def test_words_go_to_stderr_with_a_sign(level: Any, sign: str, capsys: pytest.CaptureFixture[str]) -> None:
    view.say("long " * 60, level=level)
    assert capsys.readouterr() == ("", f"{sign}{'long ' * 60}\n")


@settings(deadline=None)
@given(st.dictionaries(anything, st.recursive(anything | st.floats(), st.lists, max_leaves=5), max_size=4))
@example({EVIL: [EVIL, float("nan")]})
def test_json_is_one_inert_line_that_reads_back(body: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stream = io.StringIO()
        patch.setattr("sys.stdout", stream)
        view.json_line(body)
    line = stream.getvalue()
    assert line.endswith("\n") and all(" " <= c <= "~" for c in line[:-1])
    # Two halves of a surrogate pair next to each other are one character to JSON.
    whole = {key.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass") for key in body}
    assert json.loads(line, parse_constant=pytest.fail).keys() == whole


def test_a_number_that_is_not_finite_is_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    view.json_line({"a": [float("nan"), {"b": float("-inf")}], "c": 0.5})
    assert json.loads(capsys.readouterr().out) == {"a": [None, {"b": None}], "c": 0.5}


def runs(number_of: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "run": f"v9-0611-1420-ab{i}",
            "recipe": "v9_attention",
            "machine": "ssh://ubuntu@gpu.example.org",
            "data": "/home/me/features",
            "state": "running" if i else "failed",
            "best": {"epoch": 3, "val_accuracy": 0.6921} if i else None,
            "epoch": 3,
            "epochs": 30,
            "age_seconds": 7300.0,
            "heard_seconds": 700.0,
            "heard": None,
            "synthetic": bool(i),
        }
        for i in range(number_of)
    ]


def test_a_table_in_a_pipe_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    view.runs_table(runs())
    head, failed, running = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "state", "best", "epochs", "heard", "age", "recipe", "machine", "data"]
    assert "✗ failed" in failed and "  -  3 of 30" in failed
    for part in (
        "● running",
        "0.6921",
        "2 h ago",
        "ssh://ubuntu@gpu.example.org",
        "SYNTHETIC (/home/me/features)",
    ):
        assert part in running


def test_a_narrow_table_keeps_what_matters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    view.runs_table(runs())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "state", "best"] and len(lines) == 3
    assert max(map(len, lines)) <= 40


def test_a_table_without_rows_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    view.runs_table([])
    view.machines_table([])
    view.files_table([])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("columns", ["80", "40"])
def test_pages_stay_within_the_window(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    show_pages()
    view.data_report(REPORT)
    view.plan({"params": {"units": 128}, "machine": "x" * 200, "bytes": None})
    for line in capsys.readouterr().out.splitlines():
        assert cell_len(line) <= int(columns), line


def test_a_plan_counts_bytes_as_people_do(capsys: pytest.CaptureFixture[str]) -> None:
    view.plan({"travels": {"bytes": 43_700_000, "files": 435, "bytes_in_float16": None}})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["travels"], ["bytes", "43.7", "MB"], ["files", "435"], ["bytes_in_float16", "none"]]


def test_data_that_can_be_trained_on_are_called_ready(capsys: pytest.CaptureFixture[str]) -> None:
    view.data_report(REPORT, names=2)
    out = capsys.readouterr().out
    for part in (
        "96 found, 90 used, 6 left out",
        "embedding, 768 numbers a frame",
        "min 80, median 180.5, max 260",
        "2, 20 to 60 clips each, known for 80 of 90 clips",
        "calm    8  ━━━━━━━━━━━━━━━\n",
        "a/1.npz: no label in its name\n    and 4 more\n",
        "✓ ready to train on\n",
    ):
        assert part in out
    assert "SYNTHETIC" not in out


def test_the_memory_that_training_takes_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    view.data_report(REPORT | {"memory_bytes": {"clips": 2_000_000, "batch": 64_000, "batch_size": 32}})
    assert "2.0 MB for all clips, 64.0 kB for a batch of 32" in capsys.readouterr().out


def test_a_fatal_problem_is_named_with_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    fatal = {"kind": "mixed", "fatal": True, "text": "two sizes: send one", "paths": ["b/1.npz"]}
    view.data_report(REPORT | {"problems": [fatal], "synthetic": True})
    out = capsys.readouterr().out
    assert "✗ two sizes: send one\n    b/1.npz\n" in out
    assert out.endswith("✗ cannot be trained on as it is\n")
    assert out.startswith("SYNTHETIC data")


def test_folds_are_shown_one_by_one_and_together(capsys: pytest.CaptureFixture[str]) -> None:
    view.folds(FOLDS)
    out = capsys.readouterr().out
    for line in (
        "cv: 2 of 3 folds by speaker, of v9_attention",
        "! not evaluated yet: cv-f3",
        "   2  cv-f2      9     50         6    0.5000  0.5000    0.5000",
        "accuracy  0.6100  0.5500 to 0.6600   folds 0.3750 ± 0.1768",
        "clips     100 held out, which chose nothing",
        "best      cv-f2, if only because its clips are easy",
    ):
        assert line in out
    view.folds(FOLDS | {"deviation": dict.fromkeys(SCORES), "missing": [], "synthetic": True})
    out = capsys.readouterr().out
    assert "folds 0.3750\n" in out
    assert "SYNTHETIC" in out


def test_an_evaluation_says_how_sure_it_is_and_of_whom(capsys: pytest.CaptureFixture[str]) -> None:
    view.evaluation(EVALUATION)
    out = capsys.readouterr().out
    assert "SYNTHETIC" not in out
    for words in (
        "epoch 9, on others",
        "0.6000  0.5400 to 0.6500",
        "95%, 1000 resamples of 12 speakers",
        "100 evaluated, 7 of sad left out, which the model does not know, 2 files unusable",
        "none shared with training",
    ):
        assert words in out
    rows = [line.split() for line in out.splitlines()[-2:]]
    assert rows == [
        ["angry", "40", "0.7500", "0.5000", "0.6000", "0.8000", "calm", "(10)"],
        ["calm", "0", *"-----"],
    ]
    view.evaluation(EVALUATION | {"trained_on_these_data": True, "synthetic": True})
    out = capsys.readouterr().out
    assert "SYNTHETIC" in out and "the very data of its training" in out


def test_the_doctor_says_what_to_do_where_something_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    view.doctor_table([("python", "ok", "3.11.7", ""), ("tmux", "warn", "not found", "install tmux")])
    assert capsys.readouterr().out == (
        "✓ python  3.11.7\n! tmux    warn: not found\n          install tmux\n"
    )


def test_a_recipe_lists_what_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    view.recipe_page(
        "v9", "One line.\n\nA paragraph\nof two.\n\n* a list\n", [("l2", "float", 1e-4, "decay")]
    )
    assert capsys.readouterr().out == (
        "v9\nOne line.\n\nA paragraph of two.\n\n* a list\n\nl2=0.0001  float\n    decay\n"
    )


# Waiting


def test_progress_in_a_pipe_is_sparse(capsys: pytest.CaptureFixture[str]) -> None:
    with view.progress("sending", unit="files") as telling:
        for i in range(10_000):
            telling(i, 10_000)
        telling.phase("unpacking")
    assert capsys.readouterr() == ("", "sending ...\nunpacking ...\n")


def test_progress_in_a_pipe_says_how_far_it_is_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("orchestrator.view.bars.time.monotonic", lambda: float(next(clock)))
    with view.progress("sending", unit="bytes") as telling:
        for i in range(10):
            telling(i * 1e6, 10e6)
    lines = capsys.readouterr().err.splitlines()
    assert 2 < len(lines) < 6
    assert re.fullmatch(r"sending: \d0%, \d\.0 MB of 10\.0 MB, [\w. ]+ left", lines[1])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("y\n", True), (" YES \n", True), ("n\n", False), ("\n", False), ("yeah\n", False), ("", False)],
)
def test_only_yes_is_yes(
    typed: str, meant: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert view.confirm(f"Delete it?{HOSTILE[0]}") is meant
    out, err = capsys.readouterr()
    assert (out, err.rstrip("\n")) == ("", "Delete it? [y/N] ")


def test_a_bare_return_takes_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\nthere\n"))
    assert view.ask("Where?", "local") == "local"
    assert view.ask("Where?", "local") == "there"
