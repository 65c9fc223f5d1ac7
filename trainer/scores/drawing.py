"""The pictures of a report as PNG. The only module that imports matplotlib, and imported after training."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trainer.scores import roc

DPI = 110


def confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> bytes:
    """Rows are what was said, columns what it was taken for; the shade is the share of the row."""
    table = np.array(counts)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.55 * len(classes)
    figure, (axes,) = _figure((side + 0.6, side), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.55 else "black"
        axes.text(column, row, str(table[row, column]), ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="taken for", ylabel="labelled")
    return _png(figure)


def rocs(labels: npt.NDArray[np.integer[Any]], probabilities: Any, classes: Sequence[str]) -> bytes:
    """One curve for each class that occurs, against the rest."""
    figure, (axes,) = _figure((6.2, 5.2), 1)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    for i, name in enumerate(classes):
        found = roc.curve(labels == i, probabilities[:, i])
        if found is not None:
            area = float(np.trapezoid(found[1], found[0]))
            axes.plot(*found, label=f"{name}  {area:.3f}", linewidth=1.5)
    axes.set(xlabel="false positives, of all others", ylabel="true positives, of the class", aspect="equal")
    axes.legend(title="AUC", loc="lower right", fontsize=8)
    return _png(figure)


def curves(history: Sequence[Mapping[str, Any]], best_epoch: int) -> bytes:
    """Accuracy, loss and learning rate over the epochs; a line marks the best."""
    epochs = [row["epoch"] for row in history]
    figure, axes = _figure((10.5, 3.4), 3)
    for name, one in zip(("accuracy", "loss"), axes, strict=False):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            one.plot(epochs, [_number(row.get(key)) for row in history], marker=".", label=label)
        one.set(title=name, xlabel="epoch")
        one.axvline(best_epoch, color="grey", linestyle=":", linewidth=1, label=f"best, {best_epoch}")
        one.legend(fontsize=8)
    axes[2].plot(epochs, [_number(row.get("lr")) for row in history], marker=".")
    axes[2].set(title="learning rate", xlabel="epoch")
    return _png(figure)


def _figure(inches: tuple[float, float], columns: int) -> tuple[Figure, list[Axes]]:
    # Without pyplot, which would look for a window system.
    figure = Figure(figsize=inches, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, columns, i + 1) for i in range(columns)]


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _png(figure: Figure) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, format="png", metadata={"Software": None})
    return written.getvalue()
