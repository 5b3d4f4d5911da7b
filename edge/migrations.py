"""The schema of the gallery's file, as the steps by which it came about.

A new file takes all of them, an old one those it lacks; each step is one transaction. A step that was released is never
edited: what changes is a step more.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from reidge.edge.errors import InputError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

STEPS: tuple[tuple[str, ...], ...] = (
    (  # 1: identities and their exemplars
        """
        CREATE TABLE identities (
            global_id INTEGER PRIMARY KEY AUTOINCREMENT,  -- a number that was erased is never given again
            created_at REAL NOT NULL
        )
        """,
        """
        CREATE TABLE exemplars (
            exemplar_id INTEGER PRIMARY KEY AUTOINCREMENT,
            global_id INTEGER NOT NULL REFERENCES identities ON DELETE CASCADE,
            captured_at REAL NOT NULL,
            embedding BLOB NOT NULL
        )
        """,
        "CREATE INDEX exemplars_of ON exemplars (global_id)",
    ),
    (  # 2: sightings are the truth that exemplars come from; names, history, privacy, requests to a site that runs
        "ALTER TABLE identities ADD COLUMN uid TEXT",
        "ALTER TABLE identities ADD COLUMN last_seen REAL NOT NULL DEFAULT 0",
        "ALTER TABLE identities ADD COLUMN name TEXT",
        "UPDATE identities SET uid = lower(hex(randomblob(16)))",
        """
        UPDATE identities SET last_seen = coalesce(
            (SELECT max(captured_at) FROM exemplars WHERE exemplars.global_id = identities.global_id), created_at)
        """,
        "CREATE UNIQUE INDEX identities_by_uid ON identities (uid)",
        "CREATE INDEX identities_by_last_seen ON identities (last_seen)",
        """
        CREATE TABLE sightings (
            sighting_id INTEGER PRIMARY KEY AUTOINCREMENT,
            uid TEXT NOT NULL UNIQUE,
            camid TEXT NOT NULL,
            track_id INTEGER NOT NULL,
            started_at REAL NOT NULL,
            ended_at REAL NOT NULL,
            global_id INTEGER REFERENCES identities ON DELETE SET NULL,
            similarity REAL,
            pictures INTEGER NOT NULL,
            embedding BLOB
        )
        """,
        "CREATE INDEX sightings_of ON sightings (global_id)",
        "CREATE INDEX sightings_by_end ON sightings (ended_at)",
        "ALTER TABLE exemplars ADD COLUMN sighting_id INTEGER REFERENCES sightings ON DELETE SET NULL",
        "ALTER TABLE exemplars ADD COLUMN quality REAL NOT NULL DEFAULT 1",
        "ALTER TABLE exemplars ADD COLUMN enrolled INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX exemplars_from ON exemplars (sighting_id)",
        """
        CREATE TABLE crops (
            crop_id INTEGER PRIMARY KEY AUTOINCREMENT,
            sighting_id INTEGER REFERENCES sightings ON DELETE CASCADE,
            exemplar_id INTEGER REFERENCES exemplars ON DELETE CASCADE,
            image BLOB NOT NULL
        )
        """,
        "CREATE INDEX crops_of_sighting ON crops (sighting_id)",
        "CREATE INDEX crops_of_exemplar ON crops (exemplar_id)",
        """
        CREATE TABLE history (
            history_id INTEGER PRIMARY KEY AUTOINCREMENT,
            at REAL NOT NULL,
            action TEXT NOT NULL,
            global_id INTEGER NOT NULL,  -- merge: the identity that stands; split: the new one
            other_id INTEGER,            -- merge: the one that was given up; split: the one it was part of
            detail TEXT NOT NULL,
            undone_at REAL
        )
        """,
        "CREATE INDEX history_of ON history (global_id)",
        "CREATE INDEX history_of_other ON history (other_id)",
        """
        CREATE TABLE tombstones (
            uid TEXT PRIMARY KEY,
            kind TEXT NOT NULL,
            erased_at REAL NOT NULL
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE audit (
            audit_id INTEGER PRIMARY KEY AUTOINCREMENT,
            at REAL NOT NULL,
            actor TEXT NOT NULL,
            action TEXT NOT NULL,
            subject TEXT,
            detail TEXT
        )
        """,
        """
        CREATE TABLE requests (
            request_id INTEGER PRIMARY KEY AUTOINCREMENT,
            at REAL NOT NULL,
            action TEXT NOT NULL,
            arguments TEXT NOT NULL,
            answer TEXT,
            answered_at REAL
        )
        """,
        "CREATE INDEX requests_open ON requests (request_id) WHERE answered_at IS NULL",
    ),
)
SCHEMA_VERSION = len(STEPS)
META = "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"


def schema_of(db: sqlite3.Connection, path: Path | str) -> int:
    """Which steps a file has taken; 0 for one that holds nothing yet.

    Raises:
        InputError: It is of a newer reidge, or of another program.
    """
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    columns = [row[1] for row in db.execute("PRAGMA table_info(meta)")]
    if tables and columns != ["key", "value"]:
        raise InputError(f"{path} is a database of another program. Give another path in storage.gallery.")
    row = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() if tables else None
    found = "0" if row is None else row[0]
    if not found.isdecimal() or int(found) > SCHEMA_VERSION:
        raise InputError(
            f"{path} has gallery schema {found}, this reidge reads up to {SCHEMA_VERSION}. "
            "Use the matching reidge or another path in storage.gallery."
        )
    return int(found)


def migrate(db: sqlite3.Connection, path: Path | str) -> None:
    """Take the steps that a file lacks.

    Raises:
        InputError: The file is of a newer reidge.
        sqlite3.Error: It is damaged or cannot be written; it is as it was before the step.
    """
    for version in range(schema_of(db, path) + 1, SCHEMA_VERSION + 1):
        with transaction(db):
            db.execute(META)
            for statement in STEPS[version - 1]:
                db.execute(statement)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('schema', ?)", (str(version),))


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite ends it itself when the disk is full
            db.execute("ROLLBACK")
        raise
