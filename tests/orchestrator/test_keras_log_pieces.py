"""However a log is cut into pieces, and whatever bytes it holds: the same events, and never a crash."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.keras_log import Reader
from tests.orchestrator import keras_words as words
from trainer.contract import AnyEvent

FULL = settings(max_examples=60, deadline=None)


def read(*pieces: bytes) -> list[AnyEvent]:
    reader = Reader()
    return [*(event for piece in pieces for event in reader.feed(piece)), *reader.close()]


def cut(data: bytes, places: list[int]) -> Iterator[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    for a, b in itertools.pairwise(edges):
        yield data[a:b]


# Near to what Keras prints, so that every way through the grammar is met, in orders that Keras knows not.
fragments = st.sampled_from(
    [
        "Epoch 1/3\n",
        "Epoch 2/3\n",
        "Epoch 3/3",
        "    Epoch 2/3\n",
        words.update(5, 20),
        words.update(19, 20),
        words.update(20, 20),
        words.update(7, 20, backspaces=False) + "\n",
        words.update(7, 20, backspaces=False) + "Epoch 2/3\n",
        words.last(20, 0.5),
        words.last(20, 0.25, validation=False),
        words.last(20, 0.75)[:60] + "\n",
        words.last(20, 0.75)[60:],
        words.keras_3(4, 20, "2s", 0.5),
        words.keras_3(20, 20, "0s", 0.5),
        words.keras_3(20, 20, "3s", 0.5, validation=True),
        words.keras_3(4, 20, "2s", 0.5).replace("\x1b", ""),
        "     12/Unknown - 1s 20ms/step - loss: 0.5000 - accuracy: 0.2500\r",
        "20/20 - 1s - loss: 0.5000 - accuracy: 0.5000 - val_loss: 0.4000 - val_accuracy: 0.6000\n",
        " - 22s - loss: 0.5000 - acc: 0.5000\n",
        "4/4 [==============================] - 0s 2ms/step\n",
        "Epoch 00002: val_accuracy improved from 0.1 to 0.2, saving model to best.h5\n",
        "\nEpoch 2: ReduceLROnPlateau reducing learning rate to 0.001.\n",
        "Epoch 00003: early stopping\n",
        "Batch 3: Invalid loss, terminating training\n",
        "Train on 20 samples, validate on 5 samples\n",
        'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n',
        "ValueError: no frames\n",
        "Killed\n",
        "#015#010#010",
        "#01",
        "----------\n",
        "words\n",
        "\n",
        "\r",
        "\b\b\b",
        "\0\0",
        "\x1b[1m",
        " - val_accuracy: 0.9000\n",
        "━" * 20,
    ]
)
logs = st.lists(fragments, max_size=30).map(lambda parts: "".join(parts).encode())
places = st.lists(st.integers(min_value=0), max_size=12)


@FULL
@given(logs, places)
def test_the_pieces_of_a_log_never_show(log: bytes, places: list[int]) -> None:
    assert read(*cut(log, places)) == read(log)


@FULL
@given(logs)
def test_one_byte_at_a_time_says_the_same(log: bytes) -> None:
    assert read(*(log[i : i + 1] for i in range(len(log)))) == read(log)


@FULL
@given(st.binary(max_size=400) | st.text(max_size=200).map(lambda t: t.encode("utf-16")), logs, places)
def test_no_bytes_are_too_much_for_it(junk: bytes, log: bytes, places: list[int]) -> None:
    data = junk + log + junk
    assert read(*cut(data, places)) == read(data)


@FULL
@given(logs)
def test_looking_ahead_changes_nothing(log: bytes) -> None:
    reader, other = Reader(), Reader()
    got: list[AnyEvent] = []
    for i in range(0, len(log), 50):
        got += reader.feed(log[i : i + 50])
        reader.ahead(), reader.fits(), reader.error()
    assert [*got, *reader.close()] == [*other.feed(log), *other.close()]


@FULL
@given(logs, st.sampled_from(["utf-16-le", "utf-16-be"]), places)
def test_what_powershell_writes_says_the_same(log: bytes, encoding: str, places: list[int]) -> None:
    text = log.decode()
    mark = "\N{ZERO WIDTH NO-BREAK SPACE}"
    assert read(*cut((mark + text).encode(encoding), places)) == read(log)


@FULL
@given(logs, st.integers(min_value=1, max_value=300), places)
def test_what_docker_keeps_says_the_same(log: bytes, long: int, places: list[int]) -> None:
    ended = log + b"\n"  # an entry is told once its line has ended
    assert read(*cut(words.docker(ended.decode(), pieces=long), places)) == read(ended)


@pytest.mark.parametrize("filler", [b"x", b"\b", b"20/20 [=", b"\xe2\x94\x81", b"Epoch 1/2", b"\0"])
def test_a_line_of_fifty_megabytes_costs_no_memory(filler: bytes) -> None:
    reader = Reader()
    piece = filler * ((1 << 20) // len(filler))
    head = words.log(2).encode()
    tracemalloc.start()
    reader.feed(head)
    for _ in range(50):
        reader.feed(piece)
    reader.feed(b"\nEpoch 1/1\n" + words.last(20, 0.9).encode())
    reader.close()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000
    assert [fit.progress.best.epoch for fit in reader.fits() if fit.progress.best] == [2, 1]
