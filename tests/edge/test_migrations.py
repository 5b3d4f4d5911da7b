from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge import migrations
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.migrations import SCHEMA_VERSION, migrate

if TYPE_CHECKING:
    from pathlib import Path

ENCODER = "a" * 64
# As the first release wrote it.
FIRST = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE identities (global_id INTEGER PRIMARY KEY AUTOINCREMENT, created_at REAL NOT NULL);
CREATE TABLE exemplars (
    exemplar_id INTEGER PRIMARY KEY AUTOINCREMENT,
    global_id INTEGER NOT NULL REFERENCES identities ON DELETE CASCADE,
    captured_at REAL NOT NULL,
    embedding BLOB NOT NULL
);
CREATE INDEX exemplars_of ON exemplars (global_id);
"""


def open_gallery(path: Path) -> Gallery:
    config = GalleryConfig(min_similarity=0.8, nearest=1)
    return Gallery(path, encoder_hash=ENCODER, embedding_dim=2, config=config)


def write_first(path: Path) -> None:
    """Two identities; the first was seen at 10 and 30, and a third was erased."""
    db = sqlite3.connect(path)
    db.executescript(FIRST)
    meta = {"schema": "1", "encoder": ENCODER, "embedding_dim": "2"}
    db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    db.executemany("INSERT INTO identities VALUES (?, ?)", [(1, 10.0), (2, 20.0), (3, 25.0)])
    rows = [(1, 10.0, (1, 0)), (2, 20.0, (0, 1)), (1, 30.0, (-1, 0))]
    for global_id, at, embedding in rows:
        blob = np.array(embedding, dtype="<f4").tobytes()
        db.execute("INSERT INTO exemplars VALUES (NULL, ?, ?, ?)", (global_id, at, blob))
    db.execute("DELETE FROM identities WHERE global_id = 3")
    db.commit()
    db.close()


def test_a_gallery_of_the_first_release_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    write_first(path)
    with open_gallery(path) as gallery:
        assert gallery.identities() == [1, 2]
        assert (gallery.identity(1).created_at, gallery.identity(1).last_seen) == (10.0, 30.0)
        assert len(gallery.identity(1).uid) == 32
        assert gallery.identity(1).uid != gallery.identity(2).uid
        assert gallery.match(np.array([-1, 0], dtype=np.float32)).global_id == 1
        assert gallery.enrol(np.array([0, -1], dtype=np.float32), captured_at=40.0) == 4
    with open_gallery(path) as gallery:
        assert gallery.identities() == [1, 2, 4]


def test_a_gallery_of_a_newer_reidge_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    open_gallery(path).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    db.close()
    with pytest.raises(InputError, match=rf"has gallery schema 99, this reidge reads up to {SCHEMA_VERSION}\."):
        open_gallery(path)


def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gallery.sqlite"
    write_first(path)
    broken = (*migrations.STEPS[1], "INSERT INTO nowhere VALUES (1)")
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "STEPS", (migrations.STEPS[0], broken))
        with pytest.raises(ReidgeError):
            open_gallery(path)
    db = sqlite3.connect(path)
    assert db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == ("1",)
    assert [row[1] for row in db.execute("PRAGMA table_info(identities)")] == ["global_id", "created_at"]
    db.close()
    with open_gallery(path) as gallery:
        assert gallery.identities() == [1, 2]


@pytest.mark.parametrize("steps", [0, 1])
def test_a_first_start_that_was_killed_half_way_goes_on(tmp_path: Path, steps: int) -> None:
    path = tmp_path / "gallery.sqlite"
    db = sqlite3.connect(path)
    db.execute(migrations.META)
    db.execute("INSERT INTO meta VALUES ('encoder', ?), ('embedding_dim', '2')", (ENCODER,))
    for statement in migrations.STEPS[0] * steps:
        db.execute(statement)
    if steps:
        db.execute("INSERT INTO meta VALUES ('schema', '1')")
    db.commit()
    db.close()
    with open_gallery(path) as gallery:
        assert gallery.enrol(np.array([1, 0], dtype=np.float32), captured_at=1.0) == 1


def test_old_and_new_files_come_to_the_same_schema(tmp_path: Path) -> None:
    write_first(tmp_path / "old.sqlite")
    schemas = []
    for name in ("old", "new"):
        db = sqlite3.connect(tmp_path / f"{name}.sqlite", isolation_level=None)
        migrate(db, name)
        tables = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1").fetchall()
        schemas.append({table: db.execute(f"PRAGMA table_info({table})").fetchall() for (table,) in tables})
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        db.close()
    assert schemas[0] == schemas[1]
