from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from reidge.edge import holdback as module
from reidge.edge import keeper
from reidge.edge.events import Event
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.holdback import Holdback
from reidge.edge.metrics import Metrics, Series
from tests.edge.test_keeper import full_disk, wait_until_failed
from tests.edge.test_pipeline import write_site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

    from reidge.edge.events import EventKind


class Listener:
    """Notes what it hears, and whether the file said so too at that moment."""

    def __init__(self, path: Path | None = None) -> None:
        self.written = 0
        self.heard: list[str] = []
        self.in_file: list[int] = []
        self._path = path

    def write(self, event: Event) -> None:
        self.written += 1
        self.heard.append(event.event)
        if self._path is not None:
            with sqlite3.connect(self._path) as db:
                self.in_file += db.execute("SELECT count(*) FROM identities").fetchone()
            db.close()


def event(kind: EventKind, camid: str | None = "door") -> Event:
    return Event(event=kind, captured_at="2025-06-01T08:00:00.000Z", camid=camid)


def open_gallery(path: Path | str) -> Gallery:
    return Gallery(path, encoder_hash="a" * 64, embedding_dim=2, config=GalleryConfig(min_similarity=0.8))


def enrol(gallery: Gallery) -> None:
    gallery.enrol(np.array([1, 0], dtype=np.float32), captured_at=1.0)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another program keeps the file from being written."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def test_an_event_waits_until_the_file_says_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    listener = Listener(path)
    with open_gallery(path) as gallery:
        holdback = Holdback(listener, gallery, Metrics())
        with held(path):
            enrol(gallery)
            holdback.write(event("sighting.started"))
            holdback.write(event("identity.created"))
            holdback.write(event("camera.down", "yard"))
            assert holdback.release() == {"door"}
            assert listener.heard == ["sighting.started"]
            assert holdback.written == 3
        assert gallery.flush(5.0)
        assert holdback.release() == {"door", "yard"}
    assert listener.heard == ["sighting.started", "identity.created", "camera.down"]  # in their order
    assert listener.in_file == [0, 1, 1]


def test_late_news_is_worth_more_than_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, listener, metrics = tmp_path / "gallery.sqlite", Listener(), Metrics()
    with open_gallery(path) as gallery:
        holdback = Holdback(listener, gallery, metrics)
        with held(path):
            enrol(gallery)
            holdback.write(event("identity.created"))
            assert holdback.release() == set()
            monkeypatch.setattr(module, "LONGEST", 0.0)
            assert holdback.release() == {"door"}
    assert metrics.read().counters[Series("events_unsaved")] == 1
    assert "before the gallery's file says" in caplog.text


def test_nobody_waits_for_a_disk_that_is_in_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "RETRY_SECONDS", 0.1)
    listener, metrics = Listener(), Metrics()
    with open_gallery(tmp_path / "gallery.sqlite") as gallery:
        holdback = Holdback(listener, gallery, metrics)
        with full_disk():
            enrol(gallery)
            holdback.write(event("sighting.ended"))
            wait_until_failed(gallery)
            assert holdback.release() == {"door"}
        deadline = time.monotonic() + 10.0
        while gallery.pending:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        enrol(gallery)
        assert gallery.flush(5.0)
        holdback.write(event("sighting.ended"))
        holdback.release()
    assert metrics.read().counters[Series("events_unsaved")] == 1  # the second was in the file


def test_at_the_end_everything_goes_out(tmp_path: Path) -> None:
    path, listener = tmp_path / "gallery.sqlite", Listener()
    with open_gallery(path) as gallery, held(path):
        holdback = Holdback(listener, gallery, Metrics())
        enrol(gallery)
        holdback.write(event("sighting.ended"))
        holdback.write(event("camera.down"))
        holdback.release(at_once=True)
    assert listener.heard == ["sighting.ended", "camera.down"]


def test_a_gallery_that_keeps_nothing_holds_nothing_back() -> None:
    listener = Listener()
    with open_gallery(":memory:") as gallery:
        enrol(gallery)
        holdback = Holdback(listener, gallery, Metrics())
        holdback.write(event("identity.created"))
        assert holdback.release() == {"door"}


def test_a_sighting_that_was_told_is_there_after_a_kill_of_the_whole_run(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    path, events = write_site(tmp_path, tiny_bundle, walks), tmp_path / "events.jsonl"
    command = [sys.executable, "-m", "reidge.cli.main", "run", str(path)]
    for camera in (0, 1):
        command += ["--set", f"cameras.{camera}.pace=realtime", "--set", f"cameras.{camera}.since=2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60.0
        while not (events.exists() and "sighting.ended" in events.read_text()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
    told = [json.loads(line) for line in events.read_text().splitlines(keepends=True) if line.endswith("\n")]
    with closing(sqlite3.connect(tmp_path / "gallery.sqlite")) as db:
        kept = dict(db.execute("SELECT camid || track_id, global_id FROM sightings"))
        known = {global_id for (global_id,) in db.execute("SELECT global_id FROM identities")}
    ended = [event for event in told if event["event"] == "sighting.ended"]
    assert ended
    assert [kept[f"{event['camid']}{event['track_id']}"] for event in ended] == [event["global_id"] for event in ended]
    assert {event["global_id"] for event in told if event["event"] == "identity.created"} <= known
