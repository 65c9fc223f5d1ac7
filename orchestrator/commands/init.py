"""`ec2emo init`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import providers, settings, view
from orchestrator.errors import BadRequest


def command(
    on: Annotated[
        str | None, typer.Option(help="Where this project trains: local or ssh://user@host:port.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="On what: a folder of features, remote:PATH, or demo.")
    ] = None,
    identity: Annotated[Path | None, typer.Option(help="The private key for SSH.")] = None,
) -> None:
    """Set where this project trains and on what (ec2emo.toml).

    Asks in a terminal; takes flags elsewhere. Flags of other commands come before the file.

    Example: ec2emo init --on ssh://ubuntu@gpu.example.org --data features
    """
    here = settings.read()
    if on is None and data is None and identity is None:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise BadRequest("without a terminal to ask in, name them: ec2emo init --on WHERE --data PATH")
        on = view.ask("Where do you train (local, ssh://user@host:port)?", here.on or "local")
        data = view.ask("On what data (a folder of features, remote:PATH, demo)?", here.data or "") or None
    where = on or here.on or "local"
    providers.wish_for(where, None)
    if data and settings.is_folder(data) and not Path(data).expanduser().is_dir():
        raise BadRequest(f"there is no folder {data}: name one of .npz or .npy features")
    path = settings.write(Path.cwd(), on=where, data=data, identity=str(identity) if identity else None)
    view.say(f"wrote {path.name}: 'ec2emo deploy RECIPE' trains on {where}", level="good")
