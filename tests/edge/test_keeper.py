from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge import keeper as module
from reidge.edge.errors import ReidgeError
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.records import SightingRow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

DIM = 512


def someone(number: int) -> NDArray[np.float32]:
    embedding_D = np.random.default_rng(number).normal(size=DIM).astype(np.float32)
    return np.asarray(embedding_D / np.linalg.norm(embedding_D))


def open_gallery(path: Path) -> Gallery:
    config = GalleryConfig(min_similarity=0.8, max_exemplars=2)
    return Gallery(path, encoder_hash="a" * 64, embedding_dim=DIM, config=config)


def recognised(path: Path) -> dict[int, float]:
    """Who is in the file, read as the next start reads it."""
    with open_gallery(path) as gallery:
        return {number: gallery.match(someone(number)).similarity for number in gallery.identities()}


@contextmanager
def full_disk(used: int = 1) -> Iterator[None]:
    """The kernel refuses to write beyond the first `used` bytes of any file, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (used, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.1)


def wait_until_failed(gallery: Gallery, times: int = 1) -> None:
    deadline = time.monotonic() + 10.0
    while gallery.failures < times:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nothing_is_lost_when_the_disk_is_full_and_has_space_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gallery.sqlite"
    with open_gallery(path) as gallery:
        gallery.enrol(someone(1), captured_at=1.0)
        assert gallery.flush(5.0)
        with full_disk():
            for number in range(2, 40):
                assert gallery.enrol(someone(number), captured_at=float(number)) == number
            gallery.merge(kept=2, absorbed=3)
            wait_until_failed(gallery, times=2)
            assert gallery.match(someone(39)).global_id == 39  # in memory all goes on
            assert gallery.pending >= 38 + 38
        assert "cannot be written" in caplog.text
        wait_until_written(gallery)
    assert "written again, and complete" in caplog.text
    found = recognised(path)
    assert sorted(found) == [1, 2, *range(4, 40)]
    # The mean over both exemplars of the two that were merged is half; of all others there is only one.
    assert all(similarity == pytest.approx(1.0, abs=1e-5) for number, similarity in found.items() if number != 2)


def wait_until_written(gallery: Gallery) -> None:
    deadline = time.monotonic() + 10.0
    while gallery.pending:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_gallery_whose_disk_was_gone_for_a_while_has_all_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, away = tmp_path / "disk" / "gallery.sqlite", tmp_path / "away"
    with open_gallery(path) as gallery:
        known = gallery.enrol(someone(1), captured_at=1.0)
        assert gallery.flush(5.0)
        with full_disk():  # a disk that goes lets a write fail first
            gallery.enrol(someone(2), captured_at=2.0, global_id=known)
            wait_until_failed(gallery)
            path.parent.rename(away)
            path.parent.mkdir()  # where it was mounted there is a folder still
        wait_until_failed(gallery, times=gallery.failures + 2)
        assert list(path.parent.iterdir()) == []
        assert gallery.pending
        assert "written again" not in caplog.text
        path.parent.rmdir()
        away.rename(path.parent)
        wait_until_written(gallery)
        assert len(gallery.exemplars(known)) == 2
    with open_gallery(path) as gallery:
        assert len(gallery.exemplars(known)) == 2


def passing(number: int, global_id: int) -> SightingRow:
    at = float(number)
    return SightingRow(
        camid="door", track_id=number, started_at=at, ended_at=at, global_id=global_id, pictures=1,
        embedding_D=someone(number),
    )  # fmt: skip


def test_a_disk_that_is_away_for_long_costs_pictures_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, picture, given = tmp_path / "gallery.sqlite", bytes(5_000), bytes(6_000)
    monkeypatch.setattr(module, "MOST_WAITING", 40_000)
    with open_gallery(path) as gallery:
        known = gallery.enrol(someone(1), captured_at=1.0)
        assert gallery.flush(5.0)
        with full_disk():
            for number in range(2, 32):
                sighting_id = gallery.record(passing(number, known), crop=picture)
                gallery.assign(sighting_id, known, 0.5)
            named = gallery.enrol(someone(99), captured_at=99.0, enrolled=True, name="Anna", crop=given)
            wait_until_failed(gallery)
            # Each sighting brings 7,048 bytes: five fit, and then of embeddings alone many more.
            assert gallery.shed == 25
        wait_until_written(gallery)
        gallery.record(passing(40, known), crop=picture)  # there is room again
        assert gallery.shed == 25
    assert "complete, but for 25 pictures of sightings" in caplog.text
    assert caplog.text.count("pictures of sightings are left out") == 1
    with open_gallery(path) as gallery:
        assert len(gallery.sightings(global_id=known)) == 31
        assert gallery.identity(named).name == "Anna"
        images = gallery.store.images("1")
        assert [len(image) for _, _, image in images] == [5_000] * 5 + [6_000] + [5_000]
        assert [sighting_id for sighting_id, _, _ in images if sighting_id] == [1, 2, 3, 4, 5, 31]


def test_a_disk_that_is_full_to_the_end_costs_two_seconds_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gallery.sqlite"
    gallery = open_gallery(path)
    gallery.enrol(someone(1), captured_at=1.0)
    assert gallery.flush(5.0)
    with full_disk():
        gallery.enrol(someone(2), captured_at=2.0)
        wait_until_failed(gallery)
        began = time.monotonic()
        gallery.close()
        assert time.monotonic() - began < 5.0
    assert "2 changes of the gallery could not be written" in caplog.text
    assert sorted(recognised(path)) == [1]  # what was written before is whole


def test_who_came_and_went_while_nothing_could_be_written_keeps_the_number(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    with open_gallery(path) as gallery:
        gallery.enrol(someone(1), captured_at=1.0)
        assert gallery.flush(5.0)
        with full_disk():
            gallery.enrol(someone(2), captured_at=2.0)
            gallery.merge(kept=1, absorbed=2)
            wait_until_failed(gallery)
    with open_gallery(path) as gallery:
        assert gallery.identities() == [1]
        assert gallery.enrol(someone(3), captured_at=3.0) == 3


def test_a_file_that_another_program_holds_is_written_when_it_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    with open_gallery(path) as gallery:
        gallery.store._db.execute("PRAGMA busy_timeout = 10")  # nobody wants to wait here
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        gallery.enrol(someone(1), captured_at=1.0)
        wait_until_failed(gallery)
        other.execute("ROLLBACK")
        other.close()
    assert sorted(recognised(path)) == [1]


def test_an_identity_erased_by_another_program_stays_erased(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    with open_gallery(path) as gallery:
        gallery.enrol(someone(1), captured_at=1.0)
        gallery.enrol(someone(2), captured_at=1.0)
        assert gallery.flush(5.0)
        other = sqlite3.connect(path)
        other.execute("PRAGMA foreign_keys = ON")
        other.execute("DELETE FROM identities WHERE global_id = 1")
        other.commit()
        other.close()
        gallery.enrol(someone(1), captured_at=2.0, global_id=1)
        assert gallery.flush(5.0)
    assert sorted(recognised(path)) == [2]


def test_erasing_fails_where_the_file_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    with open_gallery(path) as gallery:
        gallery.enrol(someone(1), captured_at=1.0)
        assert gallery.flush(5.0)
        with full_disk(), pytest.raises(ReidgeError, match="not erased from the file yet"):
            gallery.erase(1)
    assert recognised(path) == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_one_line_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o500)
    with pytest.raises(ReidgeError, match=r"state/gallery.sqlite cannot be opened: Permission denied"):
        open_gallery(tmp_path / "state" / "gallery.sqlite")


def test_a_disk_that_is_full_at_the_start_is_one_line(tmp_path: Path) -> None:
    with full_disk(used=1000), pytest.raises(ReidgeError, match=r"gallery.sqlite cannot be written: .*free space"):
        open_gallery(tmp_path / "gallery.sqlite")


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_keeper import open_gallery, someone
gallery = open_gallery(Path({path!r}))
number = 0
while True:
    number += 1
    gallery.enrol(someone(number), captured_at=float(number))
    gallery.settle()
    print(number, flush=True)
"""


def test_who_was_told_is_on_disk_also_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    script = KILLED.format(tests=os.path.dirname(__file__), path=str(path))  # noqa: PTH120
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(20):
            told = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        told = max([told, *map(int, process.stdout.read().split())])
    assert len(recognised(path)) >= told
