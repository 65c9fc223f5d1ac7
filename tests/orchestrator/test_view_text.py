"""Text made safe for a terminal, and figures as people read them."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from orchestrator import view
from orchestrator.view import figures
from orchestrator.view.text import FALLBACK, LONGEST, clip
from tests.orchestrator.snapshots import EVIL, acting

anything = st.text(st.characters(exclude_categories=()), max_size=200)


# Text


@settings(deadline=None)
@given(anything)
@example(EVIL)
def test_nothing_that_acts_on_a_terminal_survives(text: str) -> None:
    assert acting(view.plain(text)) == set()
    assert "\n" not in view.plain(text)


@settings(deadline=None)
@given(anything)
def test_what_is_plain_stays_as_it_is(text: str) -> None:
    assert view.plain(view.plain(text)) == view.plain(text)


@pytest.mark.parametrize("text", ["naïve", "日本語", "☃ ok", "a  b", "[red]x[/red]", "100 %", "é́"])
def test_text_that_only_prints_is_kept(text: str) -> None:
    assert view.plain(text) == text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a\x1b]52;c;ZXZpbA==\x07b", "ab"),
        ("a\x1b]52;c;ZXZpbA==\x1b\\b", "ab"),
        ("a\x9d52;c;ZXZpbA==\x9cb", "ab"),
        ("a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\b", "alinkb"),
        ("a\x1b]0;never closed", "a"),
        ("a\x1b[38;5;196mb\x1b[0m", "ab"),
        ("a\x1b[2J\x9b1;1Hb", "ab"),
        ("a\x1bPq#0\x1b\\b", "ab"),
        ("a\x1b(0b\x1bcc", "abc"),
        ("a\x1b", "a"),
        ("a\tb\nc\u2028d\x85e", "a b c d e"),
        ("a\u202eb\u200bc\ufe0f", "abc"),
    ],
)
def test_a_sequence_goes_with_all_it_carries(text: str, kept: str) -> None:
    assert view.plain(text) == kept


def test_a_line_of_fifty_megabytes_is_clipped_at_once() -> None:
    begun = time.perf_counter()
    kept = view.plain("x" * 50_000_000)
    assert time.perf_counter() - begun < 1
    assert len(kept) == LONGEST and kept.endswith("x…")


@settings(deadline=None)
@given(anything, st.integers(0, 30))
def test_clipped_text_is_never_wider_than_asked(text: str, width: int) -> None:
    assert cell_len(clip(view.plain(text), width)) <= width


@settings(deadline=None)
@given(anything)
def test_a_stream_that_knows_only_ascii_gets_ascii_of_the_same_length(text: str) -> None:
    kept = view.plain(text)
    encoded = kept.encode("ascii", FALLBACK)
    assert len(encoded) == len(kept)


# Figures


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.0 s"),
        (4.21, "4.2 s"),
        (9.96, "10 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (150, "2 min 30 s"),
        (3599, "59 min"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (187_200, "2 d 4 h"),
        (-5, "0.0 s"),
        (float("nan"), "unknown time"),
        (10**400, "unknown time"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, said: str) -> None:
    assert figures.duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.69214, "0.6921"), (None, "nan"), (float("inf"), "nan"), (123456.0, "1.23e+05"), (5e-6, "5.00e-06")],
)
def test_a_number_has_few_digits_and_is_never_infinite(value: float | None, said: str) -> None:
    assert figures.number(value) == said


def test_a_clock_time_names_the_day_where_it_is_not_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    noon = 1_749_643_200.0  # Wednesday 2025-06-11 12:00 UTC
    hour = 3600.0
    try:
        assert figures.clock(noon + hour, noon) == "13:00"
        assert figures.clock(noon + 15 * hour, noon) == "tomorrow 03:00"
        assert figures.clock(noon + 48 * hour, noon) == "Fri 12:00"
        assert figures.clock(noon + 240 * hour, noon) == "2025-06-21 12:00"
        assert figures.clock(1e300, noon) == "a distant day"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_highest_of_many_epochs_shows_in_few_columns() -> None:
    values: list[float | None] = [0.1] * 500
    values[260] = 0.9
    curve = figures.curve(values, 20)
    assert curve is not None
    assert (curve.blocks.count("█"), len(curve.blocks), curve.low, curve.high) == (1, 20, 0.1, 0.9)


def test_a_curve_leaves_a_gap_where_there_was_no_number() -> None:
    curve = figures.curve([0.0, None, float("nan"), 1.0], 20)
    assert curve is not None and curve.blocks == "▁  █"
    assert figures.curve([None, None], 20) is None


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats()), max_size=99), st.integers(-1, 30))
def test_a_curve_can_be_drawn_of_anything(values: list[float | None], width: int) -> None:
    curve = figures.curve(values, width)
    assert curve is None or len(curve.blocks) == min(width, len(values))
