"""Who has been seen before: an open-set gallery over all cameras that survives restarts.

Open-set: the nearest identity is an answer only when it is near enough; otherwise the answer is nobody. Identities and
their exemplars are held in memory; the sightings they come from are in a SQLite file, which follows everything and is
read at the next start.
"""

# M = exemplars, Q = queries, D = embedding

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from reidge.edge.bars import Bars
from reidge.edge.roster import Roster
from reidge.edge.store import IN_MEMORY, Store

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

NEAR_ROWS = 16
"""Exemplars that are looked at for each identity that is asked for."""
LEAST_ROWS = 256
"""Exemplars that are looked at in any case."""
FINALISTS = 4
"""Identities that are compared in full for each one that is asked for."""


class GalleryConfig(BaseModel, frozen=True, extra="forbid"):
    """When an embedding is taken for a known identity, and how much is remembered of each."""

    min_similarity: float = Field(ge=-1, le=1)
    """Least similarity (cosine) to an identity to be it."""
    min_margin: float = Field(0.0, ge=0, le=2)
    """Least lead over the second-best identity; 0 asks for none."""
    max_exemplars: int = Field(8, ge=1)
    """Embeddings kept of each identity; the most redundant goes first."""
    nearest: int = Field(4, ge=1)
    """Similarity to an identity is the mean over this many of its nearest exemplars: one stray must not decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Somebody an embedding may show."""

    global_id: int
    similarity: float
    """Mean over the nearest of the identity's exemplars."""
    enrolled: bool
    """Whether the user gave images of this identity."""
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The answer to who an embedding shows."""

    global_id: int | None
    """None: nobody in the gallery is near enough."""
    similarity: float
    """To the best allowed identity, whether near enough or not; -1 with none."""
    runner_up: float
    """Similarity to the second-best allowed identity; -1 with none."""


class Gallery(Roster):
    """Identities with several exemplars each; use it in a `with`, from one thread.

    Args:
        path: The SQLite file; `":memory:"` keeps nothing.
        encoder_hash: Identity of the embedding space; a gallery of another encoder is refused.
        embedding_dim: Length of an embedding.
        config: Thresholds and sizes.
        bars: Least similarities, raised with the number of identities; without, `config.min_similarity` holds for any.
        secret: Embeddings and pictures are encrypted in the file with a key made from it.
        shared: Only read, beside a process that may write; later changes of the file are not seen.

    Raises:
        InputError: The file is no gallery, is damaged, or belongs to another encoder.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        encoder_hash: str,
        embedding_dim: int,
        config: GalleryConfig,
        bars: Bars | None = None,
        secret: str | None = None,
        shared: bool = False,
    ) -> None:
        self.path = path
        self.config = config
        self.bars = bars or Bars(min_similarity=config.min_similarity)
        self.embedding_dim = embedding_dim
        store = Store(path, encoder_hash=encoder_hash, embedding_dim=embedding_dim, secret=secret, shared=shared)
        try:
            super().__init__(store, max_exemplars=config.max_exemplars)
        except BaseException:
            store.close()
            raise
        if path != IN_MEMORY and not shared:
            self.follow()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def match(self, embedding_D: NDArray[np.float32], *, forbidden: Collection[int] = ()) -> Match:
        """Find who an embedding shows.

        An answer is by this one embedding alone. A site decides about whole sightings, with their times and places.

        Args:
            embedding_D: Unit length.
            forbidden: Identities that it cannot be, e.g. because they are somewhere else at this moment.
        """
        found = self.nearest(embedding_D, forbidden=forbidden, limit=2)
        best = found[0].similarity if found else -1.0
        runner_up = found[1].similarity if len(found) > 1 else -1.0
        sure = bool(found) and self.knows(found[0]) and best - runner_up >= self.config.min_margin
        return Match(global_id=found[0].global_id if sure else None, similarity=best, runner_up=runner_up)

    def knows(self, candidate: Candidate) -> bool:
        """Tell whether a candidate is similar enough, out of all there are; enrolled people are known more readily."""
        lead = self.bars.enrolled_lead if candidate.enrolled else 0.0
        return candidate.similarity + lead >= self.bars.at(len(self))

    def nearest(
        self, embedding_D: NDArray[np.float32], *, forbidden: Collection[int] = (), limit: int = 16
    ) -> list[Candidate]:
        """Identities most like an embedding, best first.

        Args:
            embedding_D: Unit length.
            forbidden: Identities to leave out.
            limit: Of the answer.
        """
        rows = max(LEAST_ROWS, NEAR_ROWS * limit) + self.config.max_exemplars * len(forbidden)
        rows_QK, _ = self._index.search(embedding_D[None], rows)
        return self._ranked(embedding_D, rows_QK[0], forbidden, limit)

    def nearest_many(self, embeddings_QD: NDArray[np.float32], *, limit: int = 16) -> list[list[Candidate]]:
        """The same for several embeddings `(Q, D)` in one search."""
        rows_QK, _ = self._index.search(embeddings_QD, max(LEAST_ROWS, NEAR_ROWS * limit))
        return [self._ranked(q, rows, (), limit) for q, rows in zip(embeddings_QD, rows_QK, strict=True)]

    def _ranked(
        self, embedding_D: NDArray[np.float32], rows: NDArray[np.intp], forbidden: Collection[int], limit: int
    ) -> list[Candidate]:
        """Of the identities that own `rows`, best first, compare the first ones with all of their exemplars.

        No identity is more similar than its best exemplar is, so those that come late have little chance.
        """
        owners = dict.fromkeys(self._index.global_ids_M[rows].tolist())
        ids = list(islice((owner for owner in owners if owner not in forbidden), FINALISTS * limit))
        similarities = dict(zip(ids, self._index.similarities(embedding_D, ids, self.config.nearest), strict=True))
        return [
            Candidate(
                global_id=global_id,
                similarity=similarities[global_id],
                enrolled=self._index.is_enrolled(global_id),
                name=self._identities[global_id].name,
            )
            for global_id in sorted(ids, key=lambda i: (-similarities[i], i))[:limit]
        ]
