"""Runs at moments worth looking at, made of the events a trainer would write."""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from orchestrator.health import Gpu, Health
from orchestrator.machine import Machine
from orchestrator.progress import Progress, Snapshot, State, Status, Verdict, fold
from orchestrator.run import Run
from trainer.contract import AnyEvent, Dataset, Ended, Epoch, Note, Spec, Started

BEGUN = 1_749_652_330.0
LOG = ("loading 8690 clips", "epoch 17 of 30", "W tensorflow/core/util/port.cc:153] oneDNN custom operations")

# Every way to make a terminal act, one in each: clipboard, link, title, clear, reset, colours, cursor keys
# as answers, 8-bit controls, a tmux passthrough, right-to-left, zero width, lone surrogate, private use.
HOSTILE = (
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x1b]0;title",
    "\x1b[2J\x1b[H",
    "\x1bc",
    "\x1b[31;5mred",
    "\x9b2J",
    "\x9d52;c;ZXZpbA==\x9c",
    "\x90q#1\x9c",
    "\x1bPtmux;\x1b\x1b]52;c;ZXZpbA==\x07\x1b\\",
    "a\u202eb\u2066c\u200bd\u00ade",
    "\ud800\udfff",
    "\ue000",
    "\x00\x07\x08\x0b\x0c\x7f\x85\u2028\u2029",
    "[link=http://evil.example]markup[/link][bold red]",
    ":bomb:",
)
EVIL = "".join(f"<{i}{text}>" for i, text in enumerate(HOSTILE))


ACTS = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def acting(text: str) -> set[str]:
    """Characters that a terminal would not just print."""
    return {c for c in text if unicodedata.category(c) in ACTS and c != "\n"}


def run(*, id: str = "v9-0611-1420-abc", synthetic: bool = False, recipe: str = "v9_attention") -> Run:  # noqa: A002
    spec = Spec(
        run=id,
        recipe=recipe,
        data="/data",
        fingerprint="f" * 64,
        epochs=30,
        batch_size=32,
        synthetic=synthetic,
    )
    machine = Machine("attached", host="gpu.example.org", user="ubuntu")
    return Run(id=id, spec=spec, where=machine.name, data="features", created=BEGUN, machine=machine)


def events(epochs: int, *, ahead: float = 0.0, attempt: int = 1) -> Iterator[AnyEvent]:
    """What a trainer writes in so many epochs; accuracy is `ahead` of val_accuracy."""
    t = BEGUN
    yield Started(
        t=t,
        attempt=attempt,
        first_epoch=1,
        epochs=30,
        recipe="v9_attention",
        host="gpu",
        gpus=["NVIDIA A10G"],
    )
    yield Dataset(
        t=t + 5,
        files=8692,
        used=8690,
        skipped=2,
        train=7821,
        val=869,
        frames=221,
        dim=768,
        classes=["angry", "calm"],
        counts={"angry": 4345, "calm": 4345},
        fingerprint="f" * 64,
        split="speaker",
    )
    yield Note(t=t + 6, text="2 files left out: no emotion in their name", level="warning")
    for epoch in range(1, epochs + 1):
        t += 41.0
        value = 0.72 * (1 - math.exp(-epoch / 6)) + 0.012 * math.sin(epoch * 1.7)
        metrics: dict[str, float | None] = {
            "loss": 1.95 * math.exp(-epoch / 12),
            "accuracy": value + ahead,
            "val_loss": 1.9 * math.exp(-epoch / 14) + 0.1,
            "val_accuracy": value,
        }
        yield Epoch(t=t, epoch=epoch, metrics=metrics, lr=3e-4, seconds=41.0)
        if epoch == 8:
            yield Note(t=t, text="epoch 8: the learning rate is now 9e-05")


def snapshot(
    happened: Iterable[AnyEvent],
    state: State = "running",
    *,
    reason: str | None = None,
    error: str | None = None,
    silence: float | None = None,
    after: float = 12.0,
    log: tuple[str, ...] = LOG,
    asked: Run | None = None,
    status: Status | None = None,
) -> Snapshot:
    """`after` seconds after the last of what happened."""
    progress = fold(Progress(), happened)
    return Snapshot(
        run=asked or run(),
        progress=progress,
        verdict=Verdict(state, reason, error),
        now=(progress.last_event or BEGUN) + after,
        log=log,
        log_count=len(log),
        silence=silence,
        status=status,
    )


GPU = Gpu("NVIDIA A10G", 97.0, 18_300_000_000, 24_100_000_000, 64.0, 182.4, 300.0)


def heard(*, grew: float = 3.0, gpus: tuple[Gpu, ...] = (GPU,), **more: Any) -> Status:
    """What the machine said of itself; its log grew `grew` seconds before the 17th epoch and 12 s."""
    now = BEGUN + 17 * 41 + 12
    return Status(
        alive=True,
        attempt=1,
        now=now,
        process={"pid": 812, "since": BEGUN - 2, "via": "tmux"},
        disk_free=42_000_000_000,
        health=Health(gpus, None, 8, 3.2, 33_000_000_000, 21_000_000_000, 90_000, now - grew),
        **more,
    )


MOMENTS: dict[str, Snapshot] = {
    "asked": snapshot([], "starting", reason="not launched yet", log=()),
    "started": snapshot(list(events(0))[:1]),
    "data read": snapshot(events(0)),
    "running": snapshot(events(17)),
    "overfitting": snapshot(events(24, ahead=0.22), asked=run(synthetic=True)),
    "overdue": snapshot(events(5), after=500.0),
    "healthy": snapshot(events(17), status=heard()),
    "stalled": snapshot(events(17), "stalled", after=200.0, status=heard(grew=0.0), reason="none came"),
    "away": snapshot(events(17), "unreachable", reason="the machine does not answer", silence=42.0),
    "finished": snapshot(
        [*events(26), Ended(t=BEGUN + 1100, status="finished", reason="early stopping")],
        "finished",
        reason="early stopping",
    ),
    "failed": snapshot(
        events(3), "failed", error="ResourceExhaustedError: OOM when allocating tensor " + "x" * 300
    ),
    "stopped": snapshot(events(3), "stopped", reason="stopped when asked"),
    "lost": snapshot(
        events(3), "lost", reason="the machine was restarted", error="the machine was restarted"
    ),
}


def story(*, synthetic: bool = False) -> Iterator[Snapshot]:
    """A whole run, snapshot by snapshot, with the contact lost once in the middle."""
    asked = run(synthetic=synthetic)
    yield snapshot([], "starting", reason="not launched yet", asked=asked, log=())
    so_far: list[AnyEvent] = []
    for event in events(12, ahead=0.2):
        so_far.append(event)
        yield snapshot(so_far, asked=asked)
        if len(so_far) == 9:
            for silence in (3.0, 8.0, 20.0):
                yield snapshot(
                    so_far, "unreachable", reason="the machine does not answer", silence=silence, asked=asked
                )
    so_far.append(Ended(t=BEGUN + 600, status="finished", reason="early stopping"))
    yield snapshot(so_far, "finished", reason="early stopping", asked=asked)


def hostile() -> Snapshot:
    """Every field that a machine can fill, filled by one that means harm."""
    happened: list[AnyEvent] = [
        Started(
            t=BEGUN, attempt=1, first_epoch=1, epochs=30, recipe=EVIL, host=EVIL, gpus=[EVIL], contract="1.0"
        ),
        Dataset(
            t=BEGUN,
            files=1,
            used=1,
            skipped=0,
            train=1,
            val=1,
            frames=1,
            dim=1,
            classes=[EVIL, "b"],
            counts={EVIL: 1},
            fingerprint=EVIL,
            split=EVIL,
        ),
        Note(t=BEGUN, text=EVIL, level="warning"),
        Note(t=BEGUN, text="y" * 50_000 + EVIL, level=EVIL),
        Epoch(t=BEGUN + 9, epoch=1, metrics={"val_accuracy": 0.5, EVIL: 0.1}, lr=None, seconds=9.0),
        Epoch(t=BEGUN + 19, epoch=2, metrics={"val_accuracy": 0.4, EVIL: None}, lr=None, seconds=9.0),
    ]
    machine = Machine("attached", host=EVIL, user=EVIL)
    spec = Spec(run=EVIL, recipe=EVIL, data=EVIL, fingerprint=EVIL, epochs=30, batch_size=1)
    asked = Run(id=EVIL, spec=spec, where=EVIL, data=EVIL, created=BEGUN, machine=machine)
    log = (EVIL, "z" * 50_000 + EVIL, *HOSTILE, f"12/30\r13/30 {EVIL}\r")
    status = heard(gpus=(Gpu(EVIL, 1e308),), exit={"signal": EVIL, "code": EVIL, "seconds": EVIL})
    status = dataclasses.replace(status, process={"pid": EVIL, "since": EVIL, "via": EVIL})
    return snapshot(
        happened, "failed", reason=EVIL, error=EVIL + "e" * 50_000, log=log, asked=asked, status=status
    )
