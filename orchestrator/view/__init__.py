"""What people see. Nothing else draws, and nothing a machine sent reaches a terminal but through here."""

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
