"""What people see. Nothing else draws, and nothing a machine sent reaches a terminal but through here.

A module is imported when one of its names is first used: a list needs no live page, and starts sooner.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.view.bars import Report, progress
    from orchestrator.view.comparison import compared
    from orchestrator.view.live import follow, show
    from orchestrator.view.reports import (
        data_report,
        doctor_table,
        evaluation,
        folds,
        plan,
        recipe_page,
        recipes_table,
    )
    from orchestrator.view.status import status_block
    from orchestrator.view.tables import files_table, findings_table, fits_table, machines_table, runs_table
    from orchestrator.view.terminal import ask, bell, confirm, data, error, json_line, say
    from orchestrator.view.text import plain
    from orchestrator.view.webpage import compared_page

__all__ = [
    "Report",
    "ask",
    "bell",
    "compared",
    "compared_page",
    "confirm",
    "data",
    "data_report",
    "doctor_table",
    "error",
    "evaluation",
    "files_table",
    "findings_table",
    "fits_table",
    "folds",
    "follow",
    "json_line",
    "machines_table",
    "plain",
    "plan",
    "progress",
    "recipe_page",
    "recipes_table",
    "runs_table",
    "say",
    "show",
    "status_block",
]

_NAMES = {
    "bars": ("Report", "progress"),
    "comparison": ("compared",),
    "live": ("follow", "show"),
    "reports": ("data_report", "doctor_table", "evaluation", "folds", "plan", "recipe_page", "recipes_table"),
    "status": ("status_block",),
    "tables": ("files_table", "findings_table", "fits_table", "machines_table", "runs_table"),
    "terminal": ("ask", "bell", "confirm", "data", "error", "json_line", "say"),
    "text": ("plain",),
    "webpage": ("compared_page",),
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = value  # asked for once
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
