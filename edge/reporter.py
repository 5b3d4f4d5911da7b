"""What the world is told about sightings, identities and cameras, in the order in which it happened."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from reidge.edge.events import Event, iso_time

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reidge.edge.events import EventKind
    from reidge.edge.holdback import Holdback
    from reidge.edge.mailbox import CameraState
    from reidge.edge.ruling import Change
    from reidge.edge.sightings import Sighting


class Sink(Protocol):
    """Takes events; never blocks, never raises."""

    written: int

    def write(self, event: Event) -> None:
        """Take one event."""


class Reporter:
    """Turns decisions into events. They wait here until `emit`, so that deciding is not interrupted by telling."""

    def __init__(self, holdback: Holdback, *, updates_every: float) -> None:
        self.updates_every = updates_every
        self.sightings = 0
        """Started so far."""
        self.undecided = 0
        """Over, and nobody's by now; of this run."""
        self._holdback = holdback
        self._waiting: list[Event] = []
        self._known: set[int] = set()

    @property
    def written(self) -> int:
        """Events so far."""
        return self._holdback.written

    def identities(self, live: Iterable[Sighting]) -> int:
        """Different identities seen so far, those of live tracks included."""
        return len(self._known | {sighting.global_id for sighting in live if sighting.global_id is not None})

    def started(self, sighting: Sighting) -> None:
        """A track was confirmed."""
        self.sightings += 1
        self._say("sighting.started", sighting)

    def ended(self, sighting: Sighting) -> None:
        """A track is over; who it was may still be decided."""
        if sighting.global_id is None:
            self.undecided += 1
        else:
            self._known.add(sighting.global_id)
        self._say("sighting.ended", sighting)

    def changed(self, changes: Iterable[Change]) -> None:
        """Decisions were made."""
        for change in changes:
            sighting = change.sighting
            if change.kind == "assigned":
                sighting.last_told = -1.0  # say at once who it is
            elif change.kind == "decided":
                self._decided(change)
            elif change.kind == "created":
                self._say("identity.created", sighting, global_id=change.global_id, similarity=None)
            elif change.kind == "split":
                self._say(
                    "identity.split",
                    sighting,
                    global_id=change.global_id,
                    similarity=None,
                    split_from=change.split_from,
                )
            else:
                self._merged(change)

    def _decided(self, change: Change) -> None:
        """A track that is over has another answer."""
        if change.global_id is not None:
            self._known.add(change.global_id)
        if not change.sighting.earlier:
            self.undecided += (change.global_id is None) - (change.before is None)
        told = change.sighting.last_told
        self._say("sighting.decided", change.sighting, global_id=change.global_id, similarity=change.similarity)
        change.sighting.last_told = told

    def _merged(self, change: Change) -> None:
        assert change.global_id is not None
        assert change.merged_from is not None
        if change.merged_from in self._known:
            self._known.remove(change.merged_from)
            self._known.add(change.global_id)
        self._say(
            "identity.merged",
            change.sighting,
            global_id=change.global_id,
            merged_from=change.merged_from,
            similarity=change.similarity,
        )

    def identity(self, kind: EventKind, global_id: int, **other: object) -> None:
        """An identity was changed by hand, or forgotten."""
        merged_from = other.get("merged_from")
        if kind == "identity.erased":
            self._known.discard(global_id)
        elif isinstance(merged_from, int) and merged_from in self._known:
            self._known.remove(merged_from)
            self._known.add(global_id)
        values = {"event": kind, "captured_at": iso_time(time.time()), "global_id": global_id, **other}
        self._waiting.append(Event.model_validate(values))

    def repeat(self, sightings: Iterable[Sighting]) -> None:
        """Say again where people are, every so often and whenever the answer changed."""
        for sighting in sightings:
            if sighting.last_seen - sighting.last_told >= self.updates_every:
                self._say("sighting.updated", sighting)

    def camera(self, state: CameraState) -> None:
        """A camera came up or went down."""
        self._waiting.append(
            Event(
                event="camera.up" if state.up else "camera.down",
                captured_at=iso_time(state.at),
                camid=state.camid,
                reason=state.reason or None,
            )
        )

    def emit(self, *, at_once: bool = False) -> set[str]:
        """Hand on what waits, once the gallery's file says it too, or at once; returns the cameras it was about."""
        events, self._waiting = self._waiting, []
        for event in events:
            self._holdback.write(event)
        return self._holdback.release(at_once=at_once)

    def _say(self, kind: EventKind, sighting: Sighting, **other: object) -> None:
        known = {"global_id": sighting.global_id, "similarity": sighting.similarity} | other
        self._waiting.append(
            Event.model_validate(
                {
                    "event": kind,
                    "captured_at": iso_time(sighting.last_seen),
                    "camid": sighting.camid,
                    "track_id": sighting.track_id,
                    "sighting_id": sighting.sighting_id or None,
                    "box": None if sighting.earlier else sighting.box,
                    **known,
                }
            )
        )
        sighting.last_told = sighting.last_seen
