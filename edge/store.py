"""The gallery on disk: identities and their exemplars, in SQLite."""

# D = embedding

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reidge.edge.errors import InputError, ReidgeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SCHEMA_VERSION = "1"
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS identities (
    global_id INTEGER PRIMARY KEY AUTOINCREMENT,  -- a number that was erased is never given again
    created_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS exemplars (
    exemplar_id INTEGER PRIMARY KEY AUTOINCREMENT,
    global_id INTEGER NOT NULL REFERENCES identities ON DELETE CASCADE,
    captured_at REAL NOT NULL,
    embedding BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS exemplars_of ON exemplars (global_id);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemplar:
    """One embedding of an identity."""

    exemplar_id: int
    global_id: int
    captured_at: float
    embedding_D: NDArray[np.float32]


class Store:
    """One SQLite file in WAL mode; other processes may read it meanwhile.

    Args:
        path: The file; `":memory:"` keeps nothing.
        encoder_hash: Identity of the embedding space.
        embedding_dim: Length of an embedding.

    Raises:
        InputError: The file is no gallery, or belongs to another encoder.
        ReidgeError: The file cannot be opened.
    """

    def __init__(self, path: Path | str, *, encoder_hash: str, embedding_dim: int) -> None:
        self.path = path
        self.embedding_dim = embedding_dim
        try:
            if path != ":memory:":
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10.0)
        except (sqlite3.OperationalError, OSError) as error:
            raise ReidgeError(
                f"the gallery {path} cannot be opened: {error}. Check the folder and its permissions."
            ) from error
        try:
            self._prepare(encoder_hash)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise InputError(
                f"{path} is not a usable gallery ({error}). Give another path in storage.gallery."
            ) from error
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, encoder_hash: str) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("PRAGMA secure_delete = ON")  # an erased person's embedding is overwritten, not just unlinked
        self._db.executescript(SCHEMA)
        meta = {"schema": SCHEMA_VERSION, "encoder": encoder_hash, "embedding_dim": str(self.embedding_dim)}
        with self.transaction():
            self._db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", meta.items())
        found = dict(self._db.execute("SELECT key, value FROM meta"))
        if found["schema"] != SCHEMA_VERSION:
            raise InputError(
                f"{self.path} has gallery schema {found['schema']}, this reidge reads {SCHEMA_VERSION}. "
                "Use the matching reidge or another path in storage.gallery."
            )
        if found["encoder"] != encoder_hash:
            raise InputError(
                f"{self.path} holds embeddings of another encoder ({found['encoder'][:12]}..., the bundle has "
                f"{encoder_hash[:12]}...). Run the bundle it was made with, or start a new gallery in storage.gallery."
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: `with store.transaction(): ...`.

        Raises:
            ReidgeError: The disk is full, or another process holds the file.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite ends it itself when the disk is full
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            raise ReidgeError(
                f"the gallery {self.path} cannot be written: {error}. Check the free space and whether another "
                "reidge uses it."
            ) from error

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._db.close()

    def exemplars(self) -> Iterator[Exemplar]:
        """Read all exemplars, oldest first."""
        for row in self._db.execute("SELECT exemplar_id, global_id, captured_at, embedding FROM exemplars ORDER BY 1"):
            embedding_D = np.frombuffer(row[3], dtype="<f4").astype(np.float32)
            yield Exemplar(exemplar_id=row[0], global_id=row[1], captured_at=row[2], embedding_D=embedding_D)

    def identities(self) -> list[int]:
        """Read all global_ids, ascending."""
        return [row[0] for row in self._db.execute("SELECT global_id FROM identities ORDER BY 1")]

    def add_identity(self, created_at: float) -> int:
        """Add an identity without exemplars; returns its new global_id."""
        cursor = self._db.execute("INSERT INTO identities (created_at) VALUES (?)", (created_at,))
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def add_exemplar(self, global_id: int, embedding_D: NDArray[np.float32], captured_at: float) -> int:
        """Add an embedding to an identity; returns its exemplar_id."""
        cursor = self._db.execute(
            "INSERT INTO exemplars (global_id, captured_at, embedding) VALUES (?, ?, ?)",
            (global_id, captured_at, embedding_D.astype("<f4").tobytes()),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def drop_exemplar(self, exemplar_id: int) -> None:
        """Delete one embedding."""
        self._db.execute("DELETE FROM exemplars WHERE exemplar_id = ?", (exemplar_id,))

    def move(self, *, source: int, target: int) -> None:
        """Give everything of one identity to another and delete the first."""
        self._db.execute("UPDATE exemplars SET global_id = ? WHERE global_id = ?", (target, source))
        self.erase(source)

    def erase(self, global_id: int) -> None:
        """Delete an identity with all its embeddings."""
        self._db.execute("DELETE FROM identities WHERE global_id = ?", (global_id,))

    def flush_journal(self) -> None:
        """Write the journal back and empty it, so that nothing erased stays in it."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
