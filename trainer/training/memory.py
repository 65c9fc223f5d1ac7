"""What becomes of memory that TensorFlow has done with."""

from __future__ import annotations

import ctypes

# Of mallopt(3), as glibc's malloc.h numbers them, and what each is set to.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
# The most that mallopt takes: larger blocks are always the system's.
LARGEST = 32 << 20
# What a thread keeps at hand.
KEPT = 64 << 20


def keep_freed() -> bool:
    """Let the next operation have the memory that the last one freed; False where the C library has no say.

    glibc gives it back to the system, which makes every page anew, zeroed, when it is asked for again a
    moment later. A step of a small net does so hundreds of times (what that costs: docs/performance.md). Kept
    are 64 MiB for each thread that computes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((MMAP_THRESHOLD, LARGEST), (TOP_PAD, KEPT), (TRIM_THRESHOLD, 2**31 - 1))
    return all(mallopt(option, value) for option, value in settings)
