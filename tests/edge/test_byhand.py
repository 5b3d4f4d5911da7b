from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reidge.edge.associate import Evidence
from reidge.edge.byhand import take_over
from reidge.edge.errors import InputError
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.holdback import Holdback
from reidge.edge.metrics import Metrics
from reidge.edge.reporter import Reporter
from reidge.edge.requests import Enrol, Erase, Merge, Request, Retain, Shot, Split, Unmerge
from reidge.edge.retention import RetentionConfig
from reidge.edge.ruling import Ruling
from reidge.edge.sightings import EvidenceConfig, Sighting, SightingBook
from reidge.edge.window import Question

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.edge.events import Event


def unit(degrees: float) -> NDArray[np.float32]:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], dtype=np.float32)


class Sink:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.written = 0

    def write(self, event: Event) -> None:
        self.events.append(event)


class Running:
    """A gallery on disk, who decides with it, and who tells."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery, self.sink = gallery, Sink()
        self.reporter = Reporter(Holdback(self.sink, gallery, Metrics()), updates_every=1.0)
        self.start()

    def start(self) -> None:
        """Decide from the beginning, as after a restart."""
        assert self.gallery.flush(10.0)
        config = EvidenceConfig(min_embeddings=2, min_embeddings_new=2, min_embeddings_end=1, min_sightings=1)
        self.book = SightingBook(config, self.gallery)

    def live(self, angle: float, start: float) -> Sighting:
        sighting = Sighting(camid="gate", track_id=int(start), started_at=start, last_seen=start, box=(0, 0, 1, 1))
        self.book.live["gate", int(start)] = sighting
        for now in (start, start + 1):
            sighting.last_seen = now
            sighting.add_evidence(unit(angle), 1.0)
            self.book.decide(sighting, now)
        return sighting

    def passing(self, angle: float, start: float) -> Sighting:
        sighting = self.live(angle, start)
        self.book.end(sighting, sighting.last_seen)
        return sighting

    def ask(self, request: Request) -> dict[str, Any]:
        answer = request.fulfil(self.gallery)
        self.reporter.changed(take_over(self.book, self.reporter, request, answer))
        self.reporter.emit(at_once=True)
        return answer

    def told(self) -> list[tuple[str, int | None, int | None]]:
        return [(e.event, e.global_id, e.merged_from or e.split_from) for e in self.sink.events]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """Matches up to an angle of 36 degrees (cosine 0.8)."""
    config = GalleryConfig(min_similarity=0.8)
    with Gallery(tmp_path / "gallery.sqlite", encoder_hash="a" * 64, embedding_dim=2, config=config) as gallery:
        yield Running(gallery)


def test_whoever_is_erased_while_in_view_is_somebody_new(running: Running) -> None:
    first = running.passing(0, 100)
    again = running.live(5, 110)
    assert again.global_id == first.global_id == 1
    running.ask(Erase(by="ada", global_ids=(1,)))
    assert again.global_id is None
    again.add_evidence(unit(5), 1.0)
    running.book.end(again, 112)
    assert again.global_id == 2
    assert running.told() == [("identity.erased", 1, None)]
    assert running.sink.events[0].reason == "erase"


def test_whoever_was_erased_is_not_known_by_their_past(running: Running) -> None:
    running.passing(0, 100)
    running.ask(Erase(by="ada", global_ids=(1,)))
    assert running.passing(0, 200).global_id == 2
    assert [row.global_id for row in running.gallery.sightings()] == [2]


def test_a_merge_by_hand_holds_for_those_in_view(running: Running) -> None:
    running.passing(0, 100)
    other = running.live(90, 110)
    assert other.global_id == 2
    running.ask(Merge(by="ada", kept=1, absorbed=2))
    assert other.global_id == 1
    assert running.book.final(2) == 1
    assert running.told() == [("identity.merged", 1, 2)]


def test_what_a_user_took_apart_stays_apart_also_after_a_restart(running: Running) -> None:
    one, other = running.passing(0, 100), running.passing(0, 110)
    assert one.global_id == other.global_id == 1
    running.ask(Split(by="ada", global_id=1, sighting_ids=(other.sighting_id,)))
    assert (one.global_id, other.global_id) == (1, 2)
    assert running.told() == [("identity.split", 2, 1), ("sighting.decided", 2, None)]
    assert running.sink.events[1].track_id == other.track_id
    for start in (120, 130):  # each is like both, which must not become one by that
        running.passing(0, start)
        assert running.gallery.identities() == [1, 2]
    running.start()
    running.passing(0, 140)
    assert running.gallery.identities() == [1, 2]


def test_a_sighting_of_somebody_else_is_not_split_off_with_the_others(running: Running) -> None:
    _, one, other = running.passing(0, 100), running.passing(5, 110), running.passing(90, 120)
    assert (one.global_id, other.global_id) == (1, 2)
    with pytest.raises(InputError, match=f"sighting {other.sighting_id} is not of identity 1"):
        running.ask(Split(by="ada", global_id=1, sighting_ids=(one.sighting_id, other.sighting_id)))
    assert (one.global_id, other.global_id) == (1, 2)
    assert running.gallery.identities() == [1, 2]
    assert running.told() == []


def test_what_a_user_took_apart_stays_apart_when_one_of_them_goes_by_another_number(running: Running) -> None:
    known = running.passing(90, 100)
    one, other = running.passing(0, 110), running.passing(0, 120)
    running.ask(Split(by="ada", global_id=2, sighting_ids=(other.sighting_id,)))
    running.gallery.merge(kept=1, absorbed=2)  # as the site does by itself
    running.book.adopt(kept=1, absorbed=2)
    assert (known.global_id, one.global_id, other.global_id) == (1, 1, 3)
    assert frozenset((1, 3)) in running.book.window.taken_apart
    running.start()
    running.book.resume(130.0)
    assert running.book.window.taken_apart == {frozenset((1, 3))}
    running.ask(Merge(by="ada", kept=1, absorbed=3))  # the user has thought better of it
    running.start()
    running.book.resume(130.0)
    assert running.book.window.taken_apart == set()


def test_a_disk_that_cannot_be_read_parts_nobody_and_ends_nothing(running: Running) -> None:
    one, other = running.passing(0, 100), running.passing(5, 110)
    assert one.global_id == other.global_id == 1
    evidence = Evidence(
        similarity_NN=np.eye(2),
        weight_N=np.ones(2),
        transit_NN=np.zeros((2, 2)),
        apart_NN=np.zeros((2, 2), dtype=bool),
        decay=0.1,
    )
    question = Question(anchors=(), sightings=(one, other), likeness_NN=np.eye(2), evidence=evidence)
    running.gallery.store._reader.close()
    assert list(Ruling(running.book, question, [[0], [1]], other).changes()) == []
    assert (one.global_id, other.global_id) == (1, 1)
    running.gallery.store.reopen()
    assert [change.kind for change in Ruling(running.book, question, [[0], [1]], other).changes()] == [
        "split", "decided",
    ]  # fmt: skip
    assert (one.global_id, other.global_id) == (1, 2)


def test_a_merge_that_was_taken_back_is_not_made_again_by_the_site(running: Running) -> None:
    one, other = running.passing(0, 100), running.passing(40, 110)  # cosine 0.77
    assert (one.global_id, other.global_id) == (1, 2)
    running.ask(Merge(by="ada", kept=1, absorbed=2))
    assert other.global_id == 1
    answer = running.ask(Unmerge(by="ada", absorbed=2))
    assert answer["sightings"] == [other.sighting_id]
    assert (one.global_id, other.global_id) == (1, 2)
    running.passing(20, 120)  # like both
    assert running.gallery.identities() == [1, 2]
    assert [kind for kind, _, _ in running.told()] == ["identity.merged", "identity.split", "sighting.decided"]


def test_whoever_is_enrolled_while_the_site_runs_is_recognised(running: Running) -> None:
    shots = (Shot.of(unit(90), quality=1.0),)
    running.ask(Enrol(by="ada", shots=shots, name="Anna", captured_at=time.time()))
    assert running.passing(95, 100).global_id == 1
    assert running.told() == [("identity.created", 1, None)]


def test_the_retention_tells_whom_it_forgot_and_leaves_those_in_view(running: Running) -> None:
    running.passing(0, 100)
    present = running.live(90, 110)
    running.gallery.flush(10.0)
    request = Retain(by="retention", config=RetentionConfig(), now=time.time())
    answer = request.fulfil(running.gallery, in_view=running.book.in_view)
    take_over(running.book, running.reporter, request, answer)
    running.reporter.emit(at_once=True)
    assert running.told() == [("identity.erased", 1, None)]
    assert running.sink.events[0].reason == "retain"
    assert present.global_id == 2
    assert running.gallery.identities() == [2]
    assert list(running.book.window.ended) == []
