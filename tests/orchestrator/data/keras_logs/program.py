"""A tiny Keras program with a wish for each thing a log may hold: python program.py SCENARIO TRUTH.

It runs in environments that know nothing of this project. What really happens is written to the file TRUTH
by callbacks, line by line, so that it also survives a kill.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
scenario, truth = sys.argv[1], sys.argv[2]

import numpy as np  # noqa: E402

if scenario == "crash-before":
    np.load("features_that_are_not_there.npy")
if scenario.startswith("graph"):
    import tensorflow as tf

    tf.compat.v1.disable_eager_execution()
    keras = tf.keras
elif os.environ.get("OLD_KERAS"):
    import tensorflow as tf

    keras = tf.keras
else:
    import keras

CLIPS, FRAMES, CLASSES, BATCH = 64, 6, 3, 8
random = np.random.default_rng(7)
features = random.normal(size=(CLIPS, FRAMES)).astype("float32")
labels = random.integers(0, CLASSES, CLIPS)
seen = random.normal(size=(24, FRAMES)).astype("float32"), random.integers(0, CLASSES, 24)


def told(**what: object) -> None:
    """One line of truth, on the disk before anything else happens."""
    with Path(truth).open("a") as f:
        f.write(json.dumps(what, default=float) + "\n")
        f.flush()
        os.fsync(f.fileno())


class Witness(keras.callbacks.Callback):
    """Writes down what Keras says to its callbacks, not to the terminal."""

    def on_train_begin(self, logs=None):
        told(fit=self.params["epochs"])

    def on_epoch_begin(self, epoch, logs=None):
        told(begin=epoch + 1)

    def on_epoch_end(self, epoch, logs=None):
        told(end=epoch + 1, metrics=dict(logs or {}))


class At(keras.callbacks.Callback):
    """Does something in the middle of an epoch."""

    def __init__(self, epoch, what):
        super().__init__()
        self.wanted, self.what, self.epoch = epoch, what, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == self.wanted and batch == 4:
            self.what()


class Examines(keras.callbacks.Callback):
    """Evaluates and predicts between the last batch and the last word on the epoch."""

    def __init__(self, verbose=1):
        super().__init__()
        self.verbose = verbose

    def on_epoch_end(self, epoch, logs=None):
        self.model.evaluate(features[:40], labels[:40], batch_size=BATCH, verbose=self.verbose)
        self.model.predict(features, batch_size=BATCH, verbose=self.verbose)


def build(rate=0.05):
    inputs = keras.Input((FRAMES,))
    outputs = keras.layers.Dense(CLASSES, activation="softmax")(inputs)
    model = keras.Model(inputs, outputs)
    optimizers = keras.optimizers.legacy if scenario.startswith("graph") else keras.optimizers
    model.compile(optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fit(model, epochs=4, verbose=1, callbacks=(), validation=seen, **more):
    return model.fit(
        features,
        labels,
        batch_size=BATCH,
        epochs=epochs,
        verbose=verbose,
        validation_data=validation,
        callbacks=[*callbacks, Witness()],
        shuffle=False,
        **more,
    )


def fails():
    raise ValueError("clip 17 has no frames")


def batches():
    for i in range(0, CLIPS, BATCH):
        yield features[i : i + BATCH], labels[i : i + BATCH]


def for_ever():
    while True:
        yield from batches()


def two_heads():
    inputs = keras.Input((FRAMES,))
    emotion = keras.layers.Dense(CLASSES, activation="softmax", name="emotion")(inputs)
    speaker = keras.layers.Dense(2, activation="softmax", name="speaker")(inputs)
    model = keras.Model(inputs, [emotion, speaker])
    losses = {"emotion": "sparse_categorical_crossentropy", "speaker": "sparse_categorical_crossentropy"}
    model.compile("sgd", losses, metrics={"emotion": ["accuracy"], "speaker": ["accuracy"]})
    both = {"emotion": labels, "speaker": labels % 2}
    model.fit(features, both, batch_size=BATCH, epochs=3, validation_split=0.25, callbacks=[Witness()])


def with_callbacks():
    calls = keras.callbacks
    fit(
        build(0.4),
        epochs=12,
        callbacks=[
            calls.ModelCheckpoint("best.keras", monitor="val_accuracy", save_best_only=True, verbose=1),
            calls.ReduceLROnPlateau(monitor="val_loss", patience=1, factor=0.5, verbose=1),
            calls.EarlyStopping("val_accuracy", patience=3, restore_best_weights=True, verbose=1),
        ],
    )


match scenario:
    case "verbose-1" | "graph-verbose-1":
        fit(build())
    case "verbose-2" | "graph-verbose-2":
        fit(build(), verbose=2)
    case "callbacks":
        with_callbacks()
    case "scheduler":
        fit(build(), callbacks=[keras.callbacks.LearningRateScheduler(lambda e, r: 0.1 / (e + 1), verbose=1)])
    case "crash":
        fit(build(), callbacks=[At(3, fails)])
    case "crash-after":
        fit(build(), epochs=2)
        fails()
    case "killed":
        fit(build(), callbacks=[At(3, lambda: os.kill(os.getpid(), signal.SIGKILL))])
    case "interrupted":
        fit(build(), callbacks=[At(2, lambda: os.kill(os.getpid(), signal.SIGINT))])
    case "nan":
        model = build()
        spoil = At(2, lambda: model.set_weights([w * float("nan") for w in model.get_weights()]))
        fit(model, callbacks=[spoil, keras.callbacks.TerminateOnNaN()])
    case "two-heads":
        two_heads()
    case "folds":
        for fold in range(3):
            print(f"Fold {fold + 1} of 3")
            model = build()
            fit(model, epochs=2 + fold)
            print("Test:", model.evaluate(*seen, batch_size=BATCH))
    case "no-validation":
        model = build()
        fit(model, epochs=3, validation=None)
        model.evaluate(features, labels, batch_size=BATCH)
    case "examines":
        fit(build(), epochs=3, callbacks=[Examines()])
    case "examines-quietly":
        fit(build(), epochs=3, verbose=2, validation=None, callbacks=[Examines(verbose=2)])
    case "examines-beside":
        fit(build(), epochs=3, validation=None, callbacks=[Examines(verbose=2)])
    case "evaluates":
        for verbose in (1, 1, 2, 2):
            build().evaluate(*seen, batch_size=BATCH, verbose=verbose)
    case "goes-on":
        model = build()
        model.evaluate(*seen, batch_size=BATCH)
        fit(model, epochs=5, validation=None, initial_epoch=3)
        model.evaluate(*seen, batch_size=BATCH)
    case "every-other":
        fit(build(), validation_freq=2)
    case "steps-unknown":
        import tensorflow as tf

        signature = (tf.TensorSpec((None, FRAMES), "float32"), tf.TensorSpec((None,), "int64"))
        data = tf.data.Dataset.from_generator(batches, output_signature=signature)
        build().fit(data, epochs=3, validation_data=data, callbacks=[Witness()])
    case "graph-generator":
        # Generators for both in graph mode are trained on by the loop of TensorFlow 1.15.
        build().fit(
            for_ever(),
            steps_per_epoch=8,
            epochs=3,
            validation_data=for_ever(),
            validation_steps=3,
            callbacks=[Witness()],
        )
    case _:
        sys.exit(f"no scenario {scenario}")
