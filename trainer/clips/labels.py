"""The one table of emotions, and how strings and file names of the corpora become labels and speakers.

File names: RAVDESS https://zenodo.org/records/1188976 (seven two-digit fields, the third is the emotion, the
last the actor), CREMA-D https://github.com/CheyneyComputerScience/CREMA-D (speaker, sentence, emotion,
level). Standard library only.
"""

from __future__ import annotations

import re
from typing import NamedTuple

EMOTIONS = ("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised")

RAVDESS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
CREMA_D = {
    "ANG": "angry",
    "DIS": "disgust",
    "FEA": "fearful",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}

# Numbers alone ("05") are no spelling: corpora number their emotions differently.
_SPELLINGS = {
    "angry": ("anger", "ang", "mad"),
    "calm": ("cal", "calmness"),
    "disgust": ("disgusted", "dis"),
    "fearful": ("fear", "fea", "afraid", "scared"),
    "happy": ("happiness", "hap", "joy", "joyful"),
    "neutral": ("neu", "neutrality"),
    "sad": ("sadness",),
    "surprised": ("surprise", "sur", "pleasant_surprise"),
}
_TABLE = {word: name for name, others in _SPELLINGS.items() for word in (name, *others)}

_RAVDESS_NAME = re.compile(r"(?:ravdess_)?\d\d-\d\d-(?P<emotion>\d\d)-\d\d-\d\d-\d\d-(?P<speaker>\d\d)")
_CREMA_D_NAME = re.compile(r"(?:cremad_)?(?P<speaker>\d{4})_[A-Z]{3}_(?P<emotion>[A-Z]{3})_[A-Z]{2}", re.I)


class Named(NamedTuple):
    """What a file name says; a part is None where it says nothing, or nothing known."""

    label: str | None
    speaker: str | None


def canonical(word: str) -> str | None:
    """The table's name for an emotion as somebody spelt it; None when the table has no such word."""
    return _TABLE.get(word.strip().casefold().replace(" ", "_"))


def from_file_name(stem: str) -> Named:
    """Label and speaker by the conventions of the two corpora, with or without the corpus as a prefix.

    Directories are never asked: a folder's name says where a file lies, not what is heard in it.
    """
    if match := _RAVDESS_NAME.fullmatch(stem):
        return Named(RAVDESS.get(match["emotion"]), f"ravdess-{match['speaker']}")
    if match := _CREMA_D_NAME.fullmatch(stem):
        return Named(CREMA_D.get(match["emotion"].upper()), f"crema-{match['speaker']}")
    return Named(None, None)
