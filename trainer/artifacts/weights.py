"""Model files, written so that a full disk is an OSError and not the end of the process.

HDF5 that runs out of disk cannot close its file and takes the interpreter down with it (seen: a segmentation
fault under h5py 3.14, keras' `save_weights`). Into a `.keras` archive keras writes HDF5 by way of memory, and
the archive itself by plain Python; the weights in it are the very `.weights.h5`.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

_INSIDE = "model.weights.h5"


def save(model: Any, whole: Path, weights: Path) -> None:
    """Write the model with its optimizer as a `.keras` archive, and its variables as `.weights.h5`."""
    model.save(whole)
    with zipfile.ZipFile(whole) as archive, archive.open(_INSIDE) as source, weights.open("wb") as target:
        shutil.copyfileobj(source, target)


def save_weights(model: Any, weights: Path) -> None:
    """Write the variables alone, the optimizer's too."""
    whole = weights.with_name(".whole.keras")
    save(model, whole, weights)
    whole.unlink()
