"""The page of a run and its story told line by line, looked at as text."""

from __future__ import annotations

import dataclasses
import io
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from orchestrator import view
from orchestrator.health import Gpu
from orchestrator.hints import hints
from orchestrator.progress import Snapshot
from orchestrator.view.live import Teller
from orchestrator.view.looks import LOOKS
from orchestrator.view.status import SLIMMEST, status_block
from tests.orchestrator.snapshots import BEGUN, MOMENTS, acting, events, heard, run, snapshot, story
from trainer.contract import Dataset, Ended, Epoch, Note, Started

anything = st.text(st.characters(exclude_categories=()), max_size=200)


def drawn(shown: Snapshot, *, width: int = 80, height: int | None = None, followed: bool = True) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height or 24)
    text = status_block(shown, followed=followed).fitted(console, width, height)
    return text.plain.split("\n")


def told(snapshots: Iterator[Snapshot]) -> list[str]:
    teller = Teller()
    return [line for shown in snapshots for line in teller.tell(shown)]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 24), (40, 10), (20, 6), (1, 1)])
def test_a_page_fits_its_window(moment: str, width: int, height: int) -> None:
    lines = drawn(MOMENTS[moment], width=width, height=height)
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize("width", [80, 40])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_page_says_what_matters_in_a_small_window(moment: str, width: int) -> None:
    shown = MOMENTS[moment]
    page = "\n".join(drawn(shown, width=width, height=21))
    sign, _ = LOOKS[shown.verdict.state]
    assert page.startswith(f"{sign} {shown.verdict.state}  v9-0611-1420-abc")
    assert re.search(r"ec2emo (monitor|download|resume) v9-0611-1420-abc", page)
    last, best = shown.progress.last, shown.progress.best
    if last and best:
        assert f"{last.epoch} of 30" in page
        assert all(name in page for name in ("loss", "accuracy", "val_loss", "val_accuracy"))
        assert f"{best.metrics['val_accuracy']:.4f} at epoch {best.epoch}" in page


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("asked", "waiting for the trainer's first word (not launched yet)"),
        ("started", "waiting for the data to be read"),
        ("data read", "waiting for the first epoch: 7821 clips on gpu"),
    ],
)
def test_a_run_without_an_epoch_says_what_it_waits_for(moment: str, words: str) -> None:
    for width in (80, 40):
        assert words in " ".join(" ".join(drawn(MOMENTS[moment], width=width, height=21)).split())


def test_a_fold_that_waits_for_others_says_for_which_and_what_it_holds_out() -> None:
    asked = run()
    asked = dataclasses.replace(asked, spec=dataclasses.replace(asked.spec, after=["cv-f1", "cv-f2"]))
    page = " ".join(drawn(snapshot(list(events(0))[:1], asked=asked)))
    assert "waiting   for its turn after cv-f1, cv-f2, then the data to be read" in page
    begun = [dataclasses.replace(e, test=300) if isinstance(e, Dataset) else e for e in events(2)]
    assert "869 val, 300 held out" in " ".join(drawn(snapshot(begun, asked=asked)))


def test_the_end_is_a_local_time_and_the_latest_possible() -> None:
    page = "\n".join(drawn(MOMENTS["running"]))
    left = 13 * 41 - 12
    expected = time.localtime(time.time() + left)
    near = {time.strftime("%H:%M", time.localtime(time.mktime(expected) + d)) for d in (-60, 0)}
    found = re.search(r"41 s per epoch, 9 min to go: (?:tomorrow )?(\d\d:\d\d) at the latest", page)
    assert found and found[1] in near


def test_an_overdue_epoch_is_noticed() -> None:
    assert any("! no epoch for 8 min 20 s" in line for line in drawn(MOMENTS["overdue"]))
    assert not any("no epoch for" in line for line in drawn(MOMENTS["running"]))


def test_a_machine_that_does_not_answer_leaves_the_last_figures() -> None:
    page = "\n".join(drawn(MOMENTS["away"], width=40, height=21))
    assert "! unreachable for 42 s, the run may well\ngo on" in page
    assert "17 of 30" in page and "0.6706" in page
    assert "at the latest" not in page


def test_a_line_that_was_just_cut_is_not_measured_in_tenths_of_a_second() -> None:
    shown = dataclasses.replace(MOMENTS["away"], silence=0.04)
    assert "! unreachable, the run may well go on" in drawn(shown)


def test_a_narrow_window_shows_hints_to_their_end() -> None:
    page = " ".join("\n".join(drawn(MOMENTS["overfitting"], width=40)).split())
    for hint in hints(MOMENTS["overfitting"].progress):
        assert f"{hint.kind}: {hint.text}" in page


def test_an_unreachable_machine_is_shown_with_the_reason() -> None:
    page = " ".join(" ".join(drawn(MOMENTS["away"], width=40)).split())
    assert "why the machine does not answer" in page


def test_the_five_blocks_of_health_fit_a_small_window() -> None:
    page = "\n".join(drawn(MOMENTS["healthy"], height=21))
    assert re.search(r"^process   pid 812, since .*\d\d:\d\d, in tmux, attempt 1$", page, re.M)
    assert re.search(r"^data      8690 of 8692 files, 2 left out, 7821 train, 869 val by speaker", page, re.M)
    assert re.search(
        r"^gpu       NVIDIA A10G, 97 % used, 18\.3 GB of 24\.1 GB, 64 °C, 182 of 300 W$", page, re.M
    )
    assert re.search(
        r"^machine   ssh://ubuntu@gpu\.example\.org, 42\.0 GB of disk free, 21\.0 GB of memory", page, re.M
    )
    assert "load 3.2 on 8 cores" in page
    assert "lr  0.0003" in page and "gap 0.0000" in page
    assert "accuracy  ● val  ┄ train" in page and "loss  ━ val  ┄ train" in page


def test_without_a_gpu_that_is_said_and_a_broken_one_with_the_reason() -> None:
    none = heard(gpus=())
    assert none.health is not None
    for why, said in (
        ("no nvidia-smi", "gpu       none, trains on the CPU"),
        ("nvidia-smi does not answer within 5 s", "(nvidia-smi does not answer within 5 s)"),
    ):
        status = dataclasses.replace(none, health=dataclasses.replace(none.health, no_gpus=why))
        assert said in "\n".join(drawn(snapshot(events(17), status=status)))


def test_a_gpu_that_does_not_tell_everything_shows_the_rest() -> None:
    bare = heard(gpus=(Gpu("Tesla K80", None, None, None, 41.0),))
    assert "gpu       Tesla K80, 41 °C" in drawn(snapshot(events(17), status=bare))


def test_a_disk_that_runs_full_is_noticed() -> None:
    status = dataclasses.replace(heard(), disk_free=900_000_000)
    assert "only 900 MB of disk free" in "\n".join(drawn(snapshot(events(17), status=status)))


def test_a_stall_is_named_with_what_the_log_does() -> None:
    page = "\n".join(drawn(MOMENTS["stalled"]))
    assert page.startswith("▪ stalled  v9-0611-1420-abc")
    assert "! no epoch for 3 min 20 s, and nothing in its log for 3 min 8 s" in page
    moving = snapshot(events(17), "stalled", after=200.0, status=heard(grew=-180.0))
    assert "! no epoch for 3 min 20 s, but its log still grows" in "\n".join(drawn(moving))


def test_a_process_without_a_byte_is_a_state_of_its_own() -> None:
    shown = snapshot([], "starting", after=30.0, log=(), status=heard())
    assert "no bytes yet, its process runs for 32 s" in " ".join(drawn(shown))


def test_a_machine_whose_clock_is_hours_away_shows_local_times_and_true_ages() -> None:
    """BEGUN is years before the clock of whoever runs this."""
    page = "\n".join(drawn(MOMENTS["healthy"]))
    assert page.split("\n")[0].endswith("0:11:49")
    begun = time.localtime(time.time() - 17 * 41 - 12 - 2)
    near = {time.strftime("%H:%M", time.localtime(time.mktime(begun) + d)) for d in (-60, 0, 60)}
    found = re.search(r"since (?:\S+ )?(\d\d:\d\d), in tmux", page)
    assert found and found[1] in near


def test_the_charts_take_the_room_that_is_left() -> None:
    heights = {}
    for height in (14, 21, 30, 60):
        page = drawn(MOMENTS["healthy"], height=height)
        heights[height] = sum(any("\u2800" <= c <= "\u28ff" for c in line) for line in page)
    assert heights[14] == 0
    assert 3 <= heights[21] < heights[30] <= heights[60] == 12
    assert any(line.startswith("curve") for line in drawn(MOMENTS["healthy"], height=14))
    narrow = drawn(MOMENTS["healthy"], width=40, height=60)
    assert any("accuracy  ● val" in line for line in narrow) and not any(
        " loss  ●" in line for line in narrow
    )


def test_synthetic_data_are_called_so_in_every_window() -> None:
    for width, height in ((80, 24), (40, 24), (40, 8)):
        assert "SYNTHETIC" in "\n".join(drawn(MOMENTS["overfitting"], width=width, height=height))
    assert "SYNTHETIC" not in "\n".join(drawn(MOMENTS["running"]))


def test_synthetic_data_found_by_the_trainer_alone_are_called_so_too() -> None:
    found = [dataclasses.replace(e, synthetic=True) if isinstance(e, Dataset) else e for e in events(1)]
    assert "SYNTHETIC" in "\n".join(drawn(snapshot(found)))


@pytest.mark.parametrize(("ahead", "called"), [(0.16, True), (0.14, False), (-0.5, False)])
def test_overfitting_is_called_by_its_name(ahead: float, called: bool) -> None:
    assert ("overfitting" in "\n".join(drawn(snapshot(events(9, ahead=ahead))))) == called


def test_how_long_nothing_was_better_is_counted() -> None:
    assert any(line.endswith("at epoch 16, 1 epoch ago") for line in drawn(snapshot(events(17))))
    assert any(line.endswith("at epoch 16, just now") for line in drawn(snapshot(events(16))))


def test_an_epoch_without_numbers_is_no_best() -> None:
    epoch = Epoch(t=BEGUN, epoch=1, metrics={"loss": None, "val_accuracy": None}, lr=None, seconds=1.0)
    page = "\n".join(drawn(snapshot([*events(0), epoch])))
    assert "loss      nan" in page and "val_loss      none" in page
    assert "best      none, val_accuracy was never a number" in page


def test_the_older_lines_of_the_log_go_first() -> None:
    log = tuple(f"line {i}" for i in range(50))
    shown = snapshot(events(17), log=log)
    seen = []
    for height in range(40, 10, -1):
        lines = [line for line in drawn(shown, height=height) if "│ line" in line]
        assert lines == [f"│ line {i}" for i in range(50 - len(lines), 50)]
        seen.append(len(lines))
    assert seen == sorted(seen, reverse=True)
    assert (seen[0], seen[-1]) == (4, 0)


def test_of_a_progress_bar_in_the_log_the_last_state_shows() -> None:
    bar = "".join(f"\r{i}/245 [>....]" + "\x08" * 20 for i in range(245)) + "\r245/245 done\r\n"
    assert "│ 245/245 done" in drawn(snapshot(events(1), log=(bar,)))


def test_who_follows_is_told_how_to_leave_and_who_looked_once_what_to_type() -> None:
    leave = "Ctrl-C leaves it running; come back with"
    assert leave in drawn(MOMENTS["running"], followed=True)
    assert leave not in drawn(MOMENTS["running"], followed=False)
    assert leave not in drawn(MOMENTS["finished"], followed=True)
    assert drawn(MOMENTS["finished"])[-1] == "next      ec2emo download v9-0611-1420-abc --best"


@pytest.mark.parametrize("moment", MOMENTS)
def test_colours_can_be_read_in_light_and_in_dark_themes(moment: str) -> None:
    console = Console(file=io.StringIO(), width=80)
    text = status_block(MOMENTS[moment]).fitted(console, 80, None)
    for span in text.spans:
        style, said = str(span.style), text.plain[span.start : span.end]
        assert not re.search(r"white|black|yellow|grey|on ", style)
        assert "dim" not in style or set(said) <= set("─│ ")


number = st.one_of(st.none(), st.floats(), st.integers(-(2**53), 2**53))
instant = st.floats(0, 2e9)
count = st.integers(-5, 2**53)
seconds_ = st.floats() | st.integers(0, 2**53)
happening = st.one_of(
    st.builds(
        Started,
        t=instant,
        attempt=count,
        first_epoch=count,
        epochs=count,
        recipe=anything,
        host=anything,
        gpus=st.lists(anything, max_size=2),
    ),
    st.builds(
        Epoch,
        t=instant,
        epoch=count,
        metrics=st.dictionaries(
            anything | st.sampled_from(["loss", "accuracy", "val_loss", "val_accuracy"]), number, max_size=5
        ),
        lr=number,
        seconds=seconds_,
    ),
    st.builds(Note, t=instant, text=anything, level=anything),
    st.builds(Ended, t=instant, status=st.sampled_from(["finished", "failed"]), reason=anything),
)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(happening, max_size=10),
    st.sampled_from(list(LOOKS)),
    st.none() | anything,
    st.none() | st.floats(),
    st.lists(anything, max_size=4),
    st.integers(1, 120),
    st.integers(1, 30),
)
def test_any_events_can_be_shown_in_any_window(
    happened: list[Any],
    state: Any,
    reason: str | None,
    silence: float | None,
    log: list[str],
    width: int,
    height: int,
) -> None:
    shown = snapshot(happened, state, reason=reason, error=reason, silence=silence, log=tuple(log))
    lines = drawn(shown, width=width, height=height)
    assert all(cell_len(line) <= width and not acting(line) for line in lines)
    assert all(isinstance(line, str) for line in told(iter([shown])))


@pytest.mark.parametrize("height", [5, 24, 60])
def test_no_window_is_too_narrow(height: int) -> None:
    for width in range(1, 40):
        lines = drawn(MOMENTS["running"], width=width, height=height)
        assert all(cell_len(line) <= width for line in lines), width
        assert not any(plots(line) for line in lines) or width >= SLIMMEST


def plots(line: str) -> bool:
    return any("\u2800" < c <= "\u28ff" for c in line)


def test_a_page_with_room_says_what_shows_its_curves() -> None:
    assert "curves    ec2emo tensorboard v9-0611-1420-abc shows them at large" in drawn(
        MOMENTS["finished"], height=60
    )
    assert not any("tensorboard" in line for line in drawn(MOMENTS["started"], height=60))


def test_the_run_of_a_page_is_the_one_asked_for() -> None:
    other = snapshot(events(2), asked=run(id="another", recipe="cnn"))
    page = "\n".join(drawn(other))
    assert page.startswith("● running  another") and "recipe    cnn, " in page
    assert "machine   ssh://ubuntu@gpu.example.org" in page


# Told line by line


def test_a_story_is_told_once_each() -> None:
    every = [shown for shown in story() for _ in range(3)]
    lines = told(iter(every))
    assert len(lines) == len(set(lines)) == len(told(story()))
    said = "\n".join(lines)
    for epoch in range(1, 13):
        assert len(re.findall(rf"^epoch {epoch} of 30 ", said, re.M)) == 1
    assert said.count("contact lost (the machine does not answer); the run may well go on") == 1
    assert said.count("contact is back") == 1
    assert said.count("data: 8690 of 8692 clips used") == 1
    assert said.count("warning: 2 files left out") == 1
    assert said.count("note: epoch 8: the learning rate is now 9e-05") == 1
    assert lines[0] == "v9-0611-1420-abc: waiting for the trainer's first word"
    assert lines[1].startswith("v9-0611-1420-abc: v9_attention on ssh://ubuntu@gpu.example.org (NVIDIA A10G)")
    assert lines[-1].startswith("v9-0611-1420-abc: finished (early stopping); best val_accuracy 0.6")


def test_contact_lost_twice_is_told_twice() -> None:
    there, away = snapshot(events(1)), snapshot(events(1), "unreachable", silence=4.0)
    lines = told(iter([there, away, away, there, away, there]))
    assert [line for line in lines if "contact" in line] == [
        "contact lost; the run may well go on",
        "contact is back",
    ] * 2


def test_only_what_beats_the_best_is_a_new_best() -> None:
    values = [0.3, 0.5, 0.4, 0.5, None, 0.6]
    happened: list[Any] = [*events(0)] + [
        Epoch(t=BEGUN + i, epoch=i, metrics={"val_accuracy": v}, lr=None, seconds=1.0)
        for i, v in enumerate(values, 1)
    ]
    bests = [line for line in told(iter([snapshot(happened)])) if line.startswith("new best")]
    assert bests == [
        f"new best: val_accuracy {v:.4f} at epoch {e}" for v, e in ((0.3, 1), (0.5, 2), (0.6, 6))
    ]


def test_a_later_attempt_is_told_with_the_epochs_it_repeats() -> None:
    first = list(events(3))
    again: list[Any] = [
        Started(t=BEGUN + 900, attempt=2, first_epoch=3, epochs=30, recipe="v9_attention"),
        Epoch(t=BEGUN + 950, epoch=3, metrics={"val_accuracy": 0.4}, lr=1e-4, seconds=41.0),
    ]
    lines = told(iter([snapshot(first), snapshot([*first, *again])]))
    assert sum("attempt 2, epochs 3 to 30" in line for line in lines) == 1
    assert sum(line.startswith("epoch 3 of 30") for line in lines) == 2
    assert sum(line.startswith("epoch 2 of 30") for line in lines) == 1


def test_notes_that_were_pushed_out_by_newer_ones_do_not_bring_old_ones_back() -> None:
    happened: list[Any] = list(events(0))
    shown = []
    for i in range(70):
        happened.append(Note(t=BEGUN + i, text=f"note number {i}."))
        shown.append(snapshot(happened))
    lines = told(iter(shown))
    assert [sum(f"number {i}." in line for line in lines) for i in range(70)] == [1] * 70


def test_a_machine_cannot_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    note = Note(t=BEGUN, text="harmless\nnew best: val_accuracy 0.9999 at epoch 1")
    view.follow([snapshot([*events(0), note])], log_lines=4)
    out = capsys.readouterr().out
    assert "note: harmless new best" in out
    assert not re.search(r"^new best", out, re.M)


def test_following_answers_with_the_last_snapshot(capsys: pytest.CaptureFixture[str]) -> None:
    every = list(story())
    assert view.follow(iter(every), log_lines=4) is every[-1]
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="nothing to follow"):
        view.follow([], log_lines=4)
