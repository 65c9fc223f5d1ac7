"""Tables to stdout: as many columns as the window has room for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from rich.cells import cell_len
from rich.text import Text

from orchestrator.view import figures
from orchestrator.view.looks import LOOKS
from orchestrator.view.terminal import paper, put
from orchestrator.view.text import clip, plain, words

if TYPE_CHECKING:
    from orchestrator.progress import State

GAP = 2
Styled = str | tuple[str, str]


@dataclass(frozen=True)
class Column:
    """A column; where a window has no room, that of the highest rank goes first, rank 0 never."""

    key: str
    rank: int = 0
    right: bool = False

    @property
    def title(self) -> str:
        """The key in words."""
        return self.key.removesuffix("_seconds").replace("_usd", "").replace("_", " ")


def runs_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Runs, as `runs --json` prints them."""
    columns = [
        Column("run"),
        Column("state"),
        Column("best", 1, right=True),
        Column("epochs", 3, right=True),
        Column("heard_seconds", 3, right=True),
        Column("age_seconds", 2, right=True),
        Column("recipe", 4),
        Column("machine", 5),
        Column("data", 6),
    ]
    if any(row.get("cost_usd") is not None for row in rows):
        columns.insert(6, Column("cost_usd", 2, right=True))
    described = [_run(row) for row in rows]
    table(columns, ([_cell(c.key, row.get(c.key)) for c in columns] for row in described))


def fits_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """The fits of a log, as `monitor --log-file --json` prints them, where there is more than one."""
    if len(rows) < 2:
        return
    columns = [
        Column("fit", right=True),
        Column("state"),
        Column("best", right=True),
        Column("at_epoch", 1, right=True),
        Column("epochs", 2, right=True),
    ]
    described = (
        {
            "fit": str(number),
            "state": row["status"],
            "best": row["best"]["val_accuracy"] if row["best"] else None,
            "at_epoch": str(row["best"]["epoch"]) if row["best"] else None,
            "epochs": f"{row['last_epoch']} of {row['epochs'] or 'unknown'}",
        }
        for number, row in enumerate(rows, 1)
    )
    table(columns, ([_cell(c.key, row.get(c.key)) for c in columns] for row in described))


def _run(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "best": row["best"]["val_accuracy"] if row["best"] else None,
        "epochs": f"{row['epoch']} of {row['epochs']}",
        "data": f"SYNTHETIC ({row['data']})" if row["synthetic"] else row["data"],
    }


def machines_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Machines, as `machines --json` prints them, without what is known of none."""
    columns = [
        Column("machine"),
        Column("run", 1),
        Column("state"),
        Column("type", 3),
        Column("market", 5),
        Column("zone", 6),
        Column("age_seconds", 3, right=True),
        Column("cost_usd", 1, right=True),
        Column("until", 2),
        Column("running", 1),
        Column("disk_free", 2, right=True),
        Column("last_used_seconds", 3, right=True),
        Column("cost_usd_per_hour", 2, right=True),
        Column("runs", 5, right=True),
        Column("provider", 6),
        Column("why", 4),
    ]
    known = [c for c in columns if any(row.get(c.key) is not None for row in rows)]
    table(known, ([_cell(c.key, row.get(c.key)) for c in known] for row in rows))


def findings_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """What gc found, as `gc --json` prints it."""
    columns = [
        Column("act"),
        Column("kind"),
        Column("id"),
        Column("run", 2),
        Column("why"),
        Column("region", 3),
    ]
    table(columns, ([_cell(c.key, row.get(c.key)) for c in columns] for row in rows))


def files_table(rows: Iterable[tuple[str, str, int, str]]) -> None:
    """Files that came home: role, path, bytes, sha256."""
    columns = [Column("role", 1), Column("file"), Column("size", 2, right=True), Column("sha256", 3)]
    table(columns, ((role, path, figures.size(count), digest[:12]) for role, path, count, digest in rows))


def folds_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Folds, as `evaluate --folds --json` prints them."""
    columns = [
        Column("fold", right=True),
        Column("run", 1),
        Column("epoch", 3, right=True),
        Column("clips", 2, right=True),
        Column("speakers", 4, right=True),
        Column("accuracy", right=True),
        Column("uar", 1, right=True),
        Column("macro_f1", 5, right=True),
    ]
    described = [{**row, "clips": row["n"]} for row in rows]
    table(columns, ([_cell(c.key, row[c.key]) for c in columns] for row in described))


def classes_table(per_class: Mapping[str, Mapping[str, Any]], confusion: Sequence[Sequence[int]]) -> None:
    """Each class with its figures, and what its clips were most often taken for instead."""
    columns = [
        Column("class"),
        Column("clips", 2, right=True),
        Column("recall", right=True),
        Column("precision", 1, right=True),
        Column("f1", 3, right=True),
        Column("auc", 4, right=True),
        Column("taken for", 5),
    ]
    names = list(per_class)
    rows = []
    for i, (name, one) in enumerate(per_class.items()):
        figured = [figures.number(v) if v is not None else "-" for v in map(one.get, _FIGURES)]
        rows.append([name, str(one["support"]), *figured, _taken_for(i, confusion[i], names)])
    table(columns, rows)


_FIGURES = ("recall", "precision", "f1", "auc")


def _taken_for(own: int, row: Sequence[int], names: Sequence[str]) -> str:
    others = [(count, -j) for j, count in enumerate(row) if j != own and count]
    count, j = max(others, default=(0, 0))
    return f"{names[-j]} ({count})" if count else "-"


def _cell(key: str, value: Any) -> Styled:
    if value is None or value == []:
        return "-"
    if key == "state" and value in LOOKS:
        sign, style = LOOKS[cast("State", value)]
        return f"{sign} {value}", style
    if key in ("best", "accuracy", "uar", "macro_f1"):
        return figures.number(value)
    if key.endswith("_seconds"):
        return f"{figures.age(value)} ago"
    if key.startswith("cost_usd"):
        return figures.dollars(value)
    if key == "disk_free":
        return figures.size(value)
    return figures.said(value)


def table(columns: Sequence[Column], rows: Iterable[Sequence[Styled]]) -> None:
    """Columns side by side, as many as fit. Without rows, nothing."""
    target = paper()
    put(target, laid_out(columns, rows, target.width))


def laid_out(columns: Sequence[Column], rows: Iterable[Sequence[Styled]], room: int) -> list[Text]:
    """The lines of a table in so many cells; none without rows."""
    cells = [[_plain(cell) for cell in row] for row in rows]
    if not cells:
        return []
    widths = [
        max(cell_len(column.title), *(cell_len(row[i][0]) for row in cells))
        for i, column in enumerate(columns)
    ]
    shown = _shown(columns, widths, room)
    # What still does not fit is taken from the widest.
    while sum(widths[i] + GAP for i in shown) - GAP > room and max(widths[i] for i in shown) > 4:
        widest = max(shown, key=lambda i: widths[i])
        widths[widest] -= 1
    heads = [(column.title, "bold") for column in columns]
    rights = [column.right for column in columns]
    return [_line([(row[i], widths[i], rights[i]) for i in shown]) for row in (heads, *cells)]


def _shown(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    shown = list(range(len(columns)))
    while sum(widths[i] + GAP for i in shown) - GAP > room:
        last = max(shown, key=lambda i: columns[i].rank)
        if columns[last].rank == 0:
            break
        shown.remove(last)
    return shown


def _line(cells: Sequence[tuple[tuple[str, str], int, bool]]) -> Text:
    parts: list[Styled] = [""]
    for i, ((string, style), width, right) in enumerate(cells):
        short = clip(string, width)
        padding = " " * (width - cell_len(short))
        before, after = (padding, "") if right else ("", padding)
        pieces: list[Styled] = [" " * GAP * bool(i) + before, (short, style) if style else short, after]
        for piece in pieces:
            # One string for all that looks alike: of a thousand lines each piece would cost its microseconds.
            if isinstance(piece, str) and isinstance(parts[-1], str):
                parts[-1] += piece
            else:
                parts.append(piece)
    line = words(*parts)
    line.rstrip()
    return line


def _plain(cell: Styled) -> tuple[str, str]:
    string, style = (cell, "") if isinstance(cell, str) else cell
    return plain(string), style
