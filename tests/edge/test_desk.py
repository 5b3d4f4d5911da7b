from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reidge.edge import cipher, desk, postbox
from reidge.edge.audit import NEWEST, entries
from reidge.edge.desk import Desk
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.postbox import Postbox
from reidge.edge.requests import Enrol, Erase, Merge, Rename, Shot, Split, Unmerge, read_request
from reidge.edge.retention import DAY, RetentionConfig
from reidge.edge.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

DIM = 64


def someone(seed: int) -> NDArray[np.float32]:
    embedding_D = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return np.asarray(embedding_D / np.linalg.norm(embedding_D), dtype=np.float32)


def shot(seed: int, crop: bytes | None = None) -> Shot:
    return Shot.of(someone(seed), quality=1.0, crop=crop)


def open_gallery(folder: Path, **more: Any) -> Gallery:
    config = GalleryConfig(min_similarity=0.8)
    return Gallery(folder / "gallery.sqlite", encoder_hash="a" * 64, embedding_dim=DIM, config=config, **more)


def another_process(folder: Path, secret: str | None = None) -> Store:
    """The file as the command line opens it while a site runs."""
    return Store(folder / "gallery.sqlite", encoder_hash="a" * 64, embedding_dim=DIM, secret=secret, shared=True)


def content(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


@contextmanager
def at_work(
    gallery: Gallery, retention: RetentionConfig | None = None, *, in_view: tuple[int, ...] = ()
) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """A loop that goes round; gives what it is told of changes."""
    told: list[tuple[str, dict[str, Any]]] = []
    stop = threading.Event()
    counter = Desk(gallery, retention or RetentionConfig())

    def loop() -> None:
        while not stop.wait(0.005):
            counter.serve(in_view, lambda request, answer: told.append((type(request).__name__, answer)))

    with ThreadPoolExecutor(1) as pool, counter:
        running = pool.submit(loop)
        try:
            yield told
        finally:
            stop.set()
            running.result(10)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cipher, "SCRYPT_N", 16)
    monkeypatch.setattr(desk, "LOOK_EVERY", 0.01)


def test_everything_that_can_be_asked_is_done_by_the_site_that_runs(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery, at_work(gallery) as told:
        shared = another_process(tmp_path)
        with Postbox(shared) as box:
            anna = box.ask(Enrol(by="ada", shots=(shot(1), shot(2)), name="Anna", captured_at=1.0))
            assert anna == {"global_id": 1, "created": True, "pictures": 2}
            assert box.ask(Enrol(by="ada", shots=(shot(3),), captured_at=2.0))["global_id"] == 2
            assert box.ask(Merge(by="ada", kept=1, absorbed=2)) == {"global_id": 1, "merged_from": 2}
            assert box.ask(Unmerge(by="ada", absorbed=2)) == {"global_id": 2, "split_from": 1, "sightings": []}
            assert box.ask(Rename(by="ada", global_id=2, name="Bob")) == {"global_id": 2}
            assert box.ask(Erase(by="bob", global_ids=(1,))) == {"erased": [1], "sightings": []}
        assert [kind for kind, _ in told] == ["Enrol", "Enrol", "Merge", "Unmerge", "Rename", "Erase"]
        assert gallery.identity(2).name == "Bob"
        assert gallery.match(someone(3)).global_id == 2
        assert gallery.match(someone(1)).global_id is None
        audit = entries(shared.read(NEWEST, (10,)))
        assert [(entry.actor, entry.action, entry.subject) for entry in audit] == [
            ("bob", "erase", "1"),
            ("ada", "rename", "2"),
            ("ada", "unmerge", "1, 2"),
            ("ada", "merge", "1, 2"),
            ("ada", "enrol", "2"),
            ("ada", "enrol", "1"),
        ]
        assert shared.read("SELECT count(*) FROM requests") == [(0,)]
        shared.close()


def test_whoever_is_erased_while_the_site_runs_is_in_no_file_when_the_answer_comes(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).bytes(500)
    with open_gallery(tmp_path) as gallery, at_work(gallery):
        shared = another_process(tmp_path)
        with Postbox(shared) as box:
            box.ask(Enrol(by="ada", shots=(shot(1, picture),), name="Anna Arendt", captured_at=1.0))
            assert shared.images("1") == [(None, 1, picture)]
            parts = (picture[50:70], someone(1).tobytes()[40:60], b"Arendt")
            assert all(part in content(tmp_path) for part in parts)
            box.ask(Erase(by="ada", global_ids=(1,)))
            assert not any(part in content(tmp_path) for part in parts)
        shared.close()


def test_what_the_site_refuses_is_an_error_of_whoever_asked(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery, at_work(gallery) as told:
        shared = another_process(tmp_path)
        gallery.enrol(someone(1), captured_at=1.0)
        with Postbox(shared) as box:
            for request, words in (
                (Rename(by="ada", global_id=7, name=None), "no identity 7"),
                (Erase(by="ada", global_ids=(1, 7)), "no identity 7"),
                (Erase(by="ada", global_ids=(1,), sighting_ids=(5,)), "no sighting 5"),
                (Split(by="ada", global_id=1, sighting_ids=(3,)), "none of the sightings"),
            ):
                with pytest.raises(InputError, match=words):
                    box.ask(request)
        shared.close()
        assert told == []
        assert gallery.identities() == [1]


def test_a_request_that_nobody_takes_up_is_taken_back(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        shared = another_process(tmp_path)
        with Postbox(shared) as box, pytest.raises(ReidgeError, match="nothing was changed"):
            box.ask(Enrol(by="ada", shots=(shot(1),), captured_at=1.0), seconds=0.1)
        assert shared.read("SELECT count(*) FROM requests") == [(0,)]
        shared.close()
        with at_work(gallery) as told:
            time.sleep(0.1)
        assert told == []


def test_a_request_of_whoever_was_killed_while_waiting_is_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postbox, "STALE_SECONDS", 0.05)
    with open_gallery(tmp_path) as gallery:
        with Postbox(gallery.store) as box:
            box._put(Rename(by="ada", global_id=1, name=None))
            time.sleep(0.1)
            assert box.take() == []
        assert gallery.store.read("SELECT count(*) FROM requests") == [(0,)]


def test_an_answer_that_nobody_came_for_is_thrown_away_though_no_other_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_gallery(tmp_path) as gallery, Postbox(gallery.store) as box:
        for number in (1, 2):
            box._put(Rename(by="ada", global_id=number, name=None))
        answered, _ = box.take()  # the site was killed while it worked on the other one
        box.answer(answered, {"global_id": 1})
        assert box.take() == []
        assert gallery.store.read("SELECT count(*) FROM requests") == [(2,)]
        monkeypatch.setattr(postbox, "STALE_SECONDS", 0.05)
        time.sleep(0.1)
        assert box.take() == []
        assert gallery.store.read("SELECT count(*) FROM requests") == [(0,)]


def test_a_journal_that_a_reader_holds_is_emptied_later_by_tries_that_are_few_and_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float | None] = []
    flush_journal = Store.flush_journal

    def noted(self: Store, seconds: float | None = None) -> None:
        waits.append(seconds)
        flush_journal(self, seconds)

    with open_gallery(tmp_path) as gallery, at_work(gallery):
        monkeypatch.setattr("reidge.edge.store.JOURNAL_SECONDS", 0.1)
        monkeypatch.setattr(Store, "flush_journal", noted)
        monkeypatch.setattr(desk, "SCRUB_EVERY", 1000.0)
        gallery.enrol(someone(1), captured_at=1.0)
        gallery.enrol(someone(2), captured_at=1.0)
        assert gallery.flush(10.0)
        reader = sqlite3.connect(tmp_path / "gallery.sqlite", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM exemplars").fetchone()
        shared = another_process(tmp_path)
        with Postbox(shared) as box:
            with pytest.raises(ReidgeError, match="emptied as soon as it can be"):
                box.ask(Erase(by="ada", global_ids=(1,)))
            box.ask(Rename(by="ada", global_id=2, name=None))
            assert waits == [None]
            monkeypatch.setattr(desk, "SCRUB_EVERY", 0.02)
            with pytest.raises(ReidgeError, match="emptied as soon as it can be"):
                box.ask(Erase(by="ada", global_ids=(2,)))
        reader.close()
        deadline = time.monotonic() + 10
        while someone(2).tobytes()[40:60] in content(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert someone(2).tobytes()[40:60] not in content(tmp_path)
        assert waits[:2] == [None, None]
        assert set(waits[2:]) == {desk.SCRUB_SECONDS}
        shared.close()


def test_requests_and_answers_of_an_encrypted_gallery_are_sealed(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    with open_gallery(tmp_path, secret="correct horse") as gallery:
        shared = another_process(tmp_path, "correct horse")
        with Postbox(shared) as box:
            request = Rename(by="ada lovelace", global_id=1, name="Anna Arendt")
            box._put(request)
            assert not any(word in content(tmp_path) for word in (b"Arendt", b"lovelace"))
            (letter,) = box.take()
            assert read_request(letter.text) == request
            box.answer(letter, {"name": "Anna Arendt"})
            assert b"Arendt" not in content(tmp_path)
            assert box._answer_to(letter.request_id) == {"name": "Anna Arendt"}
        shared.close()
        assert gallery.flush(10.0)


def test_nonsense_in_the_file_is_answered_and_stops_nothing(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery, at_work(gallery) as told:
        with sqlite3.connect(tmp_path / "gallery.sqlite") as db:
            db.execute("INSERT INTO requests (at, action, arguments) VALUES (?, 'boom', '{')", (time.time(),))
        db.close()
        shared = another_process(tmp_path)
        with Postbox(shared) as box:
            box.ask(Enrol(by="ada", shots=(shot(1),), captured_at=1.0))
        assert "another reidge" in shared.read("SELECT answer FROM requests")[0][0]
        shared.close()
    assert len(told) == 1


def test_a_request_that_nobody_thought_of_costs_itself_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_gallery(tmp_path) as gallery, at_work(gallery) as told:
        shared = another_process(tmp_path)
        with Postbox(shared) as box:
            with pytest.raises(ReidgeError, match="could not do it"):
                box.ask(Enrol(by="ada", shots=(Shot(embedding="A", quality=1.0),), captured_at=1.0))
            assert box.ask(Enrol(by="ada", shots=(shot(1),), captured_at=1.0))["global_id"] == 1
        shared.close()
    assert len(told) == 1
    assert "a request for the gallery failed" in caplog.text


def test_the_site_forgets_by_itself_who_was_not_seen_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "RETAIN_FIRST", 0.0)
    monkeypatch.setattr("reidge.edge.requests.PORTION", 2)
    now = time.time()
    with open_gallery(tmp_path) as gallery:
        for seed, days in enumerate((31, 32, 33, 34, 35, 29, 0)):
            gallery.enrol(someone(seed), captured_at=now - days * DAY)
        assert gallery.flush(10.0)
        with at_work(gallery, in_view=(1,)) as told:
            deadline = time.monotonic() + 20
            while len(gallery) > 3 and time.monotonic() < deadline:
                time.sleep(0.01)
        assert gallery.identities() == [1, 6, 7]
        assert [len(answer["erased"]) for _, answer in told][:2] == [2, 2]
        stale = someone(4).tobytes()[40:60]
    assert stale not in content(tmp_path)
