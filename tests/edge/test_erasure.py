from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reidge.edge import cipher
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.records import SightingRow, Statement

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIM = 64


def someone(seed: int) -> NDArray[np.float32]:
    embedding_D = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return np.asarray(embedding_D / np.linalg.norm(embedding_D), dtype=np.float32)


def open_gallery(folder: Path, secret: str | None = None) -> Gallery:
    config = GalleryConfig(min_similarity=0.8)
    return Gallery(folder / "gallery.sqlite", encoder_hash="a" * 64, embedding_dim=DIM, config=config, secret=secret)


def seen(gallery: Gallery, seed: int, global_id: int | None, at: float = 1.0) -> int:
    """A sighting, its exemplar, and a picture."""
    row = SightingRow(
        camid="gate", track_id=seed, started_at=at, ended_at=at, global_id=global_id, pictures=1,
        embedding_D=someone(seed),
    )  # fmt: skip
    sighting_id = gallery.record(row)
    if global_id is not None:
        gallery.enrol(someone(seed), captured_at=at, global_id=global_id, sighting_id=sighting_id)
    picture_H = np.frombuffer(picture(seed), dtype=np.uint8)
    gallery.keep([Statement("INSERT INTO crops (sighting_id, image) VALUES (?, ?)", (sighting_id, picture_H))])
    return sighting_id


def picture(seed: int) -> bytes:
    return b"\xff\xd8 picture of " + np.random.default_rng(seed).bytes(600)


def traces(folder: Path, seed: int) -> list[str]:
    """Files in which anything of somebody is found: any stretch of the embedding or the picture."""
    kinds = {
        "float32": someone(seed).tobytes(),
        "float16": someone(seed).astype(np.float16).tobytes(),
        "picture": picture(seed),
    }
    return sorted(
        f"{path.name}: {kind}"
        for path in folder.rglob("*")
        if path.is_file()
        for kind, whole in kinds.items()
        if any(whole[i : i + 12] in path.read_bytes() for i in range(24, len(whole) - 12, 48))
    )


def rows(folder: Path, sql: str) -> list[Any]:
    with sqlite3.connect(folder / "gallery.sqlite") as db:
        found = db.execute(sql).fetchall()
    db.close()
    return found


def test_nothing_of_whom_was_erased_is_left_in_any_file_while_the_gallery_is_open(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        for seed in range(40):
            global_id = gallery.enrol(someone(1000 + seed), captured_at=1.0)
            seen(gallery, seed, global_id)
        assert gallery.flush(10.0)
        assert all(traces(tmp_path, seed) for seed in (7, 8, 1007))
        gallery.erase(8)  # number 8 is seed 7
        assert traces(tmp_path, 7) == []
        assert traces(tmp_path, 1007) == []
        assert {entry.partition(": ")[2] for entry in traces(tmp_path, 8)} == {"float32", "picture"}
        assert 8 not in [candidate.global_id for candidate in gallery.nearest(someone(7), limit=40)]
        assert gallery.enrol(someone(7), captured_at=2.0) == 41  # comes back as somebody new


def test_nothing_is_left_after_a_life_of_changes(tmp_path: Path) -> None:
    # Pages that were split, joined and used again keep copies of what moved, unless they are overwritten too.
    random = np.random.default_rng(0)
    gone: list[int] = []
    with open_gallery(tmp_path) as gallery:
        owners: dict[int, list[int]] = {}
        for seed in range(300):
            known = int(random.choice(list(owners))) if owners and random.random() < 0.5 else None
            global_id = gallery.enrol(someone(5000 + seed), captured_at=1.0) if known is None else known
            seen(gallery, seed, global_id)
            owners.setdefault(global_id, []).append(seed)
            if len(owners) > 10:
                kept, absorbed, erased = (int(i) for i in random.choice(list(owners), 3, replace=False))
                gallery.merge(kept=kept, absorbed=absorbed)
                owners[kept] += owners.pop(absorbed)
                gallery.forget(erased)
                gone += owners.pop(erased)
        gallery.scrub()
        assert len(gone) > 50
        assert [entry for seed in gone[::3] for entry in traces(tmp_path, seed)] == []


def test_tombstones_stay_of_the_identity_of_those_it_absorbed_and_of_their_sightings(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        first, second, third, other = (gallery.enrol(someone(i), captured_at=1.0) for i in range(4))
        uids = {i: gallery.identity(i).uid for i in (first, second, third, other)}
        for seed, global_id in enumerate((first, second, third, other), start=10):
            seen(gallery, seed, global_id)
        sightings = {row.global_id: row.uid for row in gallery.sightings()}
        gallery.merge(kept=second, absorbed=third)
        gallery.merge(kept=first, absorbed=second)
        gallery.merge(kept=first, absorbed=other)
        gallery.unmerge(other)
        gallery.erase(first)
        assert set(rows(tmp_path, "SELECT uid, kind FROM tombstones")) == {
            *((uids[i], "identity") for i in (first, second, third)),
            *((sightings[i], "sighting") for i in (first, second, third)),
        }
        assert [row.global_id for row in gallery.sightings()] == [other]
        assert rows(tmp_path, f"SELECT count(*) FROM exemplars WHERE global_id != {other}") == [(0,)]
        assert rows(tmp_path, "SELECT count(*) FROM crops") == [(1,)]
        with pytest.raises(InputError, match="was not merged"):
            gallery.unmerge(third)


def test_a_name_that_is_taken_away_is_in_no_file_though_a_merge_was_taken_back(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        one, other = (
            gallery.enrol(someone(i), captured_at=1.0, name=name) for i, name in enumerate(("Anna Arendt", "Bob Dylan"))
        )
        gallery.merge(kept=one, absorbed=other)
        gallery.unmerge(other)
        assert [gallery.identity(i).name for i in (one, other)] == ["Anna Arendt", "Bob Dylan"]
        for global_id in (one, other):
            gallery.rename(global_id, None)
        gallery.scrub()
        content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert not any(name in content for name in (b"Arendt", b"Dylan"))


def test_an_undecided_sighting_can_be_erased_too(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        sighting_id = seen(gallery, 3, None)
        (row,) = gallery.sightings()
        gallery.forget_sightings([sighting_id])
        gallery.scrub()
        assert gallery.sightings() == []
        assert traces(tmp_path, 3) == []
        assert rows(tmp_path, "SELECT uid, kind FROM tombstones") == [(row.uid, "sighting")]


def test_who_is_forgotten_without_a_tombstone_leaves_nothing_at_all(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        global_id = gallery.enrol(someone(1), captured_at=1.0)
        seen(gallery, 2, global_id)
        gallery.forget(global_id, tombstone=False)
        gallery.scrub()
        assert rows(tmp_path, "SELECT count(*) FROM tombstones") == [(0,)]
        assert traces(tmp_path, 1) + traces(tmp_path, 2) == []


def test_a_kill_between_an_erasure_and_its_end_leaves_nothing_after_the_next_start(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.edge.test_erasure import open_gallery, someone
gallery = open_gallery(Path(sys.argv[1]))
for seed in range(3):
    gallery.enrol(someone(seed), captured_at=1.0)
assert gallery.flush(10.0)
gallery.forget(2)
assert gallery.flush(10.0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), root], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert traces(tmp_path, 1) == ["gallery.sqlite-wal: float32"]
    with open_gallery(tmp_path) as gallery:
        assert traces(tmp_path, 1) == []
        assert gallery.match(someone(0)).global_id == 1
        assert gallery.match(someone(1)).global_id is None


def test_a_reader_that_stays_is_said_to_hold_back_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_gallery(tmp_path) as gallery:
        global_id = gallery.enrol(someone(1), captured_at=1.0)
        assert gallery.flush(10.0)
        reader = sqlite3.connect(tmp_path / "gallery.sqlite", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM exemplars").fetchone()
        monkeypatch.setattr("reidge.edge.store.JOURNAL_SECONDS", 0.1)
        with pytest.raises(ReidgeError, match="another process reads the gallery"):
            gallery.erase(global_id)
        reader.close()
        gallery.scrub()
        assert traces(tmp_path, 1) == []


def test_an_encrypted_gallery_shows_nobody_and_knows_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    monkeypatch.setattr(cipher, "SCRYPT_N", 16)
    with open_gallery(tmp_path, "correct horse") as gallery:
        global_id = gallery.enrol(someone(1), captured_at=1.0)
        seen(gallery, 2, None)
        assert gallery.flush(10.0)
        assert traces(tmp_path, 1) + traces(tmp_path, 2) == []
    with open_gallery(tmp_path, "correct horse") as gallery:
        assert gallery.match(someone(1)).global_id == global_id
        embedding_D = gallery.sightings()[0].embedding_D
        assert embedding_D is not None
        assert embedding_D.tolist() == someone(2).tolist()
    for secret, words in ((None, "is encrypted"), ("wrong horse", "another secret")):
        with pytest.raises(InputError, match=words):
            open_gallery(tmp_path, secret)


def test_a_secret_for_a_gallery_that_is_not_encrypted_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    open_gallery(tmp_path).close()
    with pytest.raises(InputError, match=r"not encrypted, and storage\.secret is set"):
        open_gallery(tmp_path, "correct horse")
