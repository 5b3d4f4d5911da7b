"""What a site tells the world: one JSON object per line."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from typing import Literal

from pydantic import BaseModel, Field

SCHEMA_VERSION: Literal[1] = 1
EventKind = Literal[
    "sighting.started",
    "sighting.updated",
    "sighting.ended",
    "sighting.decided",
    "identity.created",
    "identity.merged",
    "identity.split",
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
    sighting_id: int | None = None
    """The track's number in the gallery, over all runs; null until it is over and recorded."""
    global_id: int | None = None
    """The identity across cameras; null while undecided."""
    similarity: float | None = None
    """Cosine to that identity when it was matched; null for a new one."""
    box: tuple[float, float, float, float] | None = None
    """x1, y1, x2, y2 in pixels of the camera's frame; null for a track of an earlier run."""
    merged_from: int | None = None
    """identity.merged: the identity that is now part of `global_id`."""
    split_from: int | None = None
    """identity.split: the identity that the sightings of `global_id` were taken for before."""
    reason: str | None = None
    """camera.down: why, without secrets; identity.erased: `erase` by a user, `retain` by the retention."""


def iso_time(seconds: float) -> str:
    """Seconds since the epoch as `2025-06-01T08:00:00.250Z`."""
    moment = datetime.fromtimestamp(seconds, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
