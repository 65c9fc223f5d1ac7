"""Any Keras console log to the events that our own runs write: bytes, segments, marks, fits.

A log is prose, written for people by Keras 1, 2 or 3. What passes from module to module:

    bytes      -> `segments`  what stood on the terminal between two breaks: new line, return, backspaces
    segment    -> `lines`     a Mark: the head of an epoch, a bar, a message, the end of a program
    marks      -> `fits`      events, and each call of fit() with the Progress that they fold to

`Reader` is all of it. It is fed bytes in whatever pieces they come, and the pieces never show.
"""

from orchestrator.keras_log.fit import Fit
from orchestrator.keras_log.reader import Reader

__all__ = ["Fit", "Reader"]
