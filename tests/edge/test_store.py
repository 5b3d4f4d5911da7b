from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge import records
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.records import Exemplar, Identity, SightingRow, Statement
from reidge.edge.store import GalleryInUse, Store

if TYPE_CHECKING:
    from pathlib import Path

ENCODER = "a" * 64


def open_store(path: Path, *, encoder: str = ENCODER) -> Store:
    return Store(path, encoder_hash=encoder, embedding_dim=2)


def identity(number: int) -> Statement:
    return records.put_identity(Identity(global_id=number, created_at=1.0, last_seen=1.0))


def exemplar(number: int, global_id: int, sighting_id: int | None = None) -> Statement:
    embedding_D = np.array([1, 0], dtype=np.float32)
    return records.put_exemplar(
        Exemplar(
            exemplar_id=number, global_id=global_id, captured_at=1.0, embedding_D=embedding_D, sighting_id=sighting_id
        )
    )


def sighting(number: int, global_id: int | None) -> Statement:
    row = SightingRow(
        sighting_id=number, camid="door", track_id=1, started_at=0.0, ended_at=1.0, global_id=global_id, pictures=0
    )
    return records.put_sighting(row)


def numbers(store: Store, table: str) -> list[int]:
    key = {"identities": "global_id", "exemplars": "exemplar_id", "sightings": "sighting_id"}[table]
    return [row[0] for row in store.read(f"SELECT {key} FROM {table} ORDER BY 1")]


def read_all(path: Path) -> None:
    """Read what the next start reads."""
    store = open_store(path)
    try:
        store.identities()
        list(store.exemplars())
        store.last_numbers()
    finally:
        store.close()


def test_all_of_a_change_is_written_or_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "gallery.sqlite")
    with pytest.raises(ReidgeError, match="cannot be written"):
        store.write([identity(1), Statement("INSERT INTO nowhere VALUES (?)", (1,))])
    assert numbers(store, "identities") == []
    store.close()


def test_a_change_that_contradicts_the_file_holds_up_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(tmp_path / "gallery.sqlite")
    store.write([identity(1), exemplar(1, 1)])
    twice = Statement("INSERT INTO crops (exemplar_id, image) VALUES (?, ?)", (99, np.zeros(2, dtype=np.uint8)))
    store.write([identity(2), twice, exemplar(2, 2)])
    assert numbers(store, "identities") == [1, 2]
    assert numbers(store, "exemplars") == [1, 2]
    assert store.read("SELECT count(*) FROM crops") == [(0,)]
    assert "contradicts it and is left out (INSERT INTO crops" in caplog.text
    store.close()


def test_numbers_of_numpy_are_numbers_and_what_is_none_holds_up_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "gallery.sqlite")
    store.write([identity(1), sighting(1, None)])
    store.write([Statement(records.ASSIGN_SIGHTING, (np.int64(1), np.int64(1), np.float32(0.5)))])
    assert store.read("SELECT global_id, similarity FROM sightings") == [(1, 0.5)]
    store.write([Statement(records.NAME_IDENTITY, (1, object())), identity(2)])
    assert numbers(store, "identities") == [1, 2]
    store.close()


def test_what_belongs_to_nobody_any_more_goes_nowhere(tmp_path: Path) -> None:
    store = open_store(tmp_path / "gallery.sqlite")
    store.write([exemplar(1, 7), sighting(1, 7), identity(1), exemplar(2, 1, sighting_id=9)])
    assert numbers(store, "exemplars") == [2]
    assert store.read("SELECT sighting_id FROM exemplars") == [(None,)]
    assert store.read("SELECT global_id FROM sightings") == [(None,)]
    store.write([Statement(records.MOVE_EXEMPLAR, (2, 7)), Statement(records.ASSIGN_SIGHTING, (1, 7, 0.5))])
    assert store.read("SELECT global_id FROM exemplars") == [(1,)]
    assert store.read("SELECT global_id FROM sightings") == [(None,)]
    store.close()


def test_reading_does_not_wait_for_a_write(tmp_path: Path) -> None:
    store = open_store(tmp_path / "gallery.sqlite")
    store.write([identity(1)])
    writing, looked = threading.Event(), threading.Event()

    def hang() -> None:
        with store._using:
            writing.set()
            assert looked.wait(10.0)

    thread = threading.Thread(target=hang)
    thread.start()
    assert writing.wait(10.0)
    assert numbers(store, "identities") == [1]
    looked.set()
    thread.join()
    store.close()


def test_another_process_is_refused_until_the_first_is_gone_however_it_went(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    script = (
        "import sys, time; from reidge.edge.store import Store; "
        f"s = Store({str(path)!r}, encoder_hash={ENCODER!r}, embedding_dim=2); print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        with pytest.raises(GalleryInUse, match="in use by another reidge"):
            open_store(path)
        process.kill()
    open_store(path).close()


@pytest.mark.parametrize("at", [0, 40, 8192])
def test_a_file_with_bytes_of_something_else_is_refused_in_one_line(tmp_path: Path, at: int) -> None:
    path = tmp_path / "gallery.sqlite"
    store = open_store(path)
    store.write([identity(1), exemplar(1, 1)])
    store.close()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xa5" * 40 if at == 40 else b"\xa5" * (path.stat().st_size - at))
    with pytest.raises(ReidgeError) as error:
        read_all(path)
    assert "\n" not in str(error.value)
    assert "gallery.sqlite" in str(error.value)


def test_a_journal_that_is_cut_short_costs_what_was_not_whole_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    store = open_store(path)
    store.write([identity(1)])
    store.flush_journal()
    store.write([identity(2)])
    store.write([identity(3)])
    journal = path.with_name("gallery.sqlite-wal").read_bytes()
    whole = path.read_bytes()
    store.close()
    path.write_bytes(whole)
    path.with_name("gallery.sqlite-wal").write_bytes(journal[:-100])  # as a power cut may leave it
    store = open_store(path)
    assert numbers(store, "identities") == [1, 2]
    store.close()


def test_the_schema_keeps_what_belongs_together(tmp_path: Path) -> None:
    store = open_store(tmp_path / "gallery.sqlite")
    store.write([identity(1), sighting(1, 1), exemplar(1, 1, sighting_id=1)])
    picture = np.arange(3, dtype=np.uint8)
    store.write([Statement("INSERT INTO crops (sighting_id, image) VALUES (?, ?)", (1, picture))])
    store.write([Statement("DELETE FROM sightings WHERE sighting_id = ?", (1,))])
    assert store.read("SELECT count(*) FROM crops") == [(0,)]
    assert store.read("SELECT sighting_id FROM exemplars") == [(None,)]
    store.write([Statement(records.DROP_IDENTITY, (1,))])
    assert numbers(store, "exemplars") == []
    store.close()


def test_another_encoder_is_refused_before_the_file_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    open_store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = '1' WHERE key = 'schema'")
    db.close()
    with pytest.raises(InputError, match="another encoder"):
        open_store(path, encoder="b" * 64)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == ("1",)
    db.close()


@pytest.mark.parametrize("table", ["bookmarks (url TEXT)", "meta (name TEXT, value TEXT)"])
def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path, table: str) -> None:
    path = tmp_path / "places.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(f"CREATE TABLE {table}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"places\.sqlite is a database of another program"):
        open_store(path)
    assert path.read_bytes() == before


def test_embeddings_fill_the_file_they_are_in(tmp_path: Path) -> None:
    store = Store(tmp_path / "gallery.sqlite", encoder_hash=ENCODER, embedding_dim=512)
    embeddings_MD = np.random.default_rng(0).normal(size=(1500, 512)).astype(np.float32)
    store.write([identity(1)])
    store.write(
        [
            records.put_exemplar(Exemplar(exemplar_id=n, global_id=1, captured_at=0.0, embedding_D=e))
            for n, e in enumerate(embeddings_MD, 1)
        ]
    )
    store.close()
    assert (tmp_path / "gallery.sqlite").stat().st_size < 1.5 * embeddings_MD.nbytes


def test_another_process_that_reads_and_leaves_takes_no_journal_along(tmp_path: Path) -> None:
    # It would, were the locks of this process on the file dropped by opening and closing the file past SQLite.
    path = tmp_path / "gallery.sqlite"
    count = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); print(*db.execute(sys.argv[2]).fetchone())"
    ask = [sys.executable, "-c", f"{count}; db.close()", str(path), "SELECT count(*) FROM identities"]
    store = open_store(path)
    store.reopen()
    for number in (1, 2, 3):
        store.write([identity(number)])
        assert subprocess.run(ask, capture_output=True, text=True, check=True).stdout == f"{number}\n"
    store.close()


def move(path: Path, folder: Path) -> Path:
    """Put a gallery with its journal somewhere else, as a disk takes it along that is pulled out."""
    folder.mkdir(exist_ok=True)
    for file in path.parent.glob(f"{path.name}*"):
        if not file.name.endswith(".lock"):
            file.rename(folder / file.name)
    return folder / path.name


def test_a_gallery_that_is_opened_again_is_never_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    store = open_store(path)
    store.write([identity(1)])
    away = move(path, tmp_path / "away")
    for _ in range(2):
        with pytest.raises(ReidgeError, match=r"gallery\.sqlite cannot be written"):
            store.reopen()
        assert not path.exists()
    move(away, tmp_path)
    store.reopen()
    assert numbers(store, "identities") == [1]
    store.close()


def test_a_gallery_that_came_back_with_its_disk_is_locked_again(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    store = open_store(path)
    away = move(path, tmp_path / "away")
    path.with_name("gallery.sqlite.lock").unlink()
    move(away, tmp_path)
    store.reopen()
    with pytest.raises(GalleryInUse):
        open_store(path)
    store.reopen()  # the same lock goes on
    store.close()
    open_store(path).close()


def test_who_took_the_gallery_while_its_disk_was_elsewhere_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    store = open_store(path)
    away = move(path, tmp_path / "away")
    path.with_name("gallery.sqlite.lock").unlink()
    move(away, tmp_path)
    other = open_store(path)
    with pytest.raises(GalleryInUse):
        store.reopen()
    with pytest.raises(ReidgeError, match="cannot be read at present"):
        store.read("SELECT 1")
    other.write([identity(1)])
    other.close()
    store.reopen()
    assert numbers(store, "identities") == [1]
    store.close()


def test_a_gallery_may_be_a_link_to_a_disk_that_is_not_there_yet(tmp_path: Path) -> None:
    disk, path = tmp_path / "disk", tmp_path / "gallery.sqlite"
    path.symlink_to(disk / "gallery.sqlite")
    with pytest.raises(ReidgeError, match=r"gallery\.sqlite cannot be written"):
        open_store(path)
    assert path.is_symlink()
    disk.mkdir()
    open_store(path).close()
    assert (disk / "gallery.sqlite").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("other", ["a gallery", "an empty file"])
def test_another_file_that_took_the_place_of_the_gallery_is_left_alone(tmp_path: Path, other: str) -> None:
    path = tmp_path / "gallery.sqlite"
    store = open_store(path)
    store.write([identity(1)])
    away = move(path, tmp_path / "away")
    if other == "a gallery":
        beside = open_store(tmp_path / "other" / "gallery.sqlite")
        beside.write([identity(7)])
        beside.close()
        move(beside.path, tmp_path)
    else:
        path.touch()
    before = path.read_bytes()
    with pytest.raises(ReidgeError, match=r"gallery\.sqlite is not the gallery that was there at the start"):
        store.reopen()
    assert path.read_bytes() == before
    path.unlink()
    move(away, tmp_path)
    store.reopen()
    assert numbers(store, "identities") == [1]
    store.close()


def test_a_gallery_from_before_galleries_were_told_apart_is_known_again_too(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    open_store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM meta WHERE key = 'uid'")
    db.close()
    store = open_store(path)
    store.reopen()
    store.write([identity(1)])
    store.close()


def test_what_cannot_be_read_at_present_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    store = open_store(path)
    store.write([identity(1)])
    away = move(path, tmp_path / "away")
    with pytest.raises(ReidgeError):
        store.reopen()
    for read in (
        store.identities,
        lambda: list(store.exemplars()),
        lambda: store.images("1"),
        store.snapshot().__enter__,
    ):
        with pytest.raises(ReidgeError, match="cannot be read at present") as error:
            read()
        assert not isinstance(error.value, InputError)  # a user would throw the gallery away
    move(away, tmp_path)
    store.reopen()
    with store.snapshot():
        assert numbers(store, "identities") == [1]
    store.close()
