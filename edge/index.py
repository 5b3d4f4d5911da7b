"""Exemplars in memory: columns side by side, and the search for those nearest to a query."""

# M = exemplars, Q = queries, K = found, I = identities, W = exemplars of the widest of these, D = embedding

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from reidge.edge.nearest import PROJECTED, Projected, largest_of_each
from reidge.edge.records import Exemplar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from reidge.edge.store import ExemplarBlock

Scalar = TypeVar("Scalar", bound=np.generic)
FIRST_ROOM = 64
"""Rows before the first growth."""
MANY = 16_384
"""Rows from which on the nearest are looked for in a smaller space first."""
AGAIN = 4
"""Growth after which that space is chosen anew."""
NONE = 0
"""sighting_id of an exemplar that comes from no sighting."""


class Index:
    """Columns that grow by doubling; a dropped row is filled with the last one, so rows are only good until a change.

    Args:
        embedding_dim: Length of an embedding.
    """

    def __init__(self, embedding_dim: int) -> None:
        self._count = 0
        self._embeddings = np.empty((FIRST_ROOM, embedding_dim), dtype=np.float32)
        self._exemplar_ids = np.empty(FIRST_ROOM, dtype=np.int64)
        self._global_ids = np.empty(FIRST_ROOM, dtype=np.int64)
        self._sighting_ids = np.empty(FIRST_ROOM, dtype=np.int64)
        self._captured_at = np.empty(FIRST_ROOM, dtype=np.float64)
        self._quality = np.empty(FIRST_ROOM, dtype=np.float32)
        self._enrolled = np.empty(FIRST_ROOM, dtype=np.bool_)
        self._rows: dict[int, list[int]] = {}
        self._nearest: Projected | None = None
        self._choose_at = MANY

    def __len__(self) -> int:
        return self._count

    @property
    def embeddings_MD(self) -> NDArray[np.float32]:  # noqa: N802
        """All embeddings."""
        return self._embeddings[: self._count]

    @property
    def global_ids_M(self) -> NDArray[np.int64]:  # noqa: N802
        """Whose each is."""
        return self._global_ids[: self._count]

    @property
    def exemplar_ids_M(self) -> NDArray[np.int64]:  # noqa: N802
        """Number of each; larger is newer."""
        return self._exemplar_ids[: self._count]

    def rows_of(self, global_id: int) -> list[int]:
        """Rows of an identity, oldest exemplar first."""
        return sorted(self._rows.get(global_id, ()), key=lambda row: int(self._exemplar_ids[row]))

    def rows_from(self, sighting_id: int) -> list[int]:
        """Rows of the exemplars that come from a sighting."""
        return [int(row) for row in np.flatnonzero(self._sighting_ids[: self._count] == sighting_id)]

    def exemplar(self, row: int) -> Exemplar:
        """One row as a whole."""
        return Exemplar(
            exemplar_id=int(self._exemplar_ids[row]),
            global_id=int(self._global_ids[row]),
            captured_at=float(self._captured_at[row]),
            embedding_D=self._embeddings[row].copy(),
            quality=float(self._quality[row]),
            enrolled=bool(self._enrolled[row]),
            sighting_id=int(self._sighting_ids[row]) or None,
        )

    def load(self, block: ExemplarBlock) -> None:
        """Add many rows."""
        start, stop = self._count, self._count + len(block.exemplar_ids_M)
        self._make_room(stop)
        self._embeddings[start:stop] = block.embeddings_MD
        self._exemplar_ids[start:stop] = block.exemplar_ids_M
        self._global_ids[start:stop] = block.global_ids_M
        self._sighting_ids[start:stop] = block.sighting_ids_M
        self._captured_at[start:stop] = block.captured_at_M
        self._quality[start:stop] = block.quality_M
        self._enrolled[start:stop] = block.enrolled_M
        self._count = stop
        for row, global_id in enumerate(block.global_ids_M.tolist(), start):
            self._rows.setdefault(global_id, []).append(row)
        if self._nearest is not None:
            self._nearest.put(start, block.embeddings_MD)

    def reserve(self, rows: int) -> None:
        """Make room for as many rows at once: growing by and by copies everything again and again."""
        self._make_room(rows)

    def choose(self) -> None:
        """Choose how to search by how many rows there are; after many were loaded, and as they come."""
        if self._count < self._choose_at or self._embeddings.shape[1] <= PROJECTED:
            return
        self._nearest = Projected(self.embeddings_MD, len(self._embeddings))
        self._choose_at = AGAIN * self._count

    def add(self, exemplar: Exemplar) -> None:
        """Add a row."""
        row = self._count
        self._make_room(row + 1)
        self._embeddings[row] = exemplar.embedding_D
        self._exemplar_ids[row] = exemplar.exemplar_id
        self._global_ids[row] = exemplar.global_id
        self._sighting_ids[row] = exemplar.sighting_id or NONE
        self._captured_at[row] = exemplar.captured_at
        self._quality[row] = exemplar.quality
        self._enrolled[row] = exemplar.enrolled
        self._count = row + 1
        self._rows.setdefault(exemplar.global_id, []).append(row)
        if self._nearest is not None:
            self._nearest.put(row, self._embeddings[row : row + 1])
        self.choose()

    def move(self, row: int, global_id: int) -> int:
        """Give a row to another identity; returns its exemplar_id."""
        self._leave(row)
        self._global_ids[row] = global_id
        self._rows.setdefault(global_id, []).append(row)
        return int(self._exemplar_ids[row])

    def drop(self, row: int) -> int:
        """Drop a row; returns its exemplar_id."""
        exemplar_id = int(self._exemplar_ids[row])
        self._leave(row)
        last = self._count - 1
        if row != last:
            rows = self._rows[int(self._global_ids[last])]
            rows[rows.index(last)] = row
            for column in self._columns():
                column[row] = column[last]
        if self._nearest is not None:
            self._nearest.replace(row, last)
        self._embeddings[last] = 0  # nothing of who was dropped stays in memory that is still in use
        self._count = last
        return exemplar_id

    def search(self, queries_QD: NDArray[np.float32], count: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Find the nearest rows of each query.

        Returns:
            Rows and similarities `(Q, K)`, best first; K is `count`, or fewer where there are not so many.
        """
        if self._nearest is None:
            found_MQ = self.embeddings_MD @ queries_QD.T
            rows_QM = largest_of_each(found_MQ, count)
            found_QM = found_MQ[rows_QM, np.arange(len(queries_QD))[:, None]]
        else:
            rows_QM = self._nearest.propose(queries_QD, self._count, count)
            pairs = zip(rows_QM, queries_QD, strict=True)
            found_QM = np.stack([self._embeddings[rows] @ query for rows, query in pairs])
        best_QK = np.argsort(-found_QM, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(rows_QM, best_QK, axis=1), np.take_along_axis(found_QM, best_QK, axis=1)

    def similarities(self, query_D: NDArray[np.float32], global_ids: Sequence[int], nearest: int) -> list[float]:
        """Similarity of a query to identities that have exemplars: the mean over the `nearest` nearest of each."""
        rows_of_each = [self._rows[global_id] for global_id in global_ids]
        if not rows_of_each:
            return []
        counts_I = np.array([len(rows) for rows in rows_of_each])
        rows_M = np.fromiter(chain.from_iterable(rows_of_each), dtype=np.intp, count=int(counts_I.sum()))
        # One line for each identity, as wide as the widest; what is beyond its own exemplars counts as farthest.
        found_IW = np.full((len(counts_I), counts_I.max()), -np.inf, dtype=np.float32)
        found_IW[np.arange(found_IW.shape[1]) < counts_I[:, None]] = self._embeddings[rows_M] @ query_D
        nearest_IW = -np.sort(-found_IW, axis=1)[:, :nearest]
        sums_I = np.where(np.isfinite(nearest_IW), nearest_IW, 0).sum(axis=1)
        return [float(mean) for mean in sums_I / np.minimum(counts_I, nearest)]

    def is_enrolled(self, global_id: int) -> bool:
        """Tell whether the user gave one of an identity's exemplars."""
        return any(self._enrolled[row] for row in self._rows[global_id])

    def _leave(self, row: int) -> None:
        global_id = int(self._global_ids[row])
        rows = self._rows[global_id]
        rows.remove(row)
        if not rows:
            del self._rows[global_id]

    def _columns(self) -> tuple[NDArray[np.generic], ...]:
        return (
            self._embeddings,
            self._exemplar_ids,
            self._global_ids,
            self._sighting_ids,
            self._captured_at,
            self._quality,
            self._enrolled,
        )

    def _make_room(self, wanted: int) -> None:
        room = len(self._global_ids)
        if wanted <= room:
            return
        room = max(wanted, 2 * room)
        self._embeddings = _grown(self._embeddings, room)
        self._exemplar_ids = _grown(self._exemplar_ids, room)
        self._global_ids = _grown(self._global_ids, room)
        self._sighting_ids = _grown(self._sighting_ids, room)
        self._captured_at = _grown(self._captured_at, room)
        self._quality = _grown(self._quality, room)
        self._enrolled = _grown(self._enrolled, room)
        if self._nearest is not None:
            self._nearest.resize(room)


def _grown(column: NDArray[Scalar], room: int) -> NDArray[Scalar]:
    grown = np.empty((room, *column.shape[1:]), dtype=column.dtype)
    grown[: len(column)] = column
    return grown
