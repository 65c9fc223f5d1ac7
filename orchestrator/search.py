"""Where features may lie: a few folders by name, looked at only when a person asks, and never chosen for one.

The names are those that features of this kind have been kept under; no folder above or beside them is walked.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator import data, providers, remote, view
from orchestrator.connect import open_shell
from orchestrator.errors import BadRequest
from orchestrator.shell import Shell
from orchestrator.store import Store
from trainer import clips

ROOTS = (".", "~", "~/audio_emotion", "/data")
NAMES = ("features", "wav2vec_features", "features/wav2vec", "models/wav2vec", "embeddings")
FOLDERS = tuple(f"{root}/{name}".removeprefix("./") for root in ROOTS for name in NAMES)


@dataclass(frozen=True)
class Found:
    """A folder with features: what to give to `--data`, what is in it, and whether it can be trained on."""

    named: str
    said: str
    usable: bool


def choose(store: Store, where: str, key: str | None, *, yes: bool) -> str:
    """The folder that a person chose of those there are. Raises BadRequest where nobody can be asked."""
    with view.progress("looking for features", unit="files") as telling:
        found = here(store, telling)
        wish = providers.wish_for(where, key)
        if wish.provider == "attached":
            with open_shell(providers.load(wish.provider).acquire(wish, None)) as shell:
                found += there(shell)
    usable = [one for one in found if one.usable]
    number = 0
    for one in found:
        number += one.usable
        view.say(f"{number if one.usable else '-':>3}  {one.named}: {one.said}")
    if not usable:
        looked = ", ".join(FOLDERS)
        raise BadRequest(f"nothing to train on in {looked}: --data PATH names another folder")
    if yes and len(usable) == 1:
        return usable[0].named
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        why = f"{len(usable)} could be meant" if yes else "there is no terminal to ask in"
        ways = " or ".join(f"--data {shlex.quote(one.named)}" for one in usable)
        raise BadRequest(f"nothing is trained on unasked, and {why}: say {ways}")
    answer = view.ask(f"Which is it to be (1 to {len(usable)})?", "none")
    if not (answer.isdecimal() and 0 < int(answer) <= len(usable)):
        raise BadRequest("none was chosen: nothing is started")
    return usable[int(answer) - 1].named


def here(store: Store, telling: Callable[[int, int], None] | None = None) -> list[Found]:
    """The folders on this machine that hold features, each looked at whole. The same clips count once."""
    found: list[Found] = []
    seen: dict[frozenset[str], str] = {}
    known: set[Path] = set()
    for named in FOLDERS:
        folder = Path(named).expanduser()
        if not folder.is_dir() or folder.resolve() in known:
            continue
        known.add(folder.resolve())
        try:
            report = data.look(folder.resolve(), store, telling)
        except BadRequest as e:
            found.append(Found(named, str(e), usable=False))
            continue
        if not report.files:
            continue
        content = frozenset(c.sha256 for c in report.used)
        if content and content in seen:
            found.append(Found(named, f"the same clips as {seen[content]}", usable=False))
            continue
        seen[content] = named
        found.append(Found(named, _said(report), usable=not report.fatal))
    return found


def there(shell: Shell) -> list[Found]:
    """The folders on the machine that hold feature files: counted, and looked at before anything starts."""
    return [
        Found(f"remote:{path}", f"{count:,} feature files there, not looked into yet", usable=True)
        for path, count in remote.feature_folders(shell, FOLDERS[len(NAMES) :])
    ]


def _said(report: clips.Report) -> str:
    if report.fatal:
        return f"{report.files:,} files, cannot be trained on: {report.fatal[0].text}"
    left_out = f", {len(report.skipped):,} files left out" if report.skipped else ""
    people = f", {len(report.speakers)} speakers" if report.speakers else ""
    return f"{len(report.used):,} clips of {len(report.classes)} emotions{people}{left_out}"
