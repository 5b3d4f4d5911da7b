"""The gallery on disk: identities and their exemplars, in SQLite."""

# D = embedding

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.folder import make_own_folder, open_own

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
# An identity that another process erased meanwhile stays erased: its exemplars go nowhere.
PUT_EXEMPLAR = """
INSERT INTO exemplars (exemplar_id, global_id, captured_at, embedding)
SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM identities WHERE global_id = ?2)
ON CONFLICT (exemplar_id) DO UPDATE SET global_id = excluded.global_id
"""
# Numbers of rows that came and went before they could be written count too.
RAISE_SEQUENCE = "UPDATE sqlite_sequence SET seq = ?2 WHERE name = ?1 AND seq < ?2"
START_SEQUENCE = """
INSERT INTO sqlite_sequence (name, seq)
SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = ?1)
"""


class GalleryInUse(ReidgeError):
    """Another process writes to the gallery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemplar:
    """One embedding of an identity."""

    exemplar_id: int
    global_id: int
    captured_at: float
    embedding_D: NDArray[np.float32]


@dataclass(slots=True)
class Changes:
    """Rows as they are to be, by number; None deletes one. What was written before is of no interest."""

    identities: dict[int, float | None] = field(default_factory=dict)
    """When each was created."""
    exemplars: dict[int, Exemplar | None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.identities) + len(self.exemplars)

    def update(self, newer: Changes) -> None:
        """Take in what changed since."""
        self.identities.update(newer.identities)
        self.exemplars.update(newer.exemplars)


class Store:
    """One SQLite file in WAL mode; other processes may read it meanwhile, and none may write.

    Any thread may call it.

    Args:
        path: The file.
        encoder_hash: Identity of the embedding space.
        embedding_dim: Length of an embedding.

    Raises:
        InputError: The file is no gallery, or belongs to another encoder.
        ReidgeError: The file cannot be opened or written, or another process writes to it.
    """

    def __init__(self, path: Path | str, *, encoder_hash: str, embedding_dim: int) -> None:
        self.path = Path(path)
        self.embedding_dim = embedding_dim
        self._encoder_hash = encoder_hash
        self._using = threading.RLock()
        self._lock_file = self._claim()
        try:
            self._db = self._open()
        except BaseException:
            self._lock_file.close()
            raise

    def _claim(self) -> IO[str]:
        """Keep other processes from writing, by a lock on a file beside; it falls with the process."""
        try:
            make_own_folder(self.path.parent)
            lock_file = open_own(self.path.with_name(f"{self.path.name}.lock"), "a")
        except OSError as error:
            raise ReidgeError(
                f"the gallery {self.path} cannot be opened: {error.strerror or error}. "
                "Check the folder, its permissions and the free space."
            ) from error
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock_file.close()
            raise GalleryInUse(
                f"the gallery {self.path} is in use by another reidge. Stop it, or give each its own storage.gallery."
            ) from error
        except OSError:  # a file system without locks
            pass
        return lock_file

    def _open(self) -> sqlite3.Connection:
        with suppress(OSError):  # what is wrong SQLite says itself; its journal gets the mode of the file
            os.close(os.open(self.path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        try:
            db = sqlite3.connect(self.path, isolation_level=None, timeout=10.0, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error
        try:
            self._prepare(db)
        except sqlite3.OperationalError as error:
            db.close()
            raise self._unusable(error) from error
        except sqlite3.DatabaseError as error:
            db.close()
            raise self._damaged(error) from error
        except BaseException:
            db.close()
            raise
        return db

    def _damaged(self, error: Exception) -> InputError:
        return InputError(f"{self.path} is not a usable gallery ({error}). Give another path in storage.gallery.")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Tell of pages that are damaged: opening a file does not look at them."""
        try:
            with self._using:
                yield
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:  # the last two: of an embedding's bytes
            raise self._damaged(error) from error

    def _unusable(self, error: sqlite3.Error) -> ReidgeError:
        return ReidgeError(
            f"the gallery {self.path} cannot be written: {error}. Check the folder, its permissions and the free space."
        )

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA secure_delete = ON")  # an erased person's embedding is overwritten, not just unlinked
        db.executescript(SCHEMA)
        meta = {"schema": SCHEMA_VERSION, "encoder": self._encoder_hash, "embedding_dim": str(self.embedding_dim)}
        with _transaction(db):
            db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", meta.items())
        found = dict(db.execute("SELECT key, value FROM meta"))
        if found["schema"] != SCHEMA_VERSION:
            raise InputError(
                f"{self.path} has gallery schema {found['schema']}, this reidge reads {SCHEMA_VERSION}. "
                "Use the matching reidge or another path in storage.gallery."
            )
        if found["encoder"] != self._encoder_hash:
            raise InputError(
                f"{self.path} holds embeddings of another encoder ({found['encoder'][:12]}..., the bundle has "
                f"{self._encoder_hash[:12]}...). Run the bundle it was made with, or start a new gallery in "
                "storage.gallery."
            )

    def reopen(self) -> None:
        """Open the file anew: what went wrong with a disk may stay with the files that were open then.

        Raises:
            ReidgeError: It cannot be opened yet.
        """
        with self._using:
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = self._open()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._using:
            self._db.close()
            self._lock_file.close()

    def exemplars(self) -> list[Exemplar]:
        """Read all exemplars, oldest first.

        Raises:
            InputError: The file is damaged.
        """
        with self._reading():
            rows = self._db.execute("SELECT exemplar_id, global_id, captured_at, embedding FROM exemplars ORDER BY 1")
            return [
                Exemplar(
                    exemplar_id=row[0],
                    global_id=row[1],
                    captured_at=row[2],
                    embedding_D=np.frombuffer(row[3], dtype="<f4").astype(np.float32).reshape(self.embedding_dim),
                )
                for row in rows
            ]

    def identities(self) -> dict[int, float]:
        """Read all global_ids, ascending, and when each was created.

        Raises:
            InputError: The file is damaged.
        """
        with self._reading():
            return dict(self._db.execute("SELECT global_id, created_at FROM identities ORDER BY 1"))

    def last_numbers(self) -> tuple[int, int]:
        """The largest global_id and exemplar_id ever given.

        Raises:
            InputError: The file is damaged.
        """
        with self._reading():
            found = dict(self._db.execute("SELECT name, seq FROM sqlite_sequence"))
            return found.get("identities", 0), found.get("exemplars", 0)

    def write(self, changes: Changes) -> None:
        """Make the file say what `changes` says: all of it or nothing.

        Raises:
            ReidgeError: The disk is full or read-only, or another process holds the file.
        """
        try:
            with self._using, _transaction(self._db):
                self._put(changes)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _put(self, changes: Changes) -> None:
        """Write identities before exemplars that belong to them, and delete them last, when those have moved on."""
        there = [(number, at) for number, at in changes.identities.items() if at is not None]
        gone = [(number,) for number, at in changes.identities.items() if at is None]
        exemplars = [exemplar for exemplar in changes.exemplars.values() if exemplar is not None]
        dropped = [(number,) for number, exemplar in changes.exemplars.items() if exemplar is None]
        self._db.executemany("INSERT OR IGNORE INTO identities VALUES (?, ?)", there)
        self._db.executemany(
            PUT_EXEMPLAR,
            [(e.exemplar_id, e.global_id, e.captured_at, e.embedding_D.astype("<f4").tobytes()) for e in exemplars],
        )
        self._db.executemany("DELETE FROM exemplars WHERE exemplar_id = ?", dropped)
        self._db.executemany("DELETE FROM identities WHERE global_id = ?", gone)
        for table, numbers in (("identities", changes.identities), ("exemplars", changes.exemplars)):
            for statement in (START_SEQUENCE, RAISE_SEQUENCE):
                self._db.execute(statement, (table, max(numbers, default=0)))

    def flush_journal(self) -> None:
        """Write the journal back and empty it, so that nothing erased stays in it."""
        with self._using:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite ends it itself when the disk is full
            db.execute("ROLLBACK")
        raise
