"""What a console log of Keras says: recorded ones against what happened, others put together by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from orchestrator.keras_log import Fit, Reader
from orchestrator.progress import METRIC
from tests.orchestrator.keras_words import docker, keras_3, last, log, update
from trainer.contract import Ended, Epoch, Note, Saved, Started

RECORDED = sorted((Path(__file__).parent / "data" / "keras_logs").glob("*.log"))
RATES = {"lr", "learning_rate"}


def read(text: str | bytes) -> Reader:
    reader = Reader()
    reader.feed(text if isinstance(text, bytes) else text.encode())
    return reader


def fits(text: str | bytes) -> tuple[Fit, ...]:
    return read(text).fits()


def each_line(text: str, before: str) -> bytes:
    return "".join(f"{before}{line}\n" for line in text.split("\n")).encode()


def epochs(text: str | bytes) -> list[list[int]]:
    """Of each fit the epochs that ended."""
    return [[p.epoch for p in fit.progress.points] for fit in fits(text)]


def scores(text: str | bytes) -> list[float | None]:
    """Of the one fit the val_accuracy of each epoch."""
    (fit,) = fits(text)
    return [p.metrics.get(METRIC) for p in fit.progress.points]


def near(said: float | None, true: float | None) -> bool:
    """Whether it is what Keras prints of a number: four decimals, or five digits."""
    if said is None or true is None or not math.isfinite(true):
        return said is None and (true is None or not math.isfinite(true))
    return math.isclose(said, true, rel_tol=1e-4, abs_tol=5.1e-5)


@pytest.mark.parametrize("path", RECORDED, ids=lambda p: p.stem)
def test_a_recorded_log_says_what_happened(path: Path) -> None:
    truth = json.loads(path.with_suffix(".json").read_text())
    found = fits(path.read_bytes())
    assert [(f.epochs, f.begun) for f in found] == [(t["epochs"], t["last_epoch"]) for t in truth["fits"]]
    for fit, true in zip(found, truth["fits"], strict=True):
        assert (fit.ended.status if fit.ended else None) == true["status"]
        assert [str(p.epoch) for p in fit.progress.points] == list(true["metrics"])
        for point, metrics in zip(fit.progress.points, true["metrics"].values(), strict=True):
            named = {name: value for name, value in metrics.items() if name not in RATES}
            assert set(point.metrics) == set(named)
            assert all(near(value, named[name]) for name, value in point.metrics.items())
            assert all(near(point.lr, metrics[name]) for name in RATES & set(metrics))


def test_there_are_recorded_logs_of_both() -> None:
    assert {p.stem.split("-")[0] for p in RECORDED} == {"keras2", "keras3"}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("crash", "ValueError: clip 17 has no frames"),
        ("crash-before", "FileNotFoundError: [Errno 2] No such file or directory"),
        ("crash-after", "ValueError: clip 17 has no frames"),
        ("interrupted", "KeyboardInterrupt"),
    ],
)
@pytest.mark.parametrize("keras", ["keras2", "keras3"])
def test_the_last_line_of_an_error_is_told(keras: str, name: str, error: str) -> None:
    path = next(p for p in RECORDED if p.stem == f"{keras}-{name}")
    ended = read(path.read_bytes()).close()[-1]
    assert isinstance(ended, Ended)
    assert ended.status == ("stopped" if name == "interrupted" else "failed")
    assert ended.reason.startswith(error)


def test_events_are_those_of_our_own_runs() -> None:
    text = (
        "Epoch 1/3\n"
        + last(20, 0.5)
        + "\nEpoch 00001: val_accuracy improved from -inf to 0.50000, saving model to best.h5\n"
        + "Epoch 2/3\n"
        + last(20, 0.5)
        + "\nEpoch 00002: ReduceLROnPlateau reducing learning rate to 0.0005.\n"
        + "Epoch 3/3\n"
        + last(20, 0.4)
        + "Epoch 00003: early stopping\n"
    )
    reader = Reader()
    events = [*reader.feed(text.encode()), *reader.close()]
    assert [type(e) for e in events] == [Started, Epoch, Saved, Epoch, Note, Epoch, Note, Ended]
    assert events[0] == Started(0.0, 1, 1, 3, "")
    assert events[2] == Saved(0.0, "checkpoint", "best.h5", 1, 0.5)
    assert [e.lr for e in events if isinstance(e, Epoch)] == [None, None, 0.0005]
    assert events[-1] == Ended(0.0, "finished", "early stopping", best_epoch=1, best=0.5)


FULL = log(3)
EVALUATED = (
    "1/5 [=====>....] - ETA: 0s - loss: 0.9000 - accuracy: 0.3000\r"
    "5/5 [==============================] - 0s 2ms/step - loss: 0.1000 - accuracy: 0.9900\n"
)
ETA = "1/20 [>..] - ETA: 1s"
LAST = "".join(f"Epoch {e}/3\n{last(20, 0.5 + e / 100)}" for e in (1, 2, 3))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(LAST.encode(), id="as it is"),
        pytest.param(LAST.replace("\n", "\r\n").encode(), id="of Windows"),
        pytest.param(LAST.replace("\n", "\r").encode(), id="returns alone"),
        pytest.param(LAST.encode("utf-16"), id="UTF-16 with its mark"),
        pytest.param(LAST.encode("utf-16-le"), id="UTF-16 without"),
        pytest.param(LAST.encode("utf-8-sig"), id="UTF-8 with a mark"),
        pytest.param(LAST.replace("20/20", f"#015 {ETA}#010#01520/20").encode(), id="SageMaker"),
        pytest.param(LAST.replace("20/20", "\x1b[1m20/20\x1b[0m").encode(), id="in bold"),
        pytest.param(b"\0" * 100_000 + LAST.encode(), id="after a hole"),
        pytest.param(each_line(LAST, "2020-08-11T09:58:34.837Z "), id="dated"),
        pytest.param(each_line(LAST, "trainer_1  | "), id="of a container"),
        pytest.param(each_line(LAST, "[1,0]<stdout>:"), id="of MPI"),
        pytest.param(each_line(LAST, "[2020-08-11T09:58:34.837Z] "), id="dated in brackets"),
        pytest.param(each_line(LAST, "2020-08-11T09:58:34+0200 gpu1 python3[77]: "), id="of journald"),
        pytest.param(each_line(LAST, "Aug 11 09:58:34 gpu1 train.sh[77]: "), id="of syslog"),
        pytest.param(each_line(LAST, "2020-08-11T09:58:34.8Z stdout F "), id="of Kubernetes"),
        pytest.param(each_line(LAST, "[pod/train-x/main] 2020-08-11T09:58:34.8Z "), id="of kubectl"),
        pytest.param(each_line(LAST, "trainer-1  | 2024-01-05T10:00:00.1Z "), id="of Compose, dated"),
        pytest.param(each_line(LAST, "(train_fn pid=77, ip=10.0.0.3) "), id="of Ray"),
        pytest.param(each_line(LAST, "2020-08-11T09:58:34.8+00:00 mnist/algo-1-159 "), id="of CloudWatch"),
        pytest.param(each_line(LAST, "INFO\t2020-08-11 09:58:34 -0800\tmaster-replica-0\t\t"), id="of GCP"),
        pytest.param(each_line(LAST, "2020-08-11 09:58:34,837 INFO "), id="of logging"),
        pytest.param(each_line(LAST, "09:58:34 "), id="with the time of day"),
        pytest.param(each_line(LAST, "train\tRun it\t2020-08-11T09:58:34.8374567Z "), id="of GitHub"),
        pytest.param(each_line(LAST, "2020-08-11T09:58:34.837456Z 01O "), id="of GitLab"),
        pytest.param(each_line(LAST, "[2020-08-11T09:58:34.8+0000] {local.py:93} INFO - "), id="of Airflow"),
        pytest.param(each_line(LAST, "2020-08-11 09:58:34,837 - train - INFO - "), id="of a logger"),
        pytest.param(each_line(LAST, "2020-08-11 09:58:34.8 | INFO     | __main__:go:12 - "), id="of Loguru"),
        pytest.param(each_line(LAST, "INFO:root:"), id="of logging as it is by itself"),
        pytest.param(each_line(LAST, "2020/08/11 09:58:34 "), id="dated with slashes"),
        pytest.param(each_line(LAST, "Tue Aug 11 09:58:34 2020[0]<stdout>:"), id="of Horovod"),
        pytest.param(each_line(LAST, "[default0]:"), id="of torchrun"),
        pytest.param(each_line(LAST, "2020-08-11T09:58:34.8+00:00 app[worker.1]: "), id="of Heroku"),
        pytest.param(docker(LAST), id="of Docker"),
        pytest.param(docker(LAST, attrs={"tag": "v9"}), id="of Docker, with a tag"),
        pytest.param(docker(LAST, pieces=100), id="of Docker, long lines in pieces"),
        pytest.param(each_line(LAST, "    "), id="indented"),
        pytest.param(LAST.replace(" - val_loss", "\n - val_loss").encode(), id="wrapped at a dash"),
        pytest.param(LAST.replace("val_acc", "val_\nacc").encode(), id="wrapped in a word"),
        pytest.param(LAST.replace(": 0.5", ": 0.\n5").encode(), id="wrapped in numbers"),
        pytest.param(LAST.replace("- loss", "-\nloss").encode(), id="wrapped where a space stood"),
        pytest.param(LAST.replace("Epoch", "W0000 slow callback\nEpoch").encode(), id="with warnings"),
    ],
)  # fmt: skip
def test_the_dress_of_a_log_does_not_matter(text: bytes) -> None:
    assert scores(text) == [0.51, 0.52, 0.53]
    assert fits(text)[0].ended == Ended(0.0, "finished", "all 3 epochs are done", 3, 0.53)


@pytest.mark.parametrize("width", [40, 45, 50, 60, 80])
def test_the_width_of_a_window_does_not_matter(width: int) -> None:
    def wrapped(text: str) -> str:
        cut = [line[i : i + width] for line in text.split("\n") for i in range(0, max(1, len(line)), width)]
        return "\n".join(piece.rstrip() for piece in cut)

    update_ = " 1/20 [>.............................] - ETA: 12s - loss: 0.9000 - accuracy: 0.9900\n"
    verbose_1 = LAST.replace("20/20", update_ + "20/20")
    verbose_2 = LAST.replace(f" [{'=' * 30}]", "").replace("\nEpoch", " - 3s/epoch - 163ms/step\nEpoch")
    assert scores(wrapped(verbose_1)) == scores(wrapped(verbose_2)) == [0.51, 0.52, 0.53]


@pytest.mark.parametrize("width", range(40, 120, 9))
def test_names_of_several_words_are_put_together_again_where_a_window_broke_them(width: int) -> None:
    names = ["loss", "emotion_of one clip", "speaker_of one clip", "val_loss", "val_emotion_of one clip"]
    metrics = "".join(f" - {name}: 0.{i}000" for i, name in enumerate(names, 1))
    said = f"20/20 [{'=' * 30}] - 3s 2ms/step{metrics}"
    broken = "\n".join(said[i : i + width] for i in range(0, len(said), width))
    (fit,) = fits(f"Epoch 1/1\n{broken}\n")
    assert list(fit.progress.points[0].metrics.items()) == [(n, i / 10) for i, n in enumerate(names, 1)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "val_accuracy: 0.9999\nBest val_accuracy So Far: 0.9999\n",
        '{"log": ["Epoch 1/10\\n", "20/20 [====] - 3s - loss: 0.1 - val_accuracy: 0.9999\\n"]}\n',
        '    "Epoch 1/10\\n",\n    "20/20 [====] - 3s 2ms/step - loss: 0.1000 - val_accuracy: 0.9999\\n",\n',
        "".join(f"> {x}\n" for x in LAST.split("\n")),
        "".join(f"{i}:{x}\n" for i, x in enumerate(LAST.split("\n"))),
        "\\texttt{Epoch 3/10} & 0.9999 \\\\\n",
        "1/22. Adadelta, lr=2.0\n1/10 | accuracy: 0.99 | val_accuracy: 0.995 | time: 879.4 s.\n",
        "Epoch 0/2\n----------\ntrain Loss: 0.5\n\nEpoch 1/2\n----------\ntrain Loss: 0.4 Acc: 0.8\n",
        "Epoch 1/1\n----------\ntrain Loss: 0.4 Acc: 0.8\n",
        "Epoch 1/3\nTrain Loss: 0.5 Acc: 60%\nEpoch 2/3\nTrain Loss: 0.4 Acc: 70%\nEpoch 3/3\n",
        "Epoch 1/3: 100%|██████████| 32/32 [00:05<00:00,  6.10it/s, loss=0.5]\n" * 3,
        "INFO:tensorflow:loss = 0.5, step = 100 (0.3 sec)\nINFO:tensorflow:Saving dict: accuracy = 0.9\n",
        "0 [D loss: 0.71, acc.: 50.00%] [G loss: 0.69]\n1/1 [==============================] - 0s 3ms/step\n",
        "313/313 [==============================] - 1s 3ms/step - loss: 0.3500 - accuracy: 0.8900\n",
        EVALUATED * 3,
        "loading the model\n" + EVALUATED * 3,
        "4/4 - 0s - loss: 0.3500 - accuracy: 0.8900 - 12ms/epoch - 3ms/step\n" * 3,
        "11490434/11490434 [==============================] - 0s 0us/step\n",
        "Epoch [1/10], Step [100/600], Loss: 0.1\nEpoch 1: 100%|##| 3/3 [00:01<00:00, val_accuracy=0.9]\n",
    ],
)
def test_what_is_no_epoch_of_keras_is_none(text: str) -> None:
    assert epochs(text) == []


def test_a_log_that_is_quoted_in_another_is_not_counted() -> None:
    quoted = "".join(f"    {line}\n" for line in LAST.replace("0.5", "0.9").split("\n"))
    first, second, third = LAST.split("Epoch")[1:]
    text = f"Epoch{first}the run before said:\n{quoted}Epoch{second}Epoch{third}"
    assert scores(text) == [0.51, 0.52, 0.53]


def test_of_equal_epochs_the_first_is_the_best() -> None:
    (fit,) = fits("".join(f"Epoch {e}/3\n{last(20, v)}" for e, v in ((1, 0.4), (2, 0.6), (3, 0.6))))
    assert fit.progress.best and fit.progress.best.epoch == 2


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "0.9.1", "0,99", "[0.9 0.8]", "0.99.", "0.99abc"])
def test_what_is_no_number_is_never_the_best(value: str) -> None:
    text = (
        f"Epoch 1/2\n{last(20, 0.4)}Epoch 2/2\n{last(20, 0.5).replace('0.5000' + chr(10), value + chr(10))}"
    )
    assert epochs(text) == [[1, 2]]
    best = fits(text)[0].progress.best
    assert best and best.epoch == 1


def test_a_new_fit_begins_where_the_epochs_begin_anew() -> None:
    assert epochs(log(3) + "157/157 [=====] - 0s 1ms/step - loss: 0.1 - accuracy: 0.9\n" + log(2)) == [
        [1, 2, 3],
        [1, 2],
    ]
    assert epochs("".join(f"Epoch 1/1\n{last(20, 0.5)}" for _ in range(3))) == [[1], [1], [1]]
    assert epochs(LAST.split("Epoch 3")[0] + LAST) == [[1, 2], [1, 2, 3]]


def test_the_head_above_a_validation_is_no_new_fit() -> None:
    text = "".join(
        f"Epoch {e}/2\n{update(19, 20, backspaces=False)}Epoch {e}/2\n 1/20 [....] - ETA: 1s - loss: 0.1000\r"
        + last(20, 0.5)
        for e in (1, 2)
    )
    assert epochs(text) == [[1, 2]]
    assert epochs(text.replace("0.3000Epoch 2/2", "0.3000Epoch 1/2")) == [[1, 2]]


def test_a_log_without_heads_is_counted() -> None:
    assert epochs("".join(last(20, 0.5 + e / 10) for e in range(4))) == [[1, 2, 3, 4]]
    assert epochs("242s - loss: 3.6 - acc: 0.2\n218s - loss: 1.1 - acc: 0.6\n") == [[1, 2]]


def test_what_a_cut_head_leaves_is_numbered_by_the_next_head() -> None:
    text = "uracy: 0.9999\n" + last(20, 0.5) + "Epoch 35/50\n" + last(20, 0.6)
    assert epochs(text) == [[34, 35]]
    assert fits(text)[0].epochs == 50


def test_an_evaluation_before_a_fit_that_goes_on_is_no_epoch_of_it() -> None:
    assert epochs("restored\nfrom epoch 10\n" + EVALUATED + "Epoch 11/11\n" + last(20, 0.5)) == [[11]]
    inside = update(7, 20) + last(20, 0.5, validation=False)
    assert epochs(inside + "Epoch 11/11\n" + last(20, 0.5)) == [[10, 11]]
    assert epochs(inside + EVALUATED) == [[1]]


def test_an_evaluation_by_a_callback_is_told_from_an_epoch_by_its_steps() -> None:
    def line(steps: int, accuracy: float) -> str:
        return f"{steps}/{steps} - 1s - loss: 0.5000 - accuracy: {accuracy:.4f} - 1s/epoch - 5ms/step\n"

    def accuracies(text: str) -> list[float | None]:
        return [p.metrics["accuracy"] for p in fits(text)[0].progress.points]

    quiet = "".join(f"Epoch {e}/3\n{line(5, 0.99)}{line(20, e / 10)}" for e in (1, 2, 3))
    assert accuracies(quiet) == accuracies(quiet + line(5, 0.99)) == [0.1, 0.2, 0.3]
    early = "".join(f"Epoch {e}/9\n{line(20, e / 10)}" for e in (1, 2)) + line(5, 0.99)
    assert accuracies(early) == [0.1, 0.2] and fits(early)[0].went_on
    bars = "".join(
        f"Epoch {e}/2\n{update(19, 20)}{line(5, 0.99)}{last(20, 0, validation=False)}" for e in (1, 2)
    )
    assert accuracies(bars) == [0.1, 0.1]


def test_the_end_of_an_update_that_a_cut_head_leaves_is_no_line_of_keras_1() -> None:
    cut = "0s - loss: 0.9999 - accuracy: 0.9999\r20/20 [=====] - 3s 2ms/step - loss: 0.5 - accuracy: 0.6\n"
    assert [p.metrics["loss"] for p in fits(cut + "Epoch 2/2\n")[0].progress.points] == [0.5]
    assert epochs("0s - loss: 0.9999 - accuracy: 0.9999Traceback (most recent call last):\n") == []
    last_words = " 1s - 65ms/step - accuracy: 0.3 - loss: 1.5 - val_accuracy: 0.2\n"
    assert set(fits(last_words)[0].progress.points[0].metrics) == {"accuracy", "loss", "val_accuracy"}


def test_of_a_cut_tail_nothing_is_believed_that_may_be_half() -> None:
    whole = "Epoch 1/2\n" + last(20, 0.5) + "Epoch 2/2\n" + last(20, 0.9876).rstrip("\n")
    assert scores(whole) == [0.5, 0.9876]
    for cut in range(1, 25):
        (fit,) = fits(whole[:-cut])
        assert fit.begun == 2 and fit.progress.best and fit.progress.best.epoch == 1


def test_evaluations_and_predictions_inside_an_epoch_are_not_its_end() -> None:
    inside = "5/5 [=====] - 0s 2ms/step - loss: 0.1000 - accuracy: 0.9900\n8/8 [=====] - 0s 1ms/step\n"
    text = "".join(f"Epoch {e}/2\n{update(19, 20)}{inside}{last(20, 0.5, validation=False)}" for e in (1, 2))
    (fit,) = fits(text)
    assert [p.metrics["accuracy"] for p in fit.progress.points] == [0.6, 0.6]


def test_the_last_update_of_keras_3_is_not_an_epoch_of_its_own() -> None:
    text = "".join(
        f"Epoch {e}/2\n{keras_3(4, 20, '2s', 0.5)}{keras_3(20, 20, '0s', 0.5)}"
        f"{keras_3(20, 20, '3s', 0.5 + e / 10, validation=True)}"
        for e in (1, 2)
    )
    assert scores(text) == [0.6, 0.7]
    killed_in_validation = text.rpartition("\n\x1b[1m20/20")[0]
    (fit,) = fits(killed_in_validation)
    assert (fit.begun, fit.whole, len(fit.progress.points)) == (2, False, 1)


def test_a_dated_line_of_keras_1_is_an_epoch() -> None:
    said = "\n".join(f"Epoch {e}/2\n{e}s - loss: 1.5 - acc: 0.2 - val_acc: 0.{e}000" for e in (1, 2))
    assert scores(each_line(said, "2020-08-11 09:58:34 ")) == [0.1, 0.2]


def test_heads_of_a_loop_around_fit_are_no_fits() -> None:
    def loop(between: str) -> str:
        return "".join(f"Epoch {i}/3\n{between}{log(2)}" for i in (1, 2, 3))

    for between in ("", "loading piece 7\n", "Train on 160 samples, validate on 48 samples\n"):
        assert epochs(loop(between)) == [[1, 2]] * 3
    killed = log(2) + "Epoch 1/50\nKilled\n" + log(2)
    assert [(f.epochs, f.begun, f.whole) for f in fits(killed)] == [
        (2, 2, True),
        (50, 1, False),
        (2, 2, True),
    ]


def test_a_head_glued_to_a_bar_of_tqdm_is_one() -> None:
    bar = "fold:  33%|###       | 1/3 [00:01<00:02,  1.10s/it]"
    assert epochs("".join(f"\r{bar}{log(2)}" for _ in range(3))) == [[1, 2]] * 3
    assert epochs("100%|###| 32/32 [00:05<00:00,  6.10it/s]Epoch 1/3: 0%|   | 0/32 [00:00<?, ?it/s]\n") == []


def test_a_fit_of_one_epoch_that_prints_no_head_counts_and_what_evaluates_it_does_not() -> None:
    one = "Train on 160 samples\n160/160 - 0s - loss: 1.5000 - accuracy: 0.3000\n"
    evaluated = "48/48 - 0s - loss: 1.4000 - accuracy: 0.4000\n"
    found = fits((one + evaluated) * 3)
    assert [(f.epochs, [p.metrics["loss"] for p in f.progress.points]) for f in found] == [(1, [1.5])] * 3


def test_epochs_without_validation_among_others_count() -> None:
    text = "".join(
        f"Epoch {e}/3\n{keras_3(5, 20, '2s', 0.5)}{keras_3(20, 20, '0s', 0.5, validation=e == 2)}"
        for e in (1, 2, 3)
    )
    assert scores(text) == [None, 0.5, None]


def test_an_evaluation_below_lines_of_verbose_2_is_not_an_epoch() -> None:
    first, second = (f"Epoch {e}/2\n20/20 - 3s - loss: 0.5000 - val_accuracy: 0.{e}000\n" for e in (1, 2))
    evaluated = " 1/4 [==>...] - ETA: 0s - loss: 0.1000\r4/4 [=====] - 0s 1ms/step - loss: 0.1000\n"
    assert scores(first + "Epoch 2/2\n" + evaluated) == [0.1]
    assert scores(first + second.replace("20/20", evaluated + "20/20")) == [0.1, 0.2]


def test_an_epoch_whose_steps_were_unknown_counts() -> None:
    going = "     12/Unknown - 1s 20ms/step - loss: 0.5000 - accuracy: 0.2500"
    none_yet = "val_loss: 0.0000e+00 - val_accuracy: 0.0000e+00"
    text = f"Epoch 1/2\n{going}\r{going} - {none_yet}\nEpoch 2/2\n{last(12, 0.5)}"
    assert scores(text) == [None, 0.5]


def test_a_traceback_that_was_caught_is_no_end() -> None:
    caught = 'Traceback (most recent call last):\n  File "x.py", line 3, in f\nOSError: disk\n'
    (fit,) = fits(f"Epoch 1/2\n{last(20, 0.5)}{caught}Epoch 2/2\n{last(20, 0.6)}")
    assert fit.ended and fit.ended.status == "finished"
    assert [n.text for n in fit.progress.notes] == ["went on after OSError: disk"]


TIME_LIMIT = "slurmstepd: error: *** JOB 7 ON gpu1 CANCELLED AT 2024-01-05 DUE TO TIME LIMIT ***"
INTERRUPTED = '^CTraceback (most recent call last):\n  File "t.py"\nKeyboardInterrupt'
CHECK = "2024-01-05 10:00:00.1: F tensorflow/x.cc:1] Check failed: a == b"
NO_MEMORY = (
    'Traceback (most recent call last):\n  File "t.py", line 3, in <module>\n'
    "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 3.5 GiB"
)
OOM = """Traceback (most recent call last):
  File "t.py", line 3, in <module>
tensorflow.python.framework.errors_impl.ResourceExhaustedError: Graph execution error:

Detected at node x
OOM when allocating tensor with shape[64,99]
\t [[{{node x}}]]
Hint: If you want to see a list of allocated tensors"""
OOM_SAID = (
    "tensorflow.python.framework.errors_impl.ResourceExhaustedError: Graph execution error: "
    "OOM when allocating tensor with shape[64,99]"
)


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        ("Killed", "failed", "Killed"),
        ("bash: line 1: 77 Killed                  python train.py", "failed", "bash: line 1: 77 Killed"),
        ("Segmentation fault (core dumped)", "failed", "Segmentation fault"),
        (TIME_LIMIT, "failed", "slurmstepd"),
        ("Batch 3: Invalid loss, terminating training", "failed", "Batch 3: Invalid loss"),
        (INTERRUPTED, "stopped", "KeyboardInterrupt"),
        (CHECK, "failed", "2024-01-05 10"),
        (OOM, "failed", OOM_SAID),
        (NO_MEMORY, "failed", "numpy.core._exceptions._ArrayMemoryError: Unable"),
        ("srun: error: gpu1: task 0: Out Of Memory", "failed", "srun: error: gpu1"),
        (f"{NO_MEMORY}\nProcess finished with exit code 1", "failed", "numpy.core"),
    ],
    ids=[
        "killed",
        "bash",
        "fault",
        "slurm",
        "invalid",
        "ctrl-c",
        "check",
        "oom",
        "memory",
        "srun",
        "pycharm",
    ],
)
@pytest.mark.parametrize("glued", [True, False])
def test_how_it_died_is_read_also_where_it_is_glued_to_the_bar(
    glued: bool, end: str, status: str, reason: str
) -> None:
    bar = update(5, 20, backspaces=False) + ("" if glued else "\n")
    (fit,) = fits(f"Epoch 1/2\n{bar}{end}\n")
    assert fit.ended and (fit.ended.status, fit.whole) == (status, False)
    assert fit.ended.reason.startswith(reason)


def test_a_program_that_never_came_to_a_fit_says_why() -> None:
    events = read("usage: train.py [-h]\ntrain.py: error: unrecognized arguments: --augment\n").close()
    assert events == [Ended(0.0, "failed", "train.py: error: unrecognized arguments: --augment")]


def test_what_goes_wrong_while_python_leaves_is_no_failure() -> None:
    farewell = (
        "Exception ignored in: <function X.__del__>\nTraceback (most recent call last):\n  x\nTypeError: x\n"
    )
    assert read(LAST + farewell).error() is None


def test_old_names_are_told_by_the_new_and_the_rate_is_no_metric() -> None:
    text = "Epoch 1/1\n3s - loss: 0.5 - acc: 0.6 - speaker_acc: 0.4 - val_acc: 0.7000 - lr: 1.0000e-03\n"
    (fit,) = fits(text)
    point = fit.progress.points[0]
    assert dict(point.metrics) == {"loss": 0.5, "accuracy": 0.6, "speaker_acc": 0.4, "val_accuracy": 0.7}
    assert (point.lr, point.seconds) == (0.001, 3.0)


def test_the_scheduler_says_the_rate_of_its_epoch() -> None:
    said = "\nEpoch 00001: LearningRateScheduler setting learning rate to 0.005.\n"
    (fit,) = fits(f"Epoch 1/1\n{said}{last(20, 0.5)}")
    assert fit.progress.points[0].lr == 0.005


def test_thousands_of_backspaces_are_nothing() -> None:
    assert epochs(FULL) == [[1, 2, 3]]
    assert epochs(FULL.replace("\r", "")) == [[1, 2, 3]]
