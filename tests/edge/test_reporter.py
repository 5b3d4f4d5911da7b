from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.holdback import Holdback
from reidge.edge.metrics import Metrics
from reidge.edge.reporter import Reporter
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
    assert scene.heard[0].split_from == 1
