"""The Typer app, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from orchestrator import commands
from orchestrator.errors import Defect, Ec2emoError

HELP = """Train speech-emotion models on a machine you rent: deploy, follow, download, resume.

Exit codes: 0 done, 1 the run failed, 2 bad request, 3 quota, 4 no capacity, 5 credentials or permission,
6 contact lost, 7 interrupted, 8 artifacts incomplete, 9 a cap on cost or time, 10 price too low,
11 throttled, 70 a fault of ec2emo, 130 Ctrl-C."""


def _unless_plain(checked: Callable[..., Any]) -> Callable[..., Any]:
    """Typer's check of an argument, but for what was not given or has its type: it begins with importing
    pydantic, which takes longer than most commands. Text that is not ASCII is left to it.
    """

    def process_value(param: Any, ctx: Any, value: Any) -> Any:
        absent = value is None and not param.required
        typed = type(value) is param.type_descriptor.annotation and str(value).isascii()
        return value if absent or (typed and param.callback is None) else checked(param, ctx, value)

    return process_value


for _kind in (TyperArgument, TyperOption):
    _kind.process_value = _unless_plain(_kind.process_value)  # type: ignore[method-assign]


class Commands(TyperGroup):
    """The commands of the folder; each is imported when it is called, and only then."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The order people meet them in, then the rest."""
        first = ["init", "deploy", "monitor", "download", "evaluate", "resume", "stop", "runs"]
        return first + [n for n in commands.names() if n not in first]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The name and its summary: all that the list of commands needs."""
        if cmd_name not in commands.names():
            return None
        return TyperCommand(name=cmd_name, help=commands.summary(cmd_name))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command itself."""
        name, stub, rest = super().resolve_command(ctx, args)
        return name, stub and real(stub.name), rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what goes wrong becomes one sentence and an exit code."""
        try:
            return super().invoke(ctx)
        except Ec2emoError as e:
            _say(str(e))
            raise SystemExit(e.exit_code) from e
        except KeyboardInterrupt as e:
            _say("interrupted; what runs on a machine goes on: 'ec2emo runs' shows it")
            raise SystemExit(130) from e
        except BrokenPipeError as e:
            # Who read our output has left; point stdout elsewhere, so that Python's farewell flush is quiet.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from e
        except (typer.TyperException, typer.Exit, typer.Abort):
            raise
        except Exception as e:
            defect = Defect(f"a fault of ec2emo's own ({type(e).__name__}); the traceback is in {_keep(e)}")
            _say(str(defect))
            raise SystemExit(defect.exit_code) from e


def real(name: str | None) -> Any:
    """One command, imported."""
    assert name is not None
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name=name)(commands.load(name).command)
    return typer.main.get_command(app)


def app() -> Commands:
    """The whole command line."""
    return Commands(name="ec2emo", help=HELP, no_args_is_help=True, rich_markup_mode=None)


def main() -> None:
    """The `ec2emo` program."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is signal.SIG_DFL:  # under nohup it is ignored, and stays so
            signal.signal(ending, _leave)
    app()(prog_name="ec2emo")


def _leave(number: int, _: object) -> NoReturn:
    """As Ctrl-C: what is open is closed, and a terminal gets its cursor back."""
    raise SystemExit(128 + number)


def _say(sentence: str) -> None:
    # Imported here: rich is not needed until something is shown, and help must start in a blink.
    from orchestrator import view

    view.error(sentence)


def _keep(error: BaseException) -> str:
    from orchestrator import store

    try:
        folder = store.home() / "errors"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        path.write_text("".join(traceback.format_exception(error)))
    except OSError:
        return "no file, for the home folder cannot be written"
    return str(path)
