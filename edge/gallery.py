"""Who has been seen before: an open-set gallery over all cameras that survives restarts.

Open-set: the nearest identity is an answer only when it is near enough; otherwise the answer is nobody. Everything is
held in memory; a SQLite file follows it and is read at the next start.
"""

# M = exemplars, D = embedding

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, Field

from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.keeper import Keeper
from reidge.edge.store import Changes, Exemplar, Store

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

IN_MEMORY = ":memory:"
WRITE_SECONDS = 2.0
"""For the file to become like the gallery, where somebody waits for it."""
SETTLE_SECONDS = 0.05
"""The same between two moments of the loop, as long as the disk keeps up."""


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
class Match:
    """The answer to who an embedding shows."""

    global_id: int | None
    """None: nobody in the gallery is near enough."""
    similarity: float
    """To the best allowed identity, whether near enough or not; -1 with none."""
    runner_up: float
    """Similarity to the second-best allowed identity; -1 with none."""


class Gallery:
    """Identities with several exemplars each; use it in a `with`, from one thread.

    Args:
        path: The SQLite file; `":memory:"` keeps nothing.
        encoder_hash: Identity of the embedding space; a gallery of another encoder is refused.
        embedding_dim: Length of an embedding.
        config: Thresholds and sizes.

    Raises:
        InputError: The file is no gallery, is damaged, or belongs to another encoder.
    """

    def __init__(self, path: Path | str, *, encoder_hash: str, embedding_dim: int, config: GalleryConfig) -> None:
        self.path = path
        self.config = config
        self.embedding_dim = embedding_dim
        self._index = _Index(embedding_dim)
        self._identities: dict[int, float] = {}
        self._last_identity = self._last_exemplar = 0
        self._store: Store | None = None
        self._keeper: Keeper | None = None
        self._late = False
        if path != IN_MEMORY:
            self._store = Store(path, encoder_hash=encoder_hash, embedding_dim=embedding_dim)
            self._keeper = Keeper(self._store)
            try:
                self._load(self._store)
            except BaseException:
                self._store.close()
                raise
            self._keeper.start()

    def _load(self, store: Store) -> None:
        self._identities = store.identities()
        self._last_identity, self._last_exemplar = store.last_numbers()
        for exemplar in store.exemplars():
            self._index.add(exemplar)

    def __enter__(self) -> Gallery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._identities)

    def leave(self) -> None:
        """Begin to close, once nothing changes any more: write what is not written yet, and do not wait for it."""
        if self._keeper is not None:
            self._keeper.leave(WRITE_SECONDS)

    def close(self) -> None:
        """Write what is not written yet and close the file; a second call does nothing."""
        if self._keeper is not None and self._store is not None:
            self._keeper.leave(WRITE_SECONDS)
            self._keeper.close()
            if not self._keeper.is_alive():  # one that hangs still holds the file
                self._store.close()
        self._keeper = self._store = None

    def identities(self) -> list[int]:
        """All global_ids, ascending."""
        return sorted(self._identities)

    @property
    def pending(self) -> int:
        """Rows that are not on disk yet."""
        return 0 if self._keeper is None else self._keeper.pending

    @property
    def failures(self) -> int:
        """Writes that failed and are tried again."""
        return 0 if self._keeper is None else self._keeper.failures

    def flush(self, seconds: float) -> bool:
        """Wait until the file is like the gallery; False when that takes longer, or does not work at present."""
        return self._keeper is None or self._keeper.flush(seconds)

    def settle(self) -> None:
        """Let the file catch up before anybody is told, as long as the disk is fast; else go on without it."""
        if not (self._late and self.pending):
            self._late = not self.flush(SETTLE_SECONDS)

    def match(self, embedding_D: NDArray[np.float32], *, forbidden: Collection[int] = ()) -> Match:
        """Find who an embedding shows.

        Args:
            embedding_D: Unit length.
            forbidden: Identities that it cannot be, e.g. because they are somewhere else at this moment.
        """
        similarities = self.similarities(embedding_D)
        ranked = sorted(((s, g) for g, s in similarities.items() if g not in forbidden), reverse=True)
        best, best_id = ranked[0] if ranked else (-1.0, None)
        runner_up = ranked[1][0] if len(ranked) > 1 else -1.0
        sure = best >= self.config.min_similarity and best - runner_up >= self.config.min_margin
        return Match(global_id=best_id if sure else None, similarity=best, runner_up=runner_up)

    def similarities(self, embedding_D: NDArray[np.float32]) -> dict[int, float]:
        """Similarity to every identity: the mean over its nearest exemplars."""
        found_M = self._index.embeddings_MD @ embedding_D
        order_M = np.lexsort((-found_M, self._index.global_ids_M))
        ids_M, found_M = self._index.global_ids_M[order_M], found_M[order_M]
        ids, firsts = np.unique(ids_M, return_index=True)
        ends = np.minimum(np.append(firsts[1:], len(ids_M)), firsts + self.config.nearest)
        return {int(i): float(found_M[a:b].mean()) for i, a, b in zip(ids, firsts, ends, strict=True)}

    def linkage(self, global_id: int) -> dict[int, float]:
        """Similarity of one identity to every other: the mean over all pairs of their exemplars."""
        own_MD = self._index.embeddings_MD[self._index.global_ids_M == global_id]
        found_M = self._index.embeddings_MD @ own_MD.mean(axis=0)
        ids, inverse_M = np.unique(self._index.global_ids_M, return_inverse=True)
        means = np.bincount(inverse_M, weights=found_M) / np.bincount(inverse_M)
        return {int(i): float(mean) for i, mean in zip(ids, means, strict=True) if i != global_id}

    def enrol(self, embedding_D: NDArray[np.float32], *, captured_at: float, global_id: int | None = None) -> int:
        """Remember an embedding, of a known identity or of a new one.

        Returns:
            The identity's global_id.

        Raises:
            InputError: There is no identity `global_id`, or the embedding has another length.
        """
        if embedding_D.shape != (self.embedding_dim,):
            raise InputError(f"an embedding of this gallery has {self.embedding_dim} numbers, got {embedding_D.shape}.")
        changes = Changes()
        if global_id is None:
            self._last_identity += 1
            global_id = self._last_identity
            self._identities[global_id] = changes.identities[global_id] = captured_at
        self._require(global_id)
        self._last_exemplar += 1
        exemplar = Exemplar(
            exemplar_id=self._last_exemplar, global_id=global_id, captured_at=captured_at, embedding_D=embedding_D
        )
        self._index.add(exemplar)
        changes.exemplars[exemplar.exemplar_id] = exemplar
        self._thin_out(global_id, changes)
        self._keep(changes)
        return global_id

    def merge(self, *, kept: int, absorbed: int) -> None:
        """Make two identities one.

        Raises:
            InputError: One of them does not exist, or they are the same.
        """
        if kept == absorbed:
            raise InputError(f"identity {kept} cannot be merged with itself.")
        self._require(kept)
        self._require(absorbed)
        changes = Changes(identities={absorbed: None})
        del self._identities[absorbed]
        for row in self._index.rows_of(absorbed):
            moved = self._index.move(row, kept)
            changes.exemplars[moved.exemplar_id] = moved
        self._thin_out(kept, changes)
        self._keep(changes)

    def erase(self, global_id: int) -> None:
        """Forget an identity: its embeddings leave the file and the index; its number is never given again.

        Raises:
            InputError: There is no such identity.
            ReidgeError: It is forgotten here, but the disk does not let it be erased from the file yet.
        """
        self._require(global_id)
        del self._identities[global_id]
        dropped = [self._index.drop_row(int(row)) for row in self._index.rows_of(global_id)[::-1]]
        self._keep(Changes(identities={global_id: None}, exemplars=dict.fromkeys(dropped)))
        if self._keeper is None or self._store is None:
            return
        if not self._keeper.flush(WRITE_SECONDS):
            raise ReidgeError(
                f"identity {global_id} is not erased from the file yet: {self._keeper.trouble or 'the disk is slow.'} "
                "It will be as soon as the file can be written, unless the process ends before."
            )
        self._store.flush_journal()

    def _keep(self, changes: Changes) -> None:
        if self._keeper is not None:
            self._keeper.put(changes)

    def _require(self, global_id: int) -> None:
        if global_id not in self._identities:
            raise InputError(f"there is no identity {global_id} in {self.path}.")

    def _thin_out(self, global_id: int, changes: Changes) -> None:
        """Drop exemplars until few enough are left, each time the one most like another; the older of a pair stays."""
        while True:
            rows = self._index.rows_of(global_id)
            if len(rows) <= self.config.max_exemplars:
                return
            rows = rows[np.argsort(self._index.exemplar_ids_M[rows])]
            own_MD = self._index.embeddings_MD[rows]
            likeness_MM = np.tril(own_MD @ own_MD.T, k=-1) + np.triu(np.full((len(rows), len(rows)), -2.0))
            newer = rows[int(np.argmax(likeness_MM.max(axis=1)))]
            changes.exemplars[self._index.drop_row(int(newer))] = None


class _Index:
    """Arrays that grow by doubling; a dropped row is filled with the last one."""

    def __init__(self, embedding_dim: int) -> None:
        self._count = 0
        self._embeddings = np.empty((64, embedding_dim), dtype=np.float32)
        self._global_ids = np.empty(64, dtype=np.int64)
        self._exemplar_ids = np.empty(64, dtype=np.int64)
        self._captured_at = np.empty(64, dtype=np.float64)

    @property
    def embeddings_MD(self) -> NDArray[np.float32]:  # noqa: N802
        return self._embeddings[: self._count]

    @property
    def global_ids_M(self) -> NDArray[np.int64]:  # noqa: N802
        return self._global_ids[: self._count]

    @property
    def exemplar_ids_M(self) -> NDArray[np.int64]:  # noqa: N802
        return self._exemplar_ids[: self._count]

    def rows_of(self, global_id: int) -> NDArray[np.intp]:
        return np.flatnonzero(self.global_ids_M == global_id)

    def add(self, exemplar: Exemplar) -> None:
        if self._count == len(self._global_ids):
            self._embeddings = np.concatenate([self._embeddings, np.empty_like(self._embeddings)])
            self._global_ids = np.concatenate([self._global_ids, np.empty_like(self._global_ids)])
            self._exemplar_ids = np.concatenate([self._exemplar_ids, np.empty_like(self._exemplar_ids)])
            self._captured_at = np.concatenate([self._captured_at, np.empty_like(self._captured_at)])
        self._embeddings[self._count] = exemplar.embedding_D
        self._global_ids[self._count] = exemplar.global_id
        self._exemplar_ids[self._count] = exemplar.exemplar_id
        self._captured_at[self._count] = exemplar.captured_at
        self._count += 1

    def move(self, row: int, global_id: int) -> Exemplar:
        """Give a row to another identity; returns the whole of it."""
        self._global_ids[row] = global_id
        return Exemplar(
            exemplar_id=int(self._exemplar_ids[row]),
            global_id=global_id,
            captured_at=float(self._captured_at[row]),
            embedding_D=self._embeddings[row].copy(),
        )

    def drop_row(self, row: int) -> int:
        """Drop a row; returns its exemplar_id."""
        exemplar_id = int(self._exemplar_ids[row])
        self._count -= 1
        for array in (self._embeddings, self._global_ids, self._exemplar_ids, self._captured_at):
            array[row] = array[self._count]
        return exemplar_id
