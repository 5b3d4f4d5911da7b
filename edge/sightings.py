"""From tracks to identities: gather evidence about each track, and decide who is who among those of the last while.

A sighting is one person passing one camera. It stays undecided until it surely is somebody known, or until a second
sighting turns out to be the same person: somebody seen once is nobody yet. Decisions are made anew whenever a sighting
ends and every so often while it lasts, over all sightings that may have to do with it; an answer that stands gives way
only to a clearly better one. Two sightings that overlap in time, in one camera or in cameras that see different
places, are never the same identity.
"""

# D = embedding

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, Field

from reidge.edge.associate import associate
from reidge.edge.audit import PARTED, taken_apart
from reidge.edge.crops import encode_picture
from reidge.edge.errors import ReidgeError
from reidge.edge.records import SightingRow
from reidge.edge.ruling import Ruling
from reidge.edge.transit import Transits
from reidge.edge.window import HOLD, MOST_ONCE_SEEN, Window

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from numpy.typing import NDArray

    from reidge.edge.gallery import Gallery
    from reidge.edge.ruling import Change

ONCE_SEEN = """sighting_id IN (
    SELECT sighting_id FROM sightings
    WHERE global_id IS NULL AND embedding IS NOT NULL AND (ended_at < ? OR ended_at > ?)
    ORDER BY ended_at DESC LIMIT ?)"""
"""The newest sightings that are undecided and not of the last while."""
MERGED = "SELECT other_id, global_id FROM history WHERE action = 'merge' AND undone_at IS NULL ORDER BY history_id"

RESUME_AGAIN = 30.0
"""Seconds after which the sightings of before are asked for again, where the file could not be read."""

log = logging.getLogger(__name__)

Box = tuple[float, float, float, float]


class EvidenceConfig(BaseModel, frozen=True, extra="forbid"):
    """How much must be seen of a track, and when it is decided."""

    embeddings_per_second: float = Field(4.0, gt=0)
    """Pictures of a track that are embedded at most, per second."""
    embeddings_per_moment: int = Field(32, ge=1)
    """Pictures of all tracks that are embedded at most at once; in a crowd the others wait for the next moment."""
    min_embeddings: int = Field(6, ge=1)
    """Pictures before a live track is compared with others."""
    min_embeddings_new: int = Field(16, ge=1)
    """Pictures before a live track that is like nobody becomes a new identity, where one sighting suffices for one.

    A late answer is the better one: whoever seems new at first is often known once seen from another side.
    """
    min_embeddings_end: int = Field(3, ge=1)
    """Pictures that suffice for a decision when the track is over; what is seen for a moment is often no person."""
    min_sightings: int = Field(2, ge=1, le=2)
    """Sightings of one person before there is an identity; with 1 everybody is somebody at once."""
    decide_every: float = Field(2.0, gt=0)
    """Seconds between decisions about a track while it lasts."""
    window: float = Field(900.0, gt=0)
    """Seconds over which a sighting that is over may still be decided anew."""


@dataclass(slots=True, kw_only=True, eq=False)
class Sighting:
    """One track with the evidence so far."""

    camid: str
    track_id: int
    started_at: float
    """Seconds since the epoch, UTC."""
    last_seen: float
    box: Box
    """x1, y1, x2, y2 in pixels where it was last seen."""
    first_box: Box = (0.0, 0.0, 0.0, 0.0)
    """Where it was first seen; `box` where that is not said."""
    global_id: int | None = None
    similarity: float | None = None
    """To the identity when it was matched; None for the first of an identity."""
    embeddings: int = 0
    last_embedded: float = -np.inf
    usual_sharpness: float | None = None
    """Of its pictures so far, smoothed."""
    last_told: float = -np.inf
    """When an event last spoke of it."""
    decided_at: float = -np.inf
    """When it was last decided about."""
    earlier: bool = False
    """Whether it is of an earlier run; where it was in the picture is not known any more."""
    sighting_id: int = 0
    """In the gallery, once it is over."""
    exemplar: bool = False
    """Whether the gallery has its embedding as an exemplar."""
    stand_in: int = 0
    """The exemplar that was made of it before it was over, by number."""
    picture_HW3: NDArray[np.uint8] | None = field(default=None, repr=False)
    """The best one so far, where pictures are kept, ..."""
    picture_worth: float = 0.0
    """... and how good it is."""
    candidates: list[tuple[int, float]] = field(default_factory=list, repr=False)
    """Identities it is most like, and how much, ..."""
    searched_with: int = 0
    """... when it had so many embeddings."""
    _sum_D: NDArray[np.float32] | None = field(default=None, repr=False)
    _mean_D: NDArray[np.float32] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not any(self.first_box):
            self.first_box = self.box

    def add_evidence(self, embedding_D: NDArray[np.float32], weight: float) -> None:
        """Take in one more embedding; a better picture weighs more."""
        weighted_D = np.float32(weight) * embedding_D
        self._sum_D = weighted_D if self._sum_D is None else self._sum_D + weighted_D
        self._mean_D = None
        self.embeddings += 1

    def keep_picture(self, crop_HW3: NDArray[np.uint8], weight: float) -> None:
        """Keep a picture where it is the best one so far, large and sure; a copy, since crops are views of frames."""
        worth = weight * crop_HW3.shape[0]
        if worth > self.picture_worth:
            self.picture_worth, self.picture_HW3 = worth, crop_HW3.copy()

    def drop_evidence(self) -> None:
        """Free what is no longer needed once the track is decided for good."""
        self._sum_D = self._mean_D = None

    @property
    def mean_D(self) -> NDArray[np.float32]:  # noqa: N802
        """Weighted mean of the embeddings, unit length."""
        if self._mean_D is None:
            assert self._sum_D is not None
            norm = max(float(np.linalg.norm(self._sum_D)), 1e-9)
            self._mean_D = np.asarray(self._sum_D / norm, dtype=np.float32)
        return self._mean_D

    @classmethod
    def from_row(cls, row: SightingRow) -> Sighting:
        """Take up a sighting again that the gallery has kept."""
        return cls(
            camid=row.camid,
            track_id=row.track_id,
            started_at=row.started_at,
            last_seen=row.ended_at,
            box=(0.0, 0.0, 0.0, 0.0),
            global_id=row.global_id,
            similarity=row.similarity,
            embeddings=0 if row.embedding_D is None else max(row.pictures, 1),
            earlier=True,
            sighting_id=row.sighting_id,
            exemplar=row.global_id is not None,
            _sum_D=row.embedding_D,
        )


class SightingBook:
    """All sightings of a site, live and just ended, and the decisions about them."""

    def __init__(
        self,
        config: EvidenceConfig,
        gallery: Gallery,
        overlapping: Mapping[str, Collection[str]] | None = None,
        *,
        transits: Transits | None = None,
    ) -> None:
        self.config = config
        self.gallery = gallery
        self.live: dict[tuple[str, int], Sighting] = {}
        self.merged: dict[int, int] = {}
        """Identities that were given up, and what they became."""
        self.bars = gallery.bars
        self.window = Window(gallery, transits or Transits())
        self.overlapping = overlapping or {}
        self._resumed = False
        self._resume_tried_at = -np.inf
        self._began_at: float | None = None

    @property
    def overlapping(self) -> Mapping[str, Collection[str]]:
        """Cameras that see part of what a camera sees."""
        return self.window.overlapping

    @overlapping.setter
    def overlapping(self, cameras: Mapping[str, Collection[str]]) -> None:
        self.window.overlapping = cameras

    @property
    def bar(self) -> float:
        """Least value at which two sightings are one person, with so many people known."""
        return self.bars.at(len(self.gallery) + len(self.window.once_seen))

    @property
    def in_view(self) -> set[int]:
        """Identities of people who are seen at this moment."""
        return {sighting.global_id for sighting in self.live.values() if sighting.global_id is not None}

    def wants(self, sighting: Sighting, now: float) -> bool:
        """Tell whether another picture of a track is due."""
        # A millisecond of tolerance: 4 per second of 10 fps must not become 3.3.
        return now - sighting.last_embedded >= 1 / self.config.embeddings_per_second - 1e-3

    def decide(self, sighting: Sighting, now: float) -> list[Change]:
        """Decide about a live track when it has just enough evidence, and every so often from then on."""
        enough = (self.config.min_embeddings, self.config.min_embeddings_new)
        due = sighting.embeddings in enough or now - sighting.decided_at >= self.config.decide_every
        if sighting.embeddings < self.config.min_embeddings or not due:
            return []
        self._begin(sighting, now)
        sighting.decided_at = now
        return list(self._answer(sighting))

    def end(self, sighting: Sighting, now: float) -> list[Change]:
        """Close a track: keep it in the gallery, and decide with all its evidence."""
        self._begin(sighting, now)
        del self.live[sighting.camid, sighting.track_id]
        enough = sighting.embeddings >= self.config.min_embeddings_end
        if not enough:
            sighting.embeddings = 0
        self._record(sighting)
        self.window.remember(sighting, now=now, seconds=self.config.window)
        if not enough or sighting not in self.window.ended:
            return []
        changes = list(self._answer(sighting))
        self._learn(sighting)
        return changes

    def final(self, global_id: int | None) -> int | None:
        """What an identity has become by merging."""
        while global_id in self.merged:
            global_id = self.merged[global_id]
        return global_id

    def _begin(self, sighting: Sighting, now: float) -> None:
        """Go on from before, once it is known when now is: recordings have a time of their own."""
        if self._resumed or abs(now - self._resume_tried_at) < RESUME_AGAIN:
            return
        self._resume_tried_at = now
        try:
            if self._began_at is None:
                self._began_at = sighting.started_at
            self.gallery.wait()  # whoever was forgotten since the start is to be gone from the file too
            self.resume(self._began_at)
        except ReidgeError as error:
            log.warning("whom this site saw before cannot be read, and is asked for again in a while: %s", error)
        else:
            self._resumed = True

    def resume(self, now: float) -> None:
        """Go on from what the gallery kept: the sightings of the last while, and people seen once.

        Raises:
            ReidgeError: The file cannot be read; everything is as before then.
        """
        became = dict(self.gallery.store.read(MERGED))
        pairs = taken_apart(self.gallery.store.read(PARTED))
        since = now - self.config.window
        undecided = self.gallery.store.sightings(ONCE_SEEN, (since, now, MOST_ONCE_SEEN))
        recent = self.gallery.sightings(since=since, until=now)
        for pair in pairs:
            two = frozenset(_followed(number, became) for number in pair)
            self.window.taken_apart |= {two} if len(two) > 1 else set()
        newer = list(self.window.ended)
        known = {sighting.sighting_id for sighting in newer} | self.window.once_seen.keys()
        self.window.ended.clear()
        for row in undecided:
            if row.sighting_id not in known:
                self.window.set_aside(Sighting.from_row(row))
        for row in recent:
            if row.sighting_id not in known:
                sighting = Sighting.from_row(row)
                self.window.remember(sighting, now=row.ended_at, seconds=self.config.window)
                if sighting.embeddings:
                    self._learn(sighting)
        for sighting in newer:
            self.window.remember(sighting, now=sighting.last_seen, seconds=self.config.window)

    def forget(self, global_id: int) -> None:
        """Let go of an identity that is to be erased; who is in view is decided about anew."""
        self.window.forget(global_id)
        for sighting in self.live.values():
            if sighting.global_id == global_id:
                sighting.global_id = sighting.similarity = None
                sighting.exemplar = False

    def forget_sightings(self, sighting_ids: Collection[int]) -> None:
        """Let go of sightings that are over and were erased."""
        self.window.forget_sightings(set(sighting_ids))

    def part(self, made: int, before: int, *, sighting_ids: Collection[int]) -> list[Sighting]:
        """Take in that a user made another identity of some sightings, which it stays; returns those of late."""
        self.window.changed()
        self.merged.pop(made, None)
        self.window.taken_apart.add(frozenset((made, before)))
        moved = [sighting for sighting in self.window.ended if sighting.sighting_id in sighting_ids]
        for sighting in moved:
            sighting.global_id = made
        return moved

    def adopt(self, *, kept: int, absorbed: int) -> None:
        """Take in that two identities were merged."""
        self.window.changed()
        self.merged[absorbed] = kept
        parted = [pair for pair in self.window.taken_apart if absorbed in pair and kept not in pair]
        self.window.taken_apart |= {pair - {absorbed} | {kept} for pair in parted}
        for sighting in self._everyone():
            if sighting.global_id == absorbed:
                sighting.global_id = kept

    def _everyone(self) -> Iterator[Sighting]:
        yield from self.live.values()
        yield from self.window.ended

    def _record(self, sighting: Sighting) -> None:
        """Keep a sighting that is over, and what it looked like if it is known who it was."""
        mean_D = sighting.mean_D if sighting.embeddings else None
        sighting.sighting_id = self.gallery.record(
            SightingRow(
                camid=sighting.camid,
                track_id=sighting.track_id,
                started_at=sighting.started_at,
                ended_at=sighting.last_seen,
                global_id=sighting.global_id,
                similarity=sighting.similarity,
                pictures=sighting.embeddings,
                embedding_D=mean_D,
            ),
            crop=None if sighting.picture_HW3 is None else encode_picture(sighting.picture_HW3),
        )
        sighting.picture_HW3 = None
        if sighting.global_id is not None:
            self.window.changed(sighting.global_id)
            self.enrol(sighting, sighting.global_id)
        if sighting.stand_in:  # only now: a kill in between must not leave an identity that nobody is recognised by
            self.gallery.let_go(sighting.stand_in)
            sighting.stand_in = 0

    def enrol(self, sighting: Sighting, global_id: int | None) -> int:
        """Make an exemplar of a sighting, of a known identity or a new one; before it is over, of a new one alone."""
        if not sighting.sighting_id:
            if global_id is None:
                # Of no quality: where there are too many exemplars, it gives way to the sighting that it stands in for.
                begun = self.gallery.begin(sighting.mean_D, at=sighting.last_seen, quality=0.0)
                global_id, sighting.stand_in = begun
            return global_id
        sighting.exemplar = True
        return self.gallery.enrol(
            sighting.mean_D,
            captured_at=sighting.last_seen,
            global_id=global_id,
            quality=float(sighting.embeddings),
            sighting_id=sighting.sighting_id,
        )

    def _answer(self, focus: Sighting) -> Iterator[Change]:
        """Decide about a sighting and all others that it may have to do with."""
        live = [s for s in self.live.values() if s.embeddings >= self.config.min_embeddings or s is focus]
        bar = self.bar
        question = self.window.ask(focus, [s for s in live if s is not focus], bar)
        groups = associate(question.evidence, bar=bar, lead=HOLD * self.bars.decay)
        yield from Ruling(self, question, groups, focus).changes()

    def _learn(self, sighting: Sighting) -> None:
        """Learn from how people go about, where likeness alone leaves no doubt who came."""
        passed: dict[object, list[Sighting]] = {}
        for other in self.window.ended:
            if other is not sighting and other.embeddings and other.last_seen <= sighting.started_at:
                passed.setdefault(other if other.global_id is None else other.global_id, []).append(other)
        rivals = [max(group, key=lambda s: s.last_seen) for group in passed.values()]
        means = [float(np.mean([sighting.mean_D @ s.mean_D for s in group])) for group in passed.values()]
        away = [(g, value) for g, value in sighting.candidates if g not in passed and g != sighting.global_id]
        values = np.array(means + ([max(value for _, value in away)] if away else []))
        chosen: list[int] = []
        if len(values):
            best = int(values.argmax())
            lead = values[best] - np.max(np.delete(values, best), initial=-1.0)
            if values[best] >= self.bar and lead >= self.bars.decay:
                chosen = [best if best < len(rivals) else -1]
        known = sum(isinstance(key, int) for key in passed)
        others = max(len(self.gallery) - known, 0) + len(self.window.once_seen)
        self.window.transits.learn(sighting, rivals, chosen, others=others)


def _followed(global_id: int, became: Mapping[int, int]) -> int:
    """What an identity is part of by now."""
    while global_id in became:
        global_id = became[global_id]
    return global_id
