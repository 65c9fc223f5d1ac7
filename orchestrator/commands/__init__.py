"""One file, one command: `NAME.py` with a function `command`, whose docstring is its help.

This folder's listing is the registry. Names and summaries are read without importing anything, so that
`ec2emo --help` costs no more than reading a few files.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType


def names() -> list[str]:
    """All commands."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))


def load(name: str) -> ModuleType:
    """One command's module."""
    return importlib.import_module(f"{__name__}.{name}")


def summary(name: str) -> str:
    """The first line of the command's help."""
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_bytes())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "command":
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""
