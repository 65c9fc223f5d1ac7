"""What the two sides say to each other: the files of a run folder, Spec, Attempt, events, manifest.

Standard library only, so that reading it costs milliseconds on a laptop without keras. Everything here is
version 1 of the wire; `docs/design.md` states its rules.
"""

from trainer.contract.events import (
    AnyEvent,
    Dataset,
    Ended,
    Epoch,
    Event,
    Note,
    Saved,
    Started,
    Status,
    Unknown,
    decode,
    encode,
)
from trainer.contract.records import (
    EVENTS,
    Artifact,
    Attempt,
    Manifest,
    RunDir,
    Spec,
)
from trainer.contract.wire import (
    VERSION,
    ContractError,
    build,
    parse_object,
    publish,
    sync_folder,
    to_json,
)

__all__ = [
    "EVENTS",
    "VERSION",
    "AnyEvent",
    "Artifact",
    "Attempt",
    "ContractError",
    "Dataset",
    "Ended",
    "Epoch",
    "Event",
    "Manifest",
    "Note",
    "RunDir",
    "Saved",
    "Spec",
    "Started",
    "Status",
    "Unknown",
    "build",
    "decode",
    "encode",
    "parse_object",
    "publish",
    "sync_folder",
    "to_json",
]
