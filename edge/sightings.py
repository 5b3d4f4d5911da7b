"""From tracks to identities: gather evidence about each track, decide who it is, and check again at its end.

A sighting is one person passing one camera. It stays undecided until enough good pictures were embedded, because a
wrong early answer would be remembered. Two sightings that overlap in time, in one camera or in cameras that see
different places, are never the same identity.
"""

# D = embedding

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from reidge.edge.gallery import Gallery

REMEMBERED_SECONDS = 3600.0
"""How long ended sightings still forbid identities; later ones cannot overlap with anything live."""

CLOCK_SET_BACK = 60.0
"""Seconds by which tracks may end out of order before it is taken for a clock that was set back."""


class EvidenceConfig(BaseModel, frozen=True, extra="forbid"):
    """How much must be seen of a track, and when it is decided."""

    embeddings_per_second: float = Field(4.0, gt=0)
    """Pictures of a track that are embedded at most, per second."""
    embeddings_per_moment: int = Field(32, ge=1)
    """Pictures of all tracks that are embedded at most at once; in a crowd the others wait for the next moment."""
    min_embeddings: int = Field(6, ge=1)
    """Pictures before a track is matched with the gallery."""
    min_embeddings_new: int = Field(16, ge=1)
    """Pictures before a live track that matches nobody becomes a new identity; one that ends sooner becomes one then.

    A late answer is the better one: whoever seems new at first is often known once seen from another side.
    """
    min_embeddings_end: int = Field(1, ge=1)
    """Pictures that suffice for a decision when the track is over."""


@dataclass(slots=True, kw_only=True)
class Sighting:
    """One track with the evidence so far."""

    camid: str
    track_id: int
    started_at: float
    """Seconds since the epoch, UTC."""
    last_seen: float
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels where it was last seen."""
    global_id: int | None = None
    similarity: float | None = None
    """To the identity when it was matched; None for a new identity."""
    created: bool = False
    """Whether this sighting made its identity."""
    embeddings: int = 0
    last_embedded: float = -np.inf
    usual_sharpness: float | None = None
    """Of its pictures so far, smoothed."""
    last_told: float = -np.inf
    """When an event last spoke of it."""
    _sum_D: NDArray[np.float32] | None = field(default=None, repr=False)

    def add_evidence(self, embedding_D: NDArray[np.float32], weight: float) -> None:
        """Take in one more embedding; a better picture weighs more."""
        weighted_D = np.float32(weight) * embedding_D
        self._sum_D = weighted_D if self._sum_D is None else self._sum_D + weighted_D
        self.embeddings += 1

    def drop_evidence(self) -> None:
        """Free what is no longer needed once the track is decided for good."""
        self._sum_D = None

    @property
    def mean_D(self) -> NDArray[np.float32]:  # noqa: N802
        """Weighted mean of the embeddings, unit length."""
        assert self._sum_D is not None
        return np.asarray(self._sum_D / max(float(np.linalg.norm(self._sum_D)), 1e-9), dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a decision changed in the gallery or in a sighting."""

    kind: Literal["assigned", "created", "merged"]
    global_id: int
    """The identity that stands now."""
    merged_from: int | None = None
    """merged: the identity that was given up."""
    similarity: float | None = None


class SightingBook:
    """All sightings of a site, live and just ended, and the decisions about them."""

    def __init__(
        self, config: EvidenceConfig, gallery: Gallery, overlapping: Mapping[str, Collection[str]] | None = None
    ) -> None:
        self.config = config
        self.gallery = gallery
        self.live: dict[tuple[str, int], Sighting] = {}
        self.merged: dict[int, int] = {}
        """Identities that were given up, and what they became."""
        self.overlapping = overlapping or {}
        """Cameras that see part of what a camera sees."""
        self._ended: deque[Sighting] = deque()

    def wants(self, sighting: Sighting, now: float) -> bool:
        """Tell whether another picture of a track is due."""
        # A millisecond of tolerance: 4 per second of 10 fps must not become 3.3.
        return now - sighting.last_embedded >= 1 / self.config.embeddings_per_second - 1e-3

    def decide(self, sighting: Sighting, now: float) -> list[Change]:
        """Decide about a live track that is still undecided, when there is enough evidence."""
        if sighting.global_id is not None or sighting.embeddings < self.config.min_embeddings:
            return []
        match = self.gallery.match(sighting.mean_D, forbidden=self.forbidden(sighting))
        if match.global_id is not None:
            return [self._assign(sighting, match.global_id, match.similarity)]
        if sighting.embeddings < self.config.min_embeddings_new:
            return []
        return [self._create(sighting, now)]

    def end(self, sighting: Sighting, now: float) -> list[Change]:
        """Close a track: decide with all its evidence, remember it, and join identities that turn out the same."""
        del self.live[sighting.camid, sighting.track_id]
        self._remember(sighting, now)
        if sighting.embeddings < self.config.min_embeddings_end:
            return []
        changes = self._settle(sighting, now)
        assert sighting.global_id is not None
        if not sighting.created:
            self.gallery.enrol(sighting.mean_D, captured_at=now, global_id=sighting.global_id)
        sighting.drop_evidence()
        return changes + self._join(sighting.global_id)

    def final(self, global_id: int | None) -> int | None:
        """What an identity has become by merging."""
        while global_id in self.merged:
            global_id = self.merged[global_id]
        return global_id

    def _remember(self, sighting: Sighting, now: float) -> None:
        """Keep an ended track for the constraints it makes, as long as it can make any."""
        if self._ended and self._ended[-1].last_seen > now + CLOCK_SET_BACK:
            # By the old clock these are in the future, where they would forbid identities that are long gone.
            self._ended = deque(other for other in self._ended if other.last_seen <= now)
        self._ended.append(sighting)
        while self._ended[0].last_seen < now - REMEMBERED_SECONDS:
            self._ended.popleft()

    def forbidden(self, sighting: Sighting) -> set[int]:
        """Identities that a track cannot be, because they are or were elsewhere at the same time."""
        others = (other for other in (*self.live.values(), *self._ended) if other is not sighting)
        return {other.global_id for other in others if other.global_id is not None and self._apart(sighting, other)}

    def _settle(self, sighting: Sighting, now: float) -> list[Change]:
        """Decide for good. An identity made from half the evidence is replaced by one of the whole."""
        before, created = sighting.global_id, sighting.created
        forbidden = self.forbidden(sighting) | ({before} if created and before is not None else set())
        match = self.gallery.match(sighting.mean_D, forbidden=forbidden)
        if created:
            assert before is not None
            self.gallery.enrol(sighting.mean_D, captured_at=now, global_id=before)
            if match.global_id is None or not self._compatible(before, match.global_id):
                return []
            return [self._merge(kept=match.global_id, absorbed=before, similarity=match.similarity)]
        if match.global_id is None:
            return [self._create(sighting, now)]
        if match.global_id == before:
            sighting.similarity = match.similarity
            return []
        return [self._assign(sighting, match.global_id, match.similarity)]

    def _join(self, global_id: int) -> list[Change]:
        """Merge an identity with the one most like it, as long as there is one like enough; the older number stays."""
        changes: list[Change] = []
        while True:
            likeness = self.gallery.linkage(global_id).items()
            # Few are like enough; only for them is it worth looking through all sightings.
            near = {other: value for other, value in likeness if value >= self.gallery.config.min_similarity}
            allowed = {other: value for other, value in near.items() if self._compatible(global_id, other)}
            best = max(allowed, key=lambda other: allowed[other], default=None)
            if best is None:
                return changes
            kept, absorbed = sorted((global_id, best))
            changes.append(self._merge(kept=kept, absorbed=absorbed, similarity=allowed[best]))
            global_id = kept

    def _assign(self, sighting: Sighting, global_id: int, similarity: float) -> Change:
        sighting.global_id, sighting.similarity, sighting.created = global_id, similarity, False
        return Change(kind="assigned", global_id=global_id, similarity=similarity)

    def _create(self, sighting: Sighting, now: float) -> Change:
        sighting.global_id = self.gallery.enrol(sighting.mean_D, captured_at=now)
        sighting.similarity, sighting.created = None, True
        return Change(kind="created", global_id=sighting.global_id)

    def _merge(self, *, kept: int, absorbed: int, similarity: float) -> Change:
        self.gallery.merge(kept=kept, absorbed=absorbed)
        self.merged[absorbed] = kept
        for sighting in (*self.live.values(), *self._ended):
            if sighting.global_id == absorbed:
                sighting.global_id = kept
                sighting.similarity = similarity if sighting.similarity is None else sighting.similarity
        return Change(kind="merged", global_id=kept, merged_from=absorbed, similarity=similarity)

    def _compatible(self, one: int, other: int) -> bool:
        """Tell whether no sightings of two identities overlap in time where one person cannot be twice."""
        everyone = (*self.live.values(), *self._ended)
        of_one = [sighting for sighting in everyone if sighting.global_id == one]
        of_other = [sighting for sighting in everyone if sighting.global_id == other]
        return not any(self._apart(a, b) for a in of_one for b in of_other)

    def _apart(self, a: Sighting, b: Sighting) -> bool:
        """Tell whether two sightings must be different people."""
        together = a.started_at < b.last_seen and b.started_at < a.last_seen
        return together and (a.camid == b.camid or not self._may_see_the_same(a.camid, b.camid))

    def _may_see_the_same(self, one: str, other: str) -> bool:
        """Tell whether two cameras overlap; it suffices that one of them says so."""
        return other in self.overlapping.get(one, ()) or one in self.overlapping.get(other, ())
