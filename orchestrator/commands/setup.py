"""`ec2emo setup`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from orchestrator import settings, view
from orchestrator.errors import BadRequest

MAKES = (
    "makes a private bucket for copies of your runs, a role for machines that reaches them and nothing else, "
    "and a role that ends your machines when their time is over; it costs what the copies take"
)


def command(
    region: Annotated[str | None, typer.Option(help="The region; else that of your settings.")] = None,
    print_: Annotated[bool, typer.Option("--print", help="Print the template, and do nothing.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Take all of it away again.")] = False,
    with_runs: Annotated[
        bool, typer.Option("--with-runs", help="With --delete: the copies of your runs, too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Have runs copied to S3, and machines ended from outside.

    Once for a region: one CloudFormation stack in your AWS account makes that possible; --print shows it. All
    else works without.

    Example: ec2emo setup --region eu-central-1
    """
    # Imported here because boto3 costs a quarter of a second, which --help need not pay.
    from orchestrator.providers.ec2 import setup

    if print_:
        view.data(setup.template().rstrip())
        return
    if with_runs and not delete:
        raise BadRequest("--with-runs goes with --delete")
    from orchestrator.providers.ec2 import api

    aws = api.connected(region or settings.read().ec2.region)
    _agreed(f"this {'takes away what it had made' if delete else MAKES}, in {aws.region}", yes=yes)
    with view.progress(f"{setup.STACK} in {aws.region}") as telling:
        if delete:
            was_there = setup.remove(aws, telling.phase, with_runs=with_runs)
            made = None
        else:
            made = setup.install(aws, telling.phase)
    if json:
        view.json_line({"region": aws.region, "store": made.store if made else None})
    elif made:
        view.say(f"machines in {aws.region} will keep copies of their runs in {made.store}", level="good")
    else:
        view.say(f"nothing of it is left in {aws.region}" if was_there else f"there was none in {aws.region}")


def _agreed(what: str, *, yes: bool) -> None:
    """Say it, and ask. Raises BadRequest when the answer is no, or cannot be had."""
    view.say(what)
    if yes:
        return
    if not sys.stdin.isatty():
        raise BadRequest("there is nobody to ask: --yes goes ahead, --print shows what would be made")
    if not view.confirm("Go ahead?"):
        raise BadRequest("nothing was changed")
