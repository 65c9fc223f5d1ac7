"""Keeps libraries from taking along what they only might need: a run shows life sooner."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# What keras and tensorflow import for things that training has no use for; here it is drawn after training.
NOT_YET = ("matplotlib", "scipy", "sklearn")


@contextmanager
def without(*names: str) -> Iterator[None]:
    """In the block these modules are as if they were not installed, unless they are imported already.

    None in `sys.modules` makes an import an ImportError: https://docs.python.org/3/reference/import.html
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
