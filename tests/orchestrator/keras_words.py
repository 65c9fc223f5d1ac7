"""What Keras prints, put together from its parts, for logs that no run of ours has recorded."""

from __future__ import annotations

import json


def update(step: int, steps: int, *, backspaces: bool = True) -> str:
    """Of a bar of Keras 2 on its way, with what it erases it by before the next."""
    done = 30 * step // steps
    bar = f"[{'=' * done}>{'.' * (29 - done)}]" if done < 30 else f"[{'=' * 30}]"
    text = f"{step:{len(str(steps))}}/{steps} {bar} - ETA: {steps - step}s - loss: 0.9000 - accuracy: 0.3000"
    return f"{text}{chr(8) * len(text)}\r" if backspaces else text


def last(steps: int, value: float, *, validation: bool = True, seconds: int = 3) -> str:
    """Keras 2's last words on an epoch; `value` is its val_accuracy."""
    text = f"{steps}/{steps} [{'=' * 30}] - {seconds}s 2ms/step - loss: 0.5000 - accuracy: {value + 0.1:.4f}"
    return text + (f" - val_loss: 0.4000 - val_accuracy: {value:.4f}\n" if validation else "\n")


def keras_3(step: int, steps: int, time: str, value: float, *, validation: bool = False) -> str:
    """An update of Keras 3 in a file; `time` is what is left, or for the last words what it took."""
    done = 20 * step // steps
    lit = f"\x1b[32m{'━' * done}\x1b[0m" if done else ""
    bar = f"{lit}\x1b[37m{'━' * (20 - done)}\x1b[0m"
    head = f"\x1b[1m{step:{len(str(steps))}}/{steps}\x1b[0m {bar} \x1b[1m{time}\x1b[0m 43ms/step"
    text = f"\n{head} - accuracy: {value + 0.1:.4f} - loss: 0.5000"
    return text + (f" - val_accuracy: {value:.4f} - val_loss: 0.4000\n" if validation else "")


def log(epochs: int, steps: int = 20) -> str:
    """A whole fit of Keras 2 on a terminal, its val_accuracy 0.5001, 0.5002 and so on."""
    parts = []
    for epoch in range(1, epochs + 1):
        parts.append(f"Epoch {epoch}/{epochs}\n")
        parts += [update(step, steps) for step in range(1, steps)]
        parts.append(last(steps, 0.5 + epoch / 10_000))
    return "".join(parts)


def docker(text: str, *, pieces: int = 10_000, **more: object) -> bytes:
    """As Docker's json-file keeps it, a line that is too long in pieces."""
    said = [
        line[i : i + pieces] for line in text.splitlines(keepends=True) for i in range(0, len(line), pieces)
    ]
    entries = ({"log": each, "stream": "stdout", **more, "time": "2020-08-11T09:58:34.8Z"} for each in said)
    return "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries).encode()
