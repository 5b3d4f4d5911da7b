"""What a site tells the world: one JSON object per line."""

from __future__ import annotations

import sys
import uuid
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from types import TracebackType

SCHEMA_VERSION: Literal[1] = 1
EventKind = Literal[
    "sighting.started",
    "sighting.updated",
    "sighting.ended",
    "identity.created",
    "identity.merged",
    "identity.erased",
    "camera.up",
    "camera.down",
]


class Event(BaseModel, frozen=True, extra="forbid"):
    """One thing that happened; fields that do not apply are null."""

    schema_version: Literal[1] = SCHEMA_VERSION
    event_id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    """Unique over all runs and machines."""
    event: EventKind
    captured_at: str
    """UTC, ISO 8601: when the frame that caused it was captured."""
    camid: str | None = None
    track_id: int | None = None
    """Counts from 1 in each camera and run."""
    global_id: int | None = None
    """The identity across cameras; null while undecided."""
    similarity: float | None = None
    """Cosine to that identity when it was matched; null for a new one."""
    box: tuple[float, float, float, float] | None = None
    """x1, y1, x2, y2 in pixels of the camera's frame."""
    merged_from: int | None = None
    """identity.merged: the identity that is now part of `global_id`."""
    reason: str | None = None
    """camera.down: why, without secrets."""


def iso_time(seconds: float) -> str:
    """Seconds since the epoch as `2025-06-01T08:00:00.250Z`."""
    moment = datetime.fromtimestamp(seconds, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class EventWriter:
    """Appends events to a file, or to stdout for `-`; each line is flushed at once. Use it in a `with`."""

    def __init__(self, path: str | Path | None) -> None:
        self.path = path
        self.written = 0
        self._stack = ExitStack()
        self._file: TextIO | None = None

    def __enter__(self) -> EventWriter:
        if self.path is not None and str(self.path) == "-":
            self._file = sys.stdout
        elif self.path is not None:
            path = Path(self.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._stack.enter_context(path.open("a", encoding="utf-8"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file = None
        self._stack.close()

    def write(self, event: Event) -> None:
        """Write one event."""
        self.written += 1
        if self._file is not None:
            self._file.write(event.model_dump_json() + "\n")
            self._file.flush()
