from pathlib import Path

import numpy as np
import pytest

from trainer import recipes

from .runs import TINY

V9 = recipes.load("v9_attention")


def test_more_padding_changes_nothing() -> None:
    import keras

    random = np.random.default_rng(0)
    params = recipes.make_params(V9, {"units": 16})
    keras.utils.set_random_seed(1)
    model = V9.build((20, 6), 5, params)
    longer = V9.build((70, 6), 5, params)
    longer.set_weights(model.get_weights())
    short = np.zeros((4, 20, 6), np.float32)
    for row, length in zip(short, (20, 13, 5, 1), strict=True):
        row[:length] = random.normal(size=(length, 6))
    padded = np.concatenate([short, np.zeros((4, 50, 6), np.float32)], axis=1)
    first, second = model.predict(short, verbose=0), longer.predict(padded, verbose=0)
    assert abs(first - second).max() < 1e-5
    assert abs(first[0] - first[1]).max() > 1e-4


def test_the_layers_are_those_of_the_recipe() -> None:
    model = V9.build((20, 6), 5, V9.Params())
    kinds = [type(layer).__name__ for layer in model.layers]
    wanted = [
        "Masking",
        "Bidirectional",
        "LayerNormalization",
        "AttentionMean",
        "Dense",
    ]
    assert [k for k in kinds if k in wanted] == [*wanted, "Dense", "Dense"]
    lstm = model.get_layer("bidirectional" if "bidirectional" in {x.name for x in model.layers} else None, 2)
    assert lstm.forward_layer.units == 128
    assert lstm.forward_layer.recurrent_dropout == 0.25
    assert model.output_shape == (None, 5)
    assert model.loss == "sparse_categorical_crossentropy"


@pytest.mark.parametrize("classes", [2, 8])
def test_it_loads_back_with_safe_mode_on_and_says_the_same(tmp_path: Path, classes: int) -> None:
    import keras

    model = V9.build((9, 3), classes, recipes.make_params(V9, TINY))
    x = np.random.default_rng(0).normal(size=(4, 9, 3)).astype(np.float32)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras", safe_mode=True, compile=False)
    assert np.array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))
