"""Carrying out what was decided: who is joined, parted, given a number, or left undecided."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from reidge.edge.errors import ReidgeError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from reidge.edge.sightings import Sighting, SightingBook
    from reidge.edge.window import Question

FROM_BEFORE, OVER = 10**9, 10**4
"""What weighs more than a live sighting in the question which group keeps a number: that the identity is known from
before the window, and each sighting of it that was decided about before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a decision changed in the gallery or in a sighting."""

    kind: Literal["assigned", "decided", "created", "merged", "split"]
    """assigned: a live sighting has another answer; decided: one that is over has."""
    global_id: int | None
    """The identity that stands now."""
    sighting: Sighting
    """assigned, decided: whose answer it is; otherwise the one that brought it about."""
    merged_from: int | None = None
    """merged: the identity that was given up."""
    before: int | None = None
    """decided: whose it was before, by the number that stood last."""
    split_from: int | None = None
    """split: the identity that some sightings have left."""
    similarity: float | None = None


class Ruling:
    """Carries out what was decided about a question: who is joined, parted, given a number, or left undecided."""

    def __init__(
        self, book: SightingBook, question: Question, groups: Sequence[Sequence[int]], focus: Sighting
    ) -> None:
        self.book, self.gallery, self.question, self.focus = book, book.gallery, question, focus
        self._first = len(question.anchors)
        self._asked = groups
        self._doubtful: set[int] = set()
        self._groups = self._without_doubtful(groups)
        self._keeper = self._keepers()

    def changes(self) -> Iterator[Change]:
        """Make the changes; each is told once it is made."""
        for number, nodes in enumerate(self._groups):
            yield from self._settle(number, nodes)

    def _without_doubtful(self, groups: Sequence[Sequence[int]]) -> list[list[int]]:
        """Leave out who is nobody yet and hardly more like their group than like another one that they may be of."""
        margin = self.gallery.config.min_margin
        left = [list(nodes) for nodes in groups]
        if margin > 0:
            for nodes in left:
                doubtful = [n for n in nodes if len(nodes) > 1 and self._is_new(n) and self._lead(n, nodes) < margin]
                nodes[:] = [node for node in nodes if node not in doubtful]
                self._doubtful.update(doubtful)
                left += [[node] for node in doubtful]
        return [nodes for nodes in left if nodes]

    def _is_new(self, node: int) -> bool:
        return node >= self._first and self.question.sightings[node - self._first].global_id is None

    def _lead(self, node: int, own: Sequence[int]) -> float:
        """How much more a sighting is like its group than like the next best."""
        evidence = self.question.evidence
        rivals = [
            self._similarity(node, nodes) or -1.0
            for nodes in self._asked
            if node not in nodes and not evidence.apart_NN[node, nodes].any()
        ]
        return (self._similarity(node, own) or 0.0) - max(rivals, default=-1.0)

    def _sightings(self, nodes: Iterable[int]) -> list[Sighting]:
        return [self.question.sightings[node - self._first] for node in nodes if node >= self._first]

    def _identities(self, nodes: Iterable[int]) -> Counter[int]:
        """The identities a group stands for, and how much of them: what is from before the window weighs most."""
        found: Counter[int] = Counter()
        for node in nodes:
            if node < self._first:
                found[self.question.anchors[node].global_id] += FROM_BEFORE
        for sighting in self._sightings(nodes):
            if sighting.global_id is not None:
                settled = sighting.sighting_id and sighting is not self.focus
                found[sighting.global_id] += OVER if settled else 1
        return found

    def _keepers(self) -> dict[int, int]:
        """Which group goes on under an identity's number: the one with most of it."""
        shares: dict[int, tuple[int, int]] = {}
        for number, nodes in enumerate(self._groups):
            for global_id, share in self._identities(nodes).items():
                shares[global_id] = max(shares.get(global_id, (0, 0)), (share, -number))
        return {global_id: -number for global_id, (_, number) in shares.items()}

    def _settle(self, number: int, nodes: Sequence[int]) -> Iterator[Change]:
        sightings = self._sightings(nodes)
        held = self._identities(nodes)
        own = sorted(global_id for global_id in held if self._keeper[global_id] == number)
        target: int | None
        if own:
            target = self._oldest(own)
            for other in own:
                if other != target:
                    yield self._merge(kept=target, absorbed=other, nodes=nodes)
        elif self._suffices(sightings) and self._doubtful.isdisjoint(nodes):
            try:
                target = yield from self._new(sightings, held)
            except ReidgeError:  # of the disk, which its writer tells: everybody stays who they were for now
                return
        else:
            target = None
        for node, sighting in zip([n for n in nodes if n >= self._first], sightings, strict=True):
            if sighting.global_id != target:
                yield self._give(sighting, target, self._similarity(node, nodes))

    def _oldest(self, global_ids: Sequence[int]) -> int:
        """The number that stays: one that the user has enrolled, else the lowest."""
        enrolled = [a.global_id for a in self.question.anchors if a.enrolled and a.global_id in global_ids]
        return min(enrolled or global_ids)

    def _suffices(self, sightings: Sequence[Sighting]) -> bool:
        """Tell whether there is enough of somebody for an identity."""
        config = self.book.config
        sure = [s for s in sightings if s.sighting_id or s.embeddings >= config.min_embeddings_new]
        return len(sightings) >= config.min_sightings and (config.min_sightings > 1 or bool(sure))

    def _new(self, sightings: Sequence[Sighting], held: Counter[int]) -> Generator[Change, None, int]:
        """Make an identity of sightings, out of another one where they were of that."""
        for source, _ in held.most_common():
            leaving = [s for s in sightings if s.global_id == source]
            ids = [s.sighting_id for s in leaving if s.sighting_id]
            if ids:
                made = self.gallery.split(source, ids)
                self.book.window.changed()
                for sighting in leaving:
                    sighting.global_id = made if sighting.sighting_id else source
                    sighting.similarity = None if sighting.sighting_id else sighting.similarity
                yield Change(kind="split", global_id=made, split_from=source, sighting=self.focus)
                for sighting in leaving:
                    if sighting.sighting_id:
                        yield Change(kind="decided", global_id=made, sighting=sighting, before=source)
                return made
        first = min(sightings, key=lambda s: (not s.sighting_id, s.started_at))
        made = self.book.enrol(first, None)
        yield Change(kind="created", global_id=made, sighting=self.focus)
        yield self._give(first, made, None)
        return made

    def _merge(self, *, kept: int, absorbed: int, nodes: Sequence[int]) -> Change:
        self.gallery.merge(kept=kept, absorbed=absorbed)
        self.book.adopt(kept=kept, absorbed=absorbed)
        similarity = self.question.likeness_NN[np.ix_(nodes, nodes)]
        mean = float(similarity[np.triu_indices(len(nodes), 1)].mean()) if len(nodes) > 1 else None
        return Change(kind="merged", global_id=kept, merged_from=absorbed, similarity=mean, sighting=self.focus)

    def _similarity(self, node: int, nodes: Sequence[int]) -> float | None:
        """How like a sighting is to the others of its group."""
        others = [other for other in nodes if other != node]
        return float(self.question.likeness_NN[node, others].mean()) if others else None

    def _give(self, sighting: Sighting, global_id: int | None, similarity: float | None) -> Change:
        """Give a sighting another answer."""
        before = sighting.global_id
        sighting.global_id, sighting.similarity = global_id, None if global_id is None else similarity
        if sighting.sighting_id:
            self.book.window.changed()
            self.gallery.assign(sighting.sighting_id, global_id, sighting.similarity)
            if global_id is None:
                sighting.exemplar = False
            elif not sighting.exemplar:
                self.book.enrol(sighting, global_id)
            self.book.window.recall(sighting)
        kind: Literal["assigned", "decided"] = (
            "decided" if sighting.sighting_id and sighting is not self.focus else "assigned"
        )
        return Change(kind=kind, global_id=global_id, sighting=sighting, similarity=sighting.similarity, before=before)
