"""The sightings about which is still decided: those of the last while, and once-seen people from before."""

# N = nodes, A = identities from longer ago, W = sightings of the window, S = of these beside a question, D = embedding

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reidge.edge.associate import TIME_WEIGHT, Evidence
from reidge.edge.errors import ReidgeError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from reidge.edge.gallery import Gallery
    from reidge.edge.sightings import Sighting
    from reidge.edge.transit import Transits

MOST_SIGHTINGS = 512
"""Of the window; in a crowd it is shorter."""
MOST_ONCE_SEEN = 4096
"""Sightings of people seen once, from before the window, that are kept in memory; the newest."""
MOST_TOGETHER = 96
"""Sightings of the window decided about at once, the nearest first; and so many of people seen once before it, and so
many identities that these are like. Bounds the time a decision takes."""
MOST_IDENTITIES = 8
"""Identities from longer ago that are looked at for each sighting."""
CLOCK_SET_BACK = 60.0
"""Seconds by which tracks may end out of order before it is taken for a clock that was set back."""
PASSINGS = "SELECT camid, started_at, ended_at FROM sightings WHERE global_id = ? ORDER BY ended_at DESC LIMIT 300"
NEAR = 0.5
"""Decays of similarity below the bar down to which a sighting may have to do with another."""
HOLD = 0.5
"""Decays of similarity by which a new answer must be better than the one that stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """An identity by what was remembered of it before the window."""

    global_id: int
    enrolled: bool
    """Whether the user gave images of it."""
    embeddings_KD: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Sightings that may be one person or another, and identities they may be."""

    anchors: tuple[Anchor, ...]
    sightings: tuple[Sighting, ...]
    """In order of time; they are the nodes after the anchors."""
    likeness_NN: NDArray[np.float64]
    """Similarity of each pair of nodes, before anything speaks for or against them."""
    evidence: Evidence


class Passing(NamedTuple):
    """When and where somebody was."""

    camid: str
    started_at: float
    last_seen: float


class Window:
    """What was seen of late, and what it may have to do with each other."""

    def __init__(self, gallery: Gallery, transits: Transits) -> None:
        self.gallery, self.bars, self.transits = gallery, gallery.bars, transits
        self.overlapping: Mapping[str, Collection[str]] = {}
        """Cameras that see part of what a camera sees."""
        self.ended: deque[Sighting] = deque()
        self.once_seen: dict[int, Sighting] = {}
        """Undecided ones from before the window, by sighting_id."""
        self.taken_apart: set[frozenset[int]] = set()
        """Pairs of identities that a user took apart; they stay two."""
        self._once_seen_OD: NDArray[np.float32] | None = None
        self._met: dict[tuple[int, int], bool] = {}

    def apart(self, some: Sequence[Sighting | Passing], others: Sequence[Sighting | Passing]) -> NDArray[np.bool_]:
        """Tell who must be different people: in view at once where one person cannot be twice, `(len, len)`."""
        (start_P, end_P), (start_Q, end_Q) = _spans(some), _spans(others)
        together_PQ = (start_P[:, None] < end_Q[None]) & (start_Q[None] < end_P[:, None])
        cameras = sorted({sighting.camid for sighting in (*some, *others)})
        exclude_CC = np.array([[a == b or not self._may_see_the_same(a, b) for b in cameras] for a in cameras])
        row_P, row_Q = ([cameras.index(sighting.camid) for sighting in group] for group in (some, others))
        return np.asarray(together_PQ & exclude_CC[np.ix_(row_P, row_Q)])

    def _may_see_the_same(self, one: str, other: str) -> bool:
        """Tell whether two cameras overlap; it suffices that one of them says so."""
        return other in self.overlapping.get(one, ()) or one in self.overlapping.get(other, ())

    def remember(self, sighting: Sighting, *, now: float, seconds: float) -> None:
        """Take in a sighting that is over, and let go of those that are too long ago."""
        if self.ended and self.ended[-1].last_seen > now + CLOCK_SET_BACK:
            # By the old clock these are in the future, where they would forbid identities that are long gone.
            for other in [other for other in self.ended if other.last_seen > now]:
                self._let_go(other)
            self.ended = deque(other for other in self.ended if other.last_seen <= now)
        self.ended.append(sighting)
        while self.ended[0].last_seen < now - seconds or len(self.ended) > MOST_SIGHTINGS:
            self._let_go(self.ended.popleft())

    def _let_go(self, sighting: Sighting) -> None:
        """Keep of a sighting what may still be asked for: who was seen once may come again."""
        if sighting.global_id is None and sighting.sighting_id and sighting.embeddings:
            self.set_aside(sighting)
        else:
            sighting.drop_evidence()

    def set_aside(self, sighting: Sighting) -> None:
        """Keep somebody who was seen once."""
        self.once_seen[sighting.sighting_id] = sighting
        self._once_seen_OD = None
        while len(self.once_seen) > MOST_ONCE_SEEN:
            del self.once_seen[next(iter(self.once_seen))]

    def recall(self, sighting: Sighting) -> None:
        """Take in that somebody who was seen once is known by now."""
        if self.once_seen.pop(sighting.sighting_id, None) is not None:
            self._once_seen_OD = None

    def forget(self, global_id: int) -> None:
        """Let go of all sightings of an identity that is to be forgotten."""
        self.ended = deque(sighting for sighting in self.ended if sighting.global_id != global_id)

    def forget_sightings(self, sighting_ids: Collection[int]) -> None:
        """Let go of some sightings that are over."""
        self.ended = deque(sighting for sighting in self.ended if sighting.sighting_id not in sighting_ids)
        for sighting_id in self.once_seen.keys() & set(sighting_ids):
            del self.once_seen[sighting_id]
            self._once_seen_OD = None

    def ask(self, focus: Sighting, live: Sequence[Sighting], bar: float) -> Question:
        """Gather what a sighting may have to do with: sightings near it, sightings near those, and their identities."""
        pool = [s for s in (*self.ended, *live) if s.embeddings and s is not focus] + [focus]
        for sighting in pool:
            if sighting.global_id is not None and sighting.global_id not in self.gallery:
                sighting.global_id = sighting.similarity = None  # erased meanwhile
        pool.sort(key=lambda sighting: (sighting.started_at, sighting is focus))
        means_WD = np.stack([sighting.mean_D for sighting in pool])
        nodes = self._neighbourhood(pool.index(focus), pool, means_WD, bar)
        chosen = [pool[node] for node in nodes]
        before = self._once_seen_like(means_WD[nodes], bar)
        sightings = (*before, *chosen)
        asked = set(map(id, sightings))
        beside = [sighting for sighting in (*self.ended, *live) if id(sighting) not in asked]
        return self._weigh(sightings, self._anchors(sightings, bar), beside)

    def _neighbourhood(
        self,
        start: int,
        pool: Sequence[Sighting],
        means_WD: NDArray[np.float32],
        bar: float,
    ) -> list[int]:
        """Follow likeness from one sighting, the nearest first; returns the rows in order of time."""
        least = bar - NEAR * self.bars.decay
        identities_W = np.array([-1 if s.global_id is None else s.global_id for s in pool])
        own = [start] if identities_W[start] < 0 else np.flatnonzero(identities_W == identities_W[start]).tolist()
        reached, edge = set(own), list(own)
        while edge and len(reached) < MOST_TOGETHER:
            row = edge.pop(0)
            one = [pool[row]]
            transit_W = np.maximum(self.transits.evidence(one, pool)[0], self.transits.evidence(pool, one)[:, 0])
            value_W = means_WD @ means_WD[row] + TIME_WEIGHT * self.bars.decay * transit_W
            near = np.flatnonzero(value_W >= least)
            for other in near[np.argsort(-value_W[near])].tolist():
                if other not in reached and len(reached) < MOST_TOGETHER:
                    # An identity is asked about as a whole: part of it could be where the rest cannot.
                    whole = [other] if identities_W[other] < 0 else np.flatnonzero(identities_W == identities_W[other])
                    edge += [int(member) for member in whole if member not in reached]
                    reached.update(int(member) for member in whole)
        return sorted(reached)

    def _once_seen_like(self, means_ND: NDArray[np.float32], bar: float) -> list[Sighting]:
        """Once-seen people from before the window who are like any of these, the nearest of them."""
        if not self.once_seen:
            return []
        everyone = list(self.once_seen.values())
        if self._once_seen_OD is None:
            self._once_seen_OD = np.stack([sighting.mean_D for sighting in everyone])
        nearest_O = (self._once_seen_OD @ means_ND.T).max(axis=1)
        near = np.flatnonzero(nearest_O >= bar - NEAR * self.bars.decay)
        nearest = near[np.argsort(-nearest_O[near], kind="stable")[:MOST_TOGETHER]]
        return [everyone[row] for row in sorted(nearest.tolist())]

    def _anchors(self, sightings: Sequence[Sighting], bar: float) -> list[Anchor]:
        """The identities that sightings are like or are, by what is remembered besides these sightings."""
        least = bar - NEAR * self.bars.decay
        own = {sighting.global_id for sighting in sightings if sighting.global_id is not None}
        alike: dict[int, float] = {}
        for sighting in sightings:
            for global_id, similarity in self._candidates(sighting, least):
                alike[global_id] = max(similarity, alike.get(global_id, -1.0))
        others = sorted(alike.keys() - own, key=lambda global_id: (-alike[global_id], global_id))[:MOST_TOGETHER]
        present = {sighting.sighting_id for sighting in sightings if sighting.sighting_id}
        stand_ins = {sighting.stand_in for sighting in sightings}
        anchors = []
        for global_id in sorted((*own, *others)):
            known = self.gallery.exemplars(global_id)
            old = [e for e in known if e.sighting_id not in present and e.exemplar_id not in stand_ins]
            if old:
                embeddings_KD = np.stack([exemplar.embedding_D for exemplar in old])
                enrolled = any(exemplar.enrolled for exemplar in old)
                anchors.append(Anchor(global_id=global_id, enrolled=enrolled, embeddings_KD=embeddings_KD))
        return anchors

    def _candidates(self, sighting: Sighting, least: float) -> list[tuple[int, float]]:
        """Identities a sighting is like, and how much; searched for anew when much more is known of it."""
        if sighting.embeddings >= 1.5 * sighting.searched_with:
            found = self.gallery.nearest(sighting.mean_D, limit=MOST_IDENTITIES)
            sighting.candidates = [(candidate.global_id, candidate.similarity) for candidate in found]
            sighting.searched_with = sighting.embeddings
        return [
            (global_id, similarity)
            for global_id, similarity in sighting.candidates
            if similarity >= least and global_id in self.gallery
        ]

    def _weigh(self, sightings: Sequence[Sighting], anchors: Sequence[Anchor], beside: Sequence[Sighting]) -> Question:
        """Put everything that is known into the evidence about a question."""
        first = len(anchors)
        count = first + len(sightings)
        means_ND = np.stack([sighting.mean_D for sighting in sightings])
        similarity_NN = np.eye(count)
        similarity_NN[first:, first:] = means_ND @ means_ND.T
        if anchors:  # the mean over all pairs of exemplars of two identities is the product of their means
            anchors_AD = np.stack([anchor.embeddings_KD.mean(axis=0) for anchor in anchors])
            similarity_NN[:first, :first] = anchors_AD @ anchors_AD.T
            np.fill_diagonal(similarity_NN, 1.0)
        for row, anchor in enumerate(anchors):
            similarity_NN[row, first:] = similarity_NN[first:, row] = self._likeness(anchor, means_ND)
        likeness_NN = similarity_NN.copy()
        for row, anchor in enumerate(anchors):
            similarity_NN[row, first:] += self.bars.enrolled_lead * anchor.enrolled
            similarity_NN[first:, row] += self.bars.enrolled_lead * anchor.enrolled
        ids_N = np.array([a.global_id for a in anchors] + [s.global_id or -1 for s in sightings])
        held_NN = (ids_N[:, None] == ids_N[None]) & (ids_N >= 0)[None]
        similarity_NN += HOLD * self.bars.decay * held_NN
        transit_NN = np.zeros((count, count))
        transit_NN[first:, first:] = self.transits.evidence(sightings, sightings)
        transit_NN[:first, first:] = self.transits.evidence_long(sightings)
        usual = self.gallery.config.nearest
        weights = [*(min(len(anchor.embeddings_KD), usual) for anchor in anchors), *[1] * len(sightings)]
        evidence = Evidence(
            similarity_NN=similarity_NN,
            weight_N=np.array(weights, dtype=np.float64),
            transit_NN=np.triu(transit_NN, 1),
            apart_NN=self._apart_nodes(sightings, anchors, likeness_NN[:first, :first], beside),
            decay=self.bars.decay,
        )
        return Question(anchors=tuple(anchors), sightings=tuple(sightings), likeness_NN=likeness_NN, evidence=evidence)

    def _likeness(self, anchor: Anchor, means_ND: NDArray[np.float32]) -> NDArray[np.float64]:
        """Similarity of an identity to sightings: the mean over its nearest exemplars, as in the gallery."""
        found_KN = np.sort(anchor.embeddings_KD @ means_ND.T, axis=0)[-self.gallery.config.nearest :]
        return np.asarray(found_KN.mean(axis=0), dtype=np.float64)

    def changed(self, global_id: int | None = None) -> None:
        """Take in that an identity has other sightings than before; without a number, any identity may."""
        for pair in [pair for pair in self._met if global_id is None or global_id in pair]:
            del self._met[pair]

    def _apart_nodes(
        self,
        sightings: Sequence[Sighting],
        anchors: Sequence[Anchor],
        likeness_AA: NDArray[np.float64],
        beside: Sequence[Sighting],
    ) -> NDArray[np.bool_]:
        """Which nodes cannot be one person; `beside` are the sightings that are not asked about."""
        first = len(anchors)
        apart_NN = np.zeros((first + len(sightings),) * 2, dtype=bool)
        impossible_NN = self.transits.impossible(sightings, sightings)
        apart_NN[first:, first:] = impossible_NN | impossible_NN.T
        apart_NN[first:, first:] |= self.apart(sightings, sightings)
        if anchors:
            apart_AN = self._elsewhere(anchors, sightings, beside)
            apart_NN[:first, first:], apart_NN[first:, :first] = apart_AN[:, first:], apart_AN[:, first:].T
            apart_NN[:first, :first] = apart_AN[:, :first] | self._apart_anchors(anchors, likeness_AA)
        ids = [*(anchor.global_id for anchor in anchors), *(sighting.global_id for sighting in sightings)]
        for one, other in map(sorted, self.taken_apart):
            rows, columns = ([i for i, global_id in enumerate(ids) if global_id == which] for which in (one, other))
            apart_NN[np.ix_(rows, columns)] = apart_NN.T[np.ix_(rows, columns)] = True
        np.fill_diagonal(apart_NN, False)
        return apart_NN

    def _elsewhere(
        self, anchors: Sequence[Anchor], sightings: Sequence[Sighting], beside: Sequence[Sighting]
    ) -> NDArray[np.bool_]:
        """Which identities were, or are, in view beside other ones and beside sightings, `(A, N)`."""
        ids_A = np.array([anchor.global_id for anchor in anchors])
        own = set(ids_A.tolist())
        seen = [sighting for sighting in beside if sighting.global_id in own]
        if not seen:
            return np.zeros((len(anchors), len(anchors) + len(sightings)), dtype=bool)
        whose_AS = (ids_A[:, None] == np.array([sighting.global_id for sighting in seen])[None]).astype(np.float32)
        beside_AA = whose_AS @ self.apart(seen, seen) @ whose_AS.T
        return np.hstack([beside_AA, whose_AS @ self.apart(seen, sightings)]) > 0

    def _apart_anchors(self, anchors: Sequence[Anchor], likeness_AA: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which identities are two for good: both enrolled, or once in view together, by what is remembered of them."""
        enrolled_A = np.array([anchor.enrolled for anchor in anchors])
        apart_AA = np.outer(enrolled_A, enrolled_A)
        passings: dict[int, list[Passing]] = {}
        # The file is asked only where they are so alike that it matters.
        for row, other in np.argwhere(np.triu(likeness_AA >= self.bars.min_similarity, 1) & ~apart_AA).tolist():
            one_id, other_id = anchors[row].global_id, anchors[other].global_id
            apart_AA[row, other] = apart_AA[other, row] = self._have_met(one_id, other_id, passings)
        return np.asarray(apart_AA)

    def _have_met(self, one_id: int, other_id: int, passings: dict[int, list[Passing]]) -> bool:
        """Tell whether two identities were ever in view at once where one person cannot be twice.

        The file is asked, of each for the latest few hundred sightings; what it says holds until one of them changes.
        """
        pair = (one_id, other_id)
        if pair not in self._met:
            behind = self.gallery.pending > 0
            try:
                for global_id in pair:
                    if global_id not in passings:
                        rows = self.gallery.store.read(PASSINGS, (global_id,))
                        passings[global_id] = [Passing(*row) for row in rows]
            except ReidgeError:  # whoever writes to the file tells of its trouble; two stay two until it can be asked
                return True
            met = all(passings[i] for i in pair) and bool(self.apart(*(passings[i] for i in pair)).any())
            if behind:
                return met
            self._met[pair] = met
        return self._met[pair]


def _spans(sightings: Sequence[Sighting | Passing]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """When sightings began and ended."""
    return np.array([s.started_at for s in sightings]), np.array([s.last_seen for s in sightings])
