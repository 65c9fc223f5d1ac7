"""Curves in braille, dot by dot."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from orchestrator.view.chart import LABEL, Chart, Line, beside


def plot(*lines: Line, width: int = LABEL + 4, rows: int = 2) -> list[str]:
    """The rows under the title."""
    return [text.plain for text in Chart("x", lines).drawn(width, rows)[1:]]


def test_a_line_goes_from_the_lowest_on_the_left_to_the_highest_on_the_right() -> None:
    assert plot(Line("a", [0.0, 1.0], "cyan")) == ["1.0000 ⠀⠀⡠⠊", "0.0000 ⡠⠊⠀⠀"]


def test_a_flat_line_lies_in_the_middle_and_one_value_is_one_dot() -> None:
    assert plot(Line("a", [0.5] * 9, "cyan"))[1] == "0.5000 ⠉⠉⠉⠉"
    assert plot(Line("a", [0.5], "cyan"))[1] == "0.5000 ⠁⠀⠀⠀"


def test_where_there_is_no_number_there_is_a_gap() -> None:
    values = [0.0, None, None, None, None, None, math.nan, 1.0]
    assert plot(Line("a", values, "cyan")) == ["1.0000 ⠀⠀⠀⠈", "0.0000 ⡀⠀⠀⠀"]
    assert plot(Line("a", [None, None], "cyan")) == ["       ⠀⠀⠀⠀"] * 2


def test_a_mark_lies_on_top_of_all_lines() -> None:
    under = Line("b", [1.0, 1.0], "magenta")
    assert plot(Line("a", [0.0, 1.0], "cyan", mark=(1, "●")), under)[0].endswith("●")


def test_a_dotted_line_has_fewer_dots_than_the_same_one_drawn() -> None:
    def dots(dotted: bool) -> int:
        rows = plot(Line("a", [0.0, 1.0, 0.2], "cyan", dotted=dotted), width=40, rows=6)
        return sum((ord(c) - 0x2800).bit_count() for row in rows for c in row[LABEL:])

    assert dots(True) < dots(False)


def test_two_charts_stand_beside_each_other() -> None:
    one = Chart("x", (Line("a", [0.0, 1.0], "cyan"),)).drawn(20, 2)
    lines = [text.plain for text in beside(one, one, 2)]
    assert all(cell_len(line) == 42 for line in lines)
    assert lines[1] == f"{one[1].plain}  {one[1].plain}"


@settings(deadline=None)
@given(
    st.lists(st.none() | st.floats(), max_size=50),
    st.integers(LABEL + 1, 80),
    st.integers(1, 10),
)
@pytest.mark.filterwarnings("error")
def test_any_values_can_be_drawn_in_any_size(values: list[float | None], width: int, rows: int) -> None:
    drawn = Chart("title", (Line("val", values, "cyan"),)).drawn(width, rows)
    assert len(drawn) == rows + 1
    assert all(cell_len(text.plain) == width for text in drawn)
