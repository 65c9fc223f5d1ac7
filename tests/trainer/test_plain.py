"""What our layers are compared with, by `benchmarks`, is the same model."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from benchmarks import plain
from trainer import recipes

from .runs import tiny


@pytest.mark.parametrize("name", ["v9_attention", "attn_crnn_v2", "cnn_lstm_simplified", "wav2vec_fixed"])
def test_plain_keras_answers_and_learns_as_our_layers_do(name: str) -> None:
    import keras
    import tensorflow as tf

    recipe = recipes.load(name)
    params = recipes.make_params(recipe, tiny(name))
    random = np.random.default_rng(0)
    real = np.arange(32) < [[32], [9], [20], [1]]
    x = random.standard_normal((4, 32, 6), dtype=np.float32) * real[..., None]
    found = []
    for ours in (True, False):
        with nullcontext() if ours else plain.layers():
            keras.utils.set_random_seed(1)
            model = recipe.build((None, 6), 3, params)

            @tf.function
            def step(model: Any = model) -> tuple[Any, ...]:
                with tf.GradientTape() as tape:
                    answer = model(x)
                    loss = tf.reduce_sum(answer * np.arange(12).reshape(4, 3))
                return answer, *tape.gradient(loss, model.trainable_variables)

            found.append(step())
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
