"""`ec2emo compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator import view
from orchestrator.errors import BadRequest
from orchestrator.history import differences, known
from orchestrator.progress import METRIC
from orchestrator.store import Store
from trainer import contract

MOST = 9  # a mark in a curve is one digit


def command(
    runs: Annotated[list[str], typer.Argument(help="Two runs or more, or the beginnings of their names.")],
    html: Annotated[Path | None, typer.Option(help="Write a page that needs no network.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Lay runs side by side: scores, curves, what differed.

    As last heard of; asks no machine. The best comes first.

    Example: ec2emo compare v9-1120 crnn-1121 --html compared.html
    """
    store = Store()
    chosen = {run.id: known(store, run) for run in map(store.find, runs)}
    if not 2 <= len(chosen) <= MOST:
        raise BadRequest(f"{len(chosen)} runs were named: compare takes 2 to {MOST}")
    ranked = sorted(chosen.values(), key=lambda k: k.progress.best_value, reverse=True)
    differed = differences([one.run for one in ranked])
    if html is not None:
        try:
            contract.publish(html, view.compared_page(ranked, differed).encode())
        except OSError as e:
            raise BadRequest(f"cannot write {html}: {e.strerror}") from e
    if json:
        rows = [{**one.to_dict(), METRIC: one.progress.course(METRIC)} for one in ranked]
        view.json_line({"runs": rows, "differ": differed})
    else:
        view.compared(ranked, differed)
    if html is not None:
        view.say(f"written: {html}", level="good")
