"""The recipes: one file, one model. The folder's listing is the registry.

A recipe is a module with

* a docstring, whose first line says what it is;
* `TAG`, short and without spaces: what files at home are called (`best_model_TAG.keras`);
* `EPOCHS` and `BATCH_SIZE`, the defaults of what `Spec` states for each run (module constants, because they
  are the run's own fields and not parameters of the model);
* `Params`, a frozen dataclass. Every field has a default and `metadata={"help": …}`; `patience` is how many
  epochs without a better val_accuracy end the run;
* `schedule(params, *, epochs)`, the learning rate as a `trainer.schedule.Plan`;
* `build(shape, classes, params)`, a compiled model from (frames, dim) to `classes` probabilities, with 0.0 as
  padding. Where `prepare` asks for trimmed batches, frames is None: any number. It imports keras itself, so
  that all else here loads in milliseconds where keras is not installed;
* where the defaults of `trainer.data.preparation.Preparation` are not what it wants, `prepare(params)`, which
  returns one: length, validation share, class weights, targets, augmentation, how batches are made.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast, get_type_hints

from trainer.data.preparation import Preparation
from trainer.schedule import Plan

_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


class Recipe(Protocol):
    """What `load` returns: a module of this shape."""

    __doc__: str | None
    __name__: str
    TAG: str
    EPOCHS: int
    BATCH_SIZE: int
    Params: type[Any]

    def build(self, shape: tuple[int | None, int], classes: int, params: Any) -> Any:
        """A compiled keras model."""

    def schedule(self, params: Any, *, epochs: int) -> Plan:
        """The learning rate of every epoch."""


def names() -> list[str]:
    """The recipes there are, sorted; files whose name starts with an underscore are none."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))


def load(name: str) -> Recipe:
    """The recipe's module. Raises ValueError naming those there are."""
    if name not in names():
        raise ValueError(
            f"there is no recipe {name!r}{_meant(name, names())}: choose from {', '.join(names())}"
        )
    return cast(Recipe, importlib.import_module(f"{__name__}.{name}"))


def summary(module: Recipe) -> str:
    """The first line of its docstring."""
    return (module.__doc__ or "").strip().split("\n", 1)[0]


def make_params(module: Recipe, overrides: Mapping[str, str | float | bool]) -> Any:
    """The module's `Params` with overrides, converted to each field's type.

    Raises ValueError: a sentence naming the parameter and what it may be.
    """
    hints = get_type_hints(module.Params)
    known = [f.name for f in dataclasses.fields(module.Params)]
    recipe = module.__name__.rsplit(".", 1)[-1]
    for name in overrides:
        if name not in known:
            raise ValueError(
                f"{recipe} has no parameter {name!r}{_meant(name, known)}: choose from {', '.join(known)}"
            )
    return module.Params(**{name: _convert(name, value, hints[name]) for name, value in overrides.items()})


def preparation(module: Recipe, params: Any) -> Preparation:
    """What the recipe wants done with clips before its model sees them."""
    prepare = getattr(module, "prepare", None)
    return prepare(params) if prepare else Preparation()


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _convert(name: str, value: str | float | bool, kind: type[Any]) -> Any:
    try:
        return {bool: _bool, int: _int, float: _float, str: str}[kind](value)  # type: ignore[operator]
    except (ValueError, OverflowError):
        said = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise ValueError(f"{name}={value} is not {said}") from None


def _bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() not in _WORDS:
        raise ValueError
    return _WORDS[str(value).lower()]


def _int(value: str | float | bool) -> int:
    if isinstance(value, bool) or float(value) != int(float(value)):
        raise ValueError
    return int(float(value))


def _float(value: str | float | bool) -> float:
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)
