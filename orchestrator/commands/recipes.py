"""`ec2emo recipes`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, get_type_hints

import typer

from orchestrator import view
from orchestrator.errors import BadRequest
from trainer import recipes


def command(
    name: Annotated[str | None, typer.Argument(help="One recipe, with all its parameters.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """List what can be trained, or one recipe's parameters.

    Example: ec2emo recipes v9_attention
    """
    if name is None:
        found = [_described(n) for n in recipes.names()]
        if json:
            for row in found:
                view.json_line(row)
        else:
            view.recipes_table([(r["name"], r["tag"], r["summary"]) for r in found])
        return
    one = _described(name)
    if json:
        view.json_line(one)
    else:
        rows = [(p["name"], p["type"], str(p["default"]), p["help"]) for p in one["params"]]
        view.recipe_page(name, recipes.load(name).__doc__ or "", rows)


def _described(name: str) -> dict[str, Any]:
    try:
        module = recipes.load(name)
    except ValueError as e:
        raise BadRequest(str(e)) from e
    hints = get_type_hints(module.Params)
    return {
        "name": name,
        "tag": module.TAG,
        "summary": recipes.summary(module),
        "epochs": module.EPOCHS,
        "batch_size": module.BATCH_SIZE,
        "params": [
            {
                "name": f.name,
                "type": hints[f.name].__name__,
                "default": f.default,
                "help": f.metadata.get("help", ""),
            }
            for f in dataclasses.fields(module.Params)
        ],
    }
