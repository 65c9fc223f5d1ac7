import dataclasses
import subprocess
import sys

import pytest

from trainer import recipes
from trainer.schedule import Plan


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_keeps_the_registry_s_promises(name: str) -> None:
    recipe = recipes.load(name)
    params = recipe.Params()
    assert recipes.summary(recipe)
    assert recipe.TAG.isidentifier()
    assert recipe.EPOCHS > 0
    assert recipe.BATCH_SIZE > 0
    assert params.patience > 0
    assert isinstance(recipe.schedule(params, epochs=30), Plan)
    assert all(f.metadata["help"] for f in dataclasses.fields(recipe.Params))
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.patience = 1


def test_tags_are_unique_because_files_are_named_after_them() -> None:
    tags = [recipes.load(name).TAG for name in recipes.names()]
    assert len(tags) == len(set(tags))


def test_the_light_half_needs_neither_keras_nor_numpy() -> None:
    code = (
        "import sys; from trainer import recipes; "
        "[recipes.make_params(recipes.load(n), {}) for n in recipes.names()]; "
        "sys.exit(any(m in sys.modules for m in ('keras', 'numpy', 'tensorflow', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_strings_become_the_fields_types() -> None:
    v9 = recipes.load("v9_attention")
    params = recipes.make_params(v9, {"units": "64", "high_lr": "1e-3", "dropout1": 0, "dense1": 32.0})
    assert (params.units, params.high_lr, params.dropout1, params.dense1) == (64, 1e-3, 0.0, 32)
    assert [type(v) for v in (params.units, params.dropout1, params.dense1)] == [int, float, int]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"untis": 3}, r"no parameter 'untis' \(did you mean units\?\): choose from units, "),
        ({"units": "many"}, "units=many is not a whole number"),
        ({"units": 1.5}, "units=1.5 is not a whole number"),
        ({"units": True}, "units=True is not a whole number"),
        ({"units": "inf"}, "units=inf is not a whole number"),
        ({"units": 0}, "units=0 is out of range"),
        ({"high_lr": "nan"}, "high_lr=nan is not a number"),
        ({"dropout1": "1.0"}, "dropout1=1.0 is out of range"),
        ({"l2": -1}, "l2=-1.0 is out of range"),
    ],
)
def test_what_cannot_be_a_parameter_is_refused_in_a_sentence(override: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        recipes.make_params(recipes.load("v9_attention"), override)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", recipes.names())
def test_no_parameter_of_any_recipe_can_be_nonsense(name: str) -> None:
    recipe = recipes.load(name)
    for field in dataclasses.fields(recipe.Params):
        if isinstance(field.default, bool):
            continue
        nonsense = "nonsense" if isinstance(field.default, str) else -1
        with pytest.raises(ValueError, match=rf"^{field.name}={nonsense}.* is out of range: choose "):
            recipes.make_params(recipe, {field.name: nonsense})


def test_a_choice_names_what_may_be_chosen() -> None:
    with pytest.raises(ValueError, match="choose max_count, balanced or none"):
        recipes.make_params(recipes.load("attn_crnn_v2"), {"class_weights": "most"})


def test_an_unknown_recipe_is_refused_with_the_name_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'v9_atention' \(did you mean v9_attention\?\)"):
        recipes.load("v9_atention")


@pytest.mark.parametrize("name", ["__init__", "os", "../clips", ""])
def test_only_files_of_the_folder_are_recipes(name: str) -> None:
    with pytest.raises(ValueError, match="no recipe"):
        recipes.load(name)
