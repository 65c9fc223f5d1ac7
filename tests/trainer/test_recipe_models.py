"""What holds for the model of every recipe, and what makes each the recipe that it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trainer import recipes
from trainer.data.preparation import Preparation
from trainer.schedule import Schedule

from .runs import tiny

DIM = 6


def model_of(name: str, frames: int = 20, **more: Any) -> Any:
    recipe = recipes.load(name)
    return recipe.build((frames, DIM), 5, recipes.make_params(recipe, more))


@pytest.mark.parametrize(
    ("name", "params"), [*((n, {}) for n in recipes.names()), ("conv_committee", {"features": "spectrum"})]
)
def test_more_padding_changes_nothing(name: str, params: dict[str, Any]) -> None:
    import keras

    random = np.random.default_rng(0)
    lengths = (21, 14, 13, 5, 2, 1)
    keras.utils.set_random_seed(1)
    small = {**dict.fromkeys(tiny(name), 16), **params}
    model = model_of(name, 21, **small)
    # Running means as training leaves them: not those that hide what padding becomes.
    for w in model.weights:
        if "moving_mean" in w.path or w.path.endswith(("bias", "beta")):
            w.assign(random.normal(size=w.shape))
    short = np.zeros((len(lengths), 21, DIM), np.float32)
    for row, length in zip(short, lengths, strict=True):
        row[:length] = random.normal(size=(length, DIM))
    # Called and not predicted: that traces a graph for each length, which is most of the time.
    first = np.asarray(model(short, training=False))
    for more in (1, 50):
        longer = model_of(name, 21 + more, **small)
        longer.set_weights(model.get_weights())
        padded = np.concatenate([short, np.zeros((len(lengths), more, DIM), np.float32)], axis=1)
        assert abs(first - np.asarray(longer(padded, training=False))).max() < 1e-5
    assert np.ptp(first, axis=0).max() > 1e-3


@pytest.mark.parametrize("name", recipes.names())
def test_probabilities_come_out(name: str) -> None:
    x = np.random.default_rng(0).normal(size=(3, 20, DIM)).astype(np.float32)
    found = np.asarray(model_of(name, **tiny(name))(x, training=False))
    assert found.shape == (3, 5)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def layers_of(model: Any) -> list[str]:
    left_out = ("InputLayer", "Dropout", "NotEqual", "Any")
    return [type(x).__name__ for x in model.layers if type(x).__name__ not in left_out]


def test_v9_fix_projects_and_keeps_the_mask() -> None:
    model = model_of("v9_attention_fix")
    assert "SelfAttention" in layers_of(model)
    attention = next(x for x in model.layers if type(x).__name__ == "SelfAttention")
    assert (attention.dim, attention.scaled) == (256, True)
    recipe = recipes.load("v9_attention_fix")
    asked = recipes.preparation(recipe, recipe.Params())
    assert asked == Preparation(validation=0.2, adaptive=True, class_weights="none", trim=True)


def test_attn_crnn_v2_is_as_its_table() -> None:
    model = model_of("attn_crnn_v2")
    assert layers_of(model) == [
        "Masking",
        *["MaskedConv1D", "MaskedMaxPool1D"] * 2,
        "Bidirectional",
        "Attention",
        "Add",
        "LayerNormalization",
        "GlobalAveragePooling1D",
        "Dense",
        "BatchNormalization",
        "Activation",
        "Dense",
    ]
    convolutions = [x for x in model.layers if type(x).__name__ == "MaskedConv1D"]
    assert [(c.filters, c.kernel_size) for c in convolutions] == [(128, (5,)), (256, (5,))]
    optimizer = model.optimizer
    assert (float(optimizer.learning_rate), optimizer.beta_2) == (pytest.approx(1e-3), 0.98)
    recipe = recipes.load("attn_crnn_v2")
    assert (recipe.EPOCHS, recipe.BATCH_SIZE, recipe.Params().patience) == (30, 32, 6)
    plan = recipe.schedule(recipe.Params(), epochs=30)
    assert (plan.high, plan.low, plan.warmup, plan.patience, plan.factor) == (1e-3, 3e-5, 1, 2, 0.5)


@pytest.mark.parametrize(
    ("params", "noise", "mixup"),
    [({}, 0.005, 0.2), ({"mixup": 0}, 0.005, 0), ({"augment": "false"}, 0, 0), ({"noise": 0}, 0, 0.2)],
)
def test_augmentation_can_be_turned_off_whole_or_in_part(
    params: dict[str, Any], noise: float, mixup: float
) -> None:
    recipe = recipes.load("attn_crnn_v2")
    asked = recipes.preparation(recipe, recipes.make_params(recipe, params))
    assert (asked.noise, asked.mixup) == (noise, mixup)


def test_cnn_lstm_takes_twenty_steps_or_what_is_set() -> None:
    recipe = recipes.load("cnn_lstm_simplified")
    for params, frames in (({}, 20), ({"steps": 50}, 50)):
        asked = recipes.preparation(recipe, recipes.make_params(recipe, params))
        assert (asked.frames, asked.class_weights) == (frames, "balanced")
    assert layers_of(model_of("cnn_lstm_simplified"))[:3] == [
        "Masking",
        "NormalizedBidirectional",
        "GlobalAveragePooling1D",
    ]


def test_wav2vec_is_trained_by_clipped_nesterov_sgd_on_smoothed_labels() -> None:
    model = model_of("wav2vec_fixed")
    optimizer = model.optimizer
    assert type(optimizer).__name__ == "SGD"
    assert (optimizer.momentum, optimizer.nesterov, optimizer.clipnorm) == (0.9, True, 1.0)
    assert model.loss.get_config()["label_smoothing"] == 0.1
    concatenated = next(x for x in model.layers if type(x).__name__ == "Concatenate")
    assert concatenated.output.shape[-1] == 256 + 64
    recipe = recipes.load("wav2vec_fixed")
    plan = recipe.schedule(recipe.Params(), epochs=100)
    assert (plan.low, plan.high, plan.warmup, plan.floor) == (pytest.approx(1e-4), 1e-3, 10, 1e-6)


def test_wav2vec_is_never_surer_than_its_logits_allow() -> None:
    model = model_of("wav2vec_fixed", **tiny("wav2vec_fixed"), largest_logit=1)
    for w in model.weights:
        w.assign(w * 100)
    x = np.random.default_rng(0).normal(size=(3, 20, DIM)).astype(np.float32)
    found = np.asarray(model(x, training=False))
    assert (found.max(axis=1) / found.min(axis=1)).max() <= np.exp(2) * 1.001


def test_v8_reaches_its_rate_in_epoch_five_and_has_nothing_against_overfitting_but_dropout() -> None:
    recipe = recipes.load("final_working_fix")
    plan = recipe.schedule(recipe.Params(), epochs=100)
    assert (plan.low, plan.high, plan.warmup, plan.patience) == (1e-6, 1e-3, 5, 7)
    assert not model_of("final_working_fix").losses


@pytest.mark.parametrize(
    ("dim", "features", "spectrum"),
    [
        (128, "auto", True),
        (80, "auto", True),
        (96, "auto", False),
        (768, "auto", False),
        (128, "embedding", False),
        (96, "spectrum", True),
    ],
)
def test_what_features_are_is_told_by_their_number_unless_it_is_said(
    dim: int, features: str, spectrum: bool
) -> None:
    recipe = recipes.load("conv_committee")
    for members in (1, 2):
        asked = {**tiny("conv_committee"), "features": features, "members": members}
        model = recipe.build((20, dim), 5, recipes.make_params(recipe, asked))
        made = layers_of(model)
        assert ("SpectrumBlock" in made) == spectrum
        assert made.count("MaskedMeanPool1D") == members - spectrum
        assert len(model.get_layer("emotion").input) == members + 1


def test_a_spectrum_is_warped_and_has_noise_and_mixup_of_its_own() -> None:
    recipe = recipes.load("conv_committee")
    asked = recipes.preparation(recipe, recipe.Params(warp=0.1, noise=0.3, spectrum_noise=0.05))
    found = [(w.warp, w.noise, w.mixup) for w in (asked.of(128), asked.of(96))]
    assert found == [(0.1, 0.05, 0.0), (0.0, 0.3, 0.2)]
    assert Preparation(noise=0.3).of(128).noise == 0.3


def test_a_committee_s_rate_rises_once_and_falls_in_one_cosine_to_the_end() -> None:
    recipe = recipes.load("conv_committee")
    for epochs in (4, 30, 200):
        plan = Schedule(recipe.schedule(recipe.Params(), epochs=epochs))
        rates = []
        for epoch in range(1, epochs + 1):
            rates.append(plan.rate(epoch))
            plan.observe(epoch, 1.0)
        top = rates.index(max(rates))
        assert max(rates) == pytest.approx(recipe.Params().lr)
        assert rates[: top + 1] == sorted(rates[: top + 1])
        assert rates[top:] == sorted(rates[top:], reverse=True)
        assert rates[-1] == pytest.approx(max(rates) / 100)


def test_a_mix_without_rows_of_shares_is_refused() -> None:
    with pytest.raises(ValueError, match="mixup needs one_hot"):
        Preparation(mixup=0.2)
    with pytest.raises(ValueError, match="choose from max_count"):
        Preparation(class_weights="most")
