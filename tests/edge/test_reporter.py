from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.holdback import Holdback
from reidge.edge.metrics import Metrics
from reidge.edge.reporter import Reporter
from reidge.edge.ruling import Change
from tests.edge.test_sightings import Scene

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reidge.edge.events import Event


class Heard(list["Event"]):
    """Takes events as an output would."""

    written = 0

    def write(self, event: Event) -> None:
        self.append(event)


@pytest.fixture
def gallery() -> Iterator[Gallery]:
    config = GalleryConfig(min_similarity=0.8)
    with Gallery(":memory:", encoder_hash="a" * 64, embedding_dim=2, config=config) as gallery:
        yield gallery


class Told(Scene):
    """A scene of which the world is told."""

    def __init__(self, gallery: Gallery, *, min_sightings: int) -> None:
        super().__init__(gallery, min_sightings=min_sightings)
        self.heard = Heard()
        self.reporter = Reporter(Holdback(self.heard, gallery, Metrics()), updates_every=1.0)

    def walk(self, camid: str, angle: float, start: float) -> list[tuple[str, int | None, int | None]]:
        """Let somebody pass; returns event, track_id and global_id of what was told at the end."""
        sighting = self.begin(camid, start)
        for step in range(4):
            self.see(sighting, angle, start + step)
        self.heard.clear()
        self.reporter.changed(self.book.end(sighting, sighting.last_seen))
        self.reporter.ended(sighting)
        self.reporter.emit()
        return [(event.event, event.track_id, event.global_id) for event in self.heard]


def test_who_is_seen_a_second_time_is_told_for_both_times(gallery: Gallery) -> None:
    scene = Told(gallery, min_sightings=2)
    scene.book.config = scene.book.config.model_copy(update={"min_embeddings": 99})  # decided at the end only
    assert scene.walk("cam1", 0, 0) == [("sighting.ended", 1, None)]
    assert scene.walk("cam2", 5, 100) == [
        ("identity.created", 2, 1),
        ("sighting.decided", 1, 1),
        ("sighting.ended", 2, 1),
    ]
    assert scene.heard[1].captured_at == "1970-01-01T00:00:03.000Z"  # when the first one was seen, not now
    assert scene.heard[1].camid == "cam1"
    assert scene.reporter.identities(()) == 1
    assert scene.reporter.undecided == 0
    assert [event.sighting_id for event in scene.heard] == [2, 1, 2]


def test_a_track_of_an_earlier_run_is_told_by_its_number_without_a_box_and_counts_in_that_run(gallery: Gallery) -> None:
    before = Told(gallery, min_sightings=2)
    before.walk("cam1", 0, 0)
    before.walk("cam1", 90, 50)
    after = Told(gallery, min_sightings=2)  # another book: a new run with the same gallery
    after.book.config = after.book.config.model_copy(update={"min_embeddings": 99})
    after.walk("cam2", 5, 100)
    decided = next(event for event in after.heard if event.event == "sighting.decided")
    ended = after.heard[-1]
    assert (decided.track_id, decided.sighting_id, decided.box) == (1, 1, None)
    assert (ended.track_id, ended.sighting_id, ended.box) == (1, 3, (0, 0, 1, 1))
    assert (before.reporter.undecided, after.reporter.undecided) == (2, 0)


def test_an_update_has_no_number_yet(gallery: Gallery) -> None:
    scene = Told(gallery, min_sightings=2)
    sighting = scene.begin("cam1", 0)
    scene.reporter.started(sighting)
    scene.reporter.emit()
    assert (scene.heard[0].event, scene.heard[0].sighting_id) == ("sighting.started", None)


def test_who_is_nobody_again_counts_as_undecided_again(gallery: Gallery) -> None:
    scene = Told(gallery, min_sightings=2)
    sighting = scene.begin("cam1", 0)
    scene.reporter.ended(sighting)
    for before, after in ((None, 7), (7, 8), (8, None)):
        scene.reporter.changed([Change(kind="decided", global_id=after, before=before, sighting=sighting)])
        assert scene.reporter.undecided == (after is None)


def test_a_split_is_told_with_every_sighting_that_leaves(gallery: Gallery) -> None:
    scene = Told(gallery, min_sightings=1)
    scene.book.config = scene.book.config.model_copy(update={"min_embeddings": 99})
    scene.walk("cam1", 0, 0)
    assert scene.walk("cam1", 33, 100) == [("sighting.ended", 2, 1)]
    assert scene.walk("cam1", 60, 200) == [
        ("identity.split", 3, 2),
        ("sighting.decided", 2, 2),
        ("sighting.ended", 3, 2),
    ]
    split, decided, _ = scene.heard
    assert split.split_from == 1
    assert split.similarity is decided.similarity is None  # what was like the old identity says nothing of the new one
    assert next(row.similarity for row in gallery.sightings(global_id=2)) is None
