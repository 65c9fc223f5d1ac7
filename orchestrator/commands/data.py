"""`ec2emo data check`."""

from __future__ import annotations

import json as json_
from enum import StrEnum
from typing import Annotated

import typer

from orchestrator import data, view
from orchestrator.store import Store


class Action(StrEnum):
    """What can be done with data."""

    check = "check"


def command(
    action: Annotated[Action, typer.Argument(help="check: look at every clip.")],
    path: Annotated[str, typer.Argument(help="A folder of .npz or .npy features, or demo.")],
    folds: Annotated[
        int | None, typer.Option(min=2, help="Also what each of K folds would hold out.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="The folds': speaker or clip; speaker where they are known.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The folds'.")] = 42,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Look at a data folder: what is used, and what not and why.

    The exit code is 2 when it cannot be trained on, or not be divided into so many folds.

    Example: ec2emo data check features
    """
    data.refuse_split(split)
    store = Store()
    folder = data.folder_of(path, store)
    with view.progress(f"looking at {folder}", unit="files") as telling:
        report = data.look(folder, store, telling)
    body = json_.loads(report.to_json())
    if folds and not report.fatal:
        body["folds"] = data.folds(report, data.split_of(report, split), folds, seed)
    if json:
        view.json_line(body)
    else:
        view.data_report(body)
    data.refuse_fatal(report)
