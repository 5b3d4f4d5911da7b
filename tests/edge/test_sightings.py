from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.sightings import RESUME_AGAIN, EvidenceConfig, Sighting, SightingBook
from reidge.edge.window import MOST_TOGETHER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.edge.records import Statement


def unit(degrees: float) -> NDArray[np.float32]:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], dtype=np.float32)


@pytest.fixture
def gallery() -> Iterator[Gallery]:
    """Matches up to an angle of 36 degrees (cosine 0.8)."""
    config = GalleryConfig(min_similarity=0.8)
    with Gallery(":memory:", encoder_hash="a" * 64, embedding_dim=2, config=config) as gallery:
        yield gallery


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[Gallery]:
    config = GalleryConfig(min_similarity=0.8)
    with Gallery(tmp_path / "g.sqlite", encoder_hash="a" * 64, embedding_dim=2, config=config) as gallery:
        yield gallery


@contextmanager
def unreadable(gallery: Gallery) -> Iterator[None]:
    """Take the sightings away from under an open gallery for a while."""
    assert gallery.flush(10)
    with closing(sqlite3.connect(gallery.path)) as other:
        other.execute("ALTER TABLE sightings RENAME TO elsewhere")
        try:
            yield
        finally:
            other.execute("ALTER TABLE elsewhere RENAME TO sightings")


class Scene:
    """Sightings written by hand: who (an angle), where, from when to when."""

    def __init__(
        self, gallery: Gallery, overlapping: dict[str, list[str]] | None = None, *, min_sightings: int = 1
    ) -> None:
        config = EvidenceConfig(
            min_embeddings=2, min_embeddings_new=3, min_embeddings_end=1, min_sightings=min_sightings, decide_every=1e9
        )
        self.book = SightingBook(config, gallery, overlapping)
        self.count = 0

    def begin(self, camid: str, start: float) -> Sighting:
        self.count += 1
        sighting = Sighting(camid=camid, track_id=self.count, started_at=start, last_seen=start, box=(0, 0, 1, 1))
        self.book.live[camid, self.count] = sighting
        return sighting

    def see(self, sighting: Sighting, angle: float, now: float, *, weight: float = 1.0) -> list[str]:
        sighting.last_seen = now
        sighting.add_evidence(unit(angle), weight)
        return [change.kind for change in self.book.decide(sighting, now)]

    def end(self, sighting: Sighting) -> list[str]:
        return [change.kind for change in self.book.end(sighting, sighting.last_seen)]

    def passing(self, camid: str, angle: float, start: float, end: float) -> Sighting:
        sighting = self.begin(camid, start)
        for now in np.linspace(start, end, 4):
            self.see(sighting, angle, float(now))
        self.end(sighting)
        return sighting

    def known(self, *angles: float) -> int:
        """Somebody with four exemplars at each angle, from long ago."""
        global_id = None
        for angle in angles:
            for _ in range(4):
                global_id = self.book.gallery.enrol(unit(angle), captured_at=0.0, global_id=global_id)
        assert global_id is not None
        return global_id

    def in_view(self, global_id: int, camid: str, angle: float, start: float, end: float) -> Sighting:
        """Somebody who is in view, and known, since before."""
        sighting = self.begin(camid, start)
        sighting.add_evidence(unit(angle), 3.0)
        sighting.embeddings, sighting.global_id, sighting.last_seen = 3, global_id, end
        return sighting

    def are_two(self, angle: float, now: float) -> bool:
        """Tell whether the two identities that a newcomer is like can be one person."""
        newcomer = self.begin("cam9", now)
        newcomer.add_evidence(unit(angle), 1.0)
        question = self.book.window.ask(newcomer, [], 0.8)
        del self.book.live[newcomer.camid, newcomer.track_id]
        assert len(question.anchors) == 2
        return bool(question.evidence.apart_NN[0, 1])


def test_a_track_stays_undecided_until_there_is_enough_evidence(gallery: Gallery) -> None:
    scene = Scene(gallery)
    sighting = scene.begin("cam1", 0.0)
    assert scene.see(sighting, 0, 0.1) == []
    assert scene.see(sighting, 0, 0.2) == []  # enough to be matched, not to be somebody new
    assert scene.see(sighting, 0, 0.3) == ["created", "assigned"]
    assert sighting.global_id == 1


def test_who_comes_again_elsewhere_is_recognised(gallery: Gallery) -> None:
    scene = Scene(gallery)
    first = scene.passing("cam1", 0, 0, 5)
    again = scene.begin("cam2", 10.0)
    scene.see(again, 20, 10.1)
    assert scene.see(again, 20, 10.2) == ["assigned"]
    assert again.global_id == first.global_id
    assert again.similarity == pytest.approx(np.cos(np.radians(20)), abs=1e-6)


def test_a_stranger_gets_an_identity_of_their_own(gallery: Gallery) -> None:
    scene = Scene(gallery)
    assert [scene.passing("cam1", 0, 0, 5).global_id, scene.passing("cam1", 90, 10, 15).global_id] == [1, 2]


def test_twins_in_view_at_the_same_time_are_two_people(gallery: Gallery) -> None:
    scene = Scene(gallery)
    first = scene.begin("cam1", 0.0)
    for now in (0.1, 0.2, 0.3):
        scene.see(first, 0, now)
    same_camera, other_camera = scene.begin("cam1", 0.2), scene.begin("cam2", 0.2)
    for now in (0.3, 0.4, 0.5):
        scene.see(first, 0, now)
        scene.see(same_camera, 1, now)
        scene.see(other_camera, 2, now)
    assert len({first.global_id, same_camera.global_id, other_camera.global_id}) == 3


def test_cameras_that_overlap_may_see_one_person_at_once(gallery: Gallery) -> None:
    scene = Scene(gallery, {"cam1": ["cam2"], "cam2": ["cam1"]})
    here, there = scene.begin("cam1", 0.0), scene.begin("cam2", 0.0)
    for now in (0.1, 0.2, 0.3):
        scene.see(here, 0, now)
        scene.see(there, 1, now)
    assert here.global_id == there.global_id == 1


def test_a_new_identity_is_merged_when_the_whole_track_shows_an_old_one(gallery: Gallery) -> None:
    scene = Scene(gallery)
    old = scene.passing("cam1", 0, 0, 5)
    again = scene.begin("cam2", 10.0)
    for now in (10.1, 10.2, 10.3):
        scene.see(again, 50, now)  # seen badly at first
    assert again.global_id == 2
    for now in np.arange(10.4, 12.0, 0.1):
        scene.see(again, 5, float(now))
    assert scene.end(again) == ["merged"]
    assert again.global_id == old.global_id == 1
    assert scene.book.merged == {2: 1}
    assert gallery.identities() == [1]


def test_a_wrong_early_answer_is_corrected_at_the_end(gallery: Gallery) -> None:
    scene = Scene(gallery)
    zero, ninety = scene.passing("cam1", 0, 0, 5), scene.passing("cam1", 90, 10, 15)
    again = scene.begin("cam2", 20.0)
    for now in (20.1, 20.2):
        scene.see(again, 30, now)
    assert again.global_id == zero.global_id
    for now in np.arange(20.3, 24.0, 0.1):
        scene.see(again, 85, float(now))
    assert scene.end(again) == ["merged"]  # alone in between, it had become somebody new
    assert again.global_id == ninety.global_id


def test_a_better_picture_weighs_more(gallery: Gallery) -> None:
    scene = Scene(gallery)
    sighting = scene.begin("cam1", 0.0)
    scene.see(sighting, 0, 0.1, weight=1.0)
    scene.see(sighting, 90, 0.2, weight=0.0)
    assert sighting.mean_D == pytest.approx(unit(0))


def test_a_track_without_evidence_stays_nobody(gallery: Gallery) -> None:
    scene = Scene(gallery)
    sighting = scene.begin("cam1", 0.0)
    assert scene.end(sighting) == []
    assert sighting.global_id is None
    assert len(gallery) == 0


def test_pictures_are_wanted_at_the_asked_rate(gallery: Gallery) -> None:
    book = SightingBook(EvidenceConfig(embeddings_per_second=5), gallery)
    sighting = Sighting(camid="cam1", track_id=1, started_at=0.0, last_seen=0.0, box=(0, 0, 1, 1))
    taken = 0
    for frame in range(100):  # ten seconds at 10 fps
        if book.wants(sighting, frame / 10):
            sighting.last_embedded = frame / 10
            taken += 1
    assert taken == 50


def test_it_suffices_that_one_of_two_cameras_says_they_overlap(gallery: Gallery) -> None:
    scene = Scene(gallery, {"cam2": ["cam1"]})
    here, there = scene.begin("cam1", 0.0), scene.begin("cam2", 0.0)
    for now in (0.1, 0.2, 0.3):
        scene.see(there, 1, now)
        scene.see(here, 0, now)
    assert here.global_id == there.global_id == 1


def test_somebody_seen_once_is_nobody_until_seen_again_and_then_both_times_are_told(gallery: Gallery) -> None:
    scene = Scene(gallery, min_sightings=2)
    first = scene.passing("cam1", 0, 0, 5)
    assert (first.global_id, len(gallery)) == (None, 0)
    second = scene.begin("cam2", 10.0)
    scene.see(second, 20, 10.1)
    second.last_seen = 11.0
    second.add_evidence(unit(20), 1.0)
    changes = scene.book.decide(second, 11.0)
    assert [(change.kind, change.sighting) for change in changes] == [
        ("created", second),
        ("decided", first),
        ("assigned", second),
    ]
    assert first.global_id == second.global_id == 1
    assert gallery.sightings(global_id=1)[0].track_id == first.track_id


def test_somebody_seen_once_is_recognised_long_after(gallery: Gallery) -> None:
    scene = Scene(gallery, min_sightings=2)
    first = scene.passing("cam1", 0, 0, 5)
    for minute in range(1, 30):  # strangers push the first one out of the window
        scene.passing("cam1", 90 + 3 * minute, 60 * minute, 60 * minute + 5)
    assert first not in scene.book.window.ended
    again = scene.passing("cam2", 3, 7200, 7205)
    assert again.global_id is not None
    assert first.global_id == again.global_id
    assert [row.track_id for row in gallery.sightings(global_id=again.global_id)] == [first.track_id, again.track_id]


def test_two_who_were_taken_for_one_are_parted_when_more_is_known(gallery: Gallery) -> None:
    """At 33 degrees the second is like the first, for want of anybody else; then one at 60 degrees is more like it."""
    scene = Scene(gallery)
    first, second = scene.passing("cam1", 0, 0, 5), scene.passing("cam1", 33, 100, 105)
    assert first.global_id == second.global_id == 1
    third = scene.passing("cam1", 60, 200, 205)
    assert second.global_id == third.global_id == 2
    assert first.global_id == 1
    assert [row.track_id for row in gallery.sightings(global_id=2)] == [second.track_id, third.track_id]


def test_after_a_restart_sightings_of_the_last_while_are_still_open(tmp_path: Path) -> None:
    config = GalleryConfig(min_similarity=0.8)
    with Gallery(tmp_path / "g.sqlite", encoder_hash="a" * 64, embedding_dim=2, config=config) as gallery:
        Scene(gallery, min_sightings=2).passing("cam1", 0, 1000, 1005)
    with Gallery(tmp_path / "g.sqlite", encoder_hash="a" * 64, embedding_dim=2, config=config) as gallery:
        scene = Scene(gallery, min_sightings=2)
        again = scene.passing("cam2", 5, 1020, 1025)
        assert again.global_id == 1
        assert [row.camid for row in gallery.sightings(global_id=1)] == ["cam1", "cam2"]


def test_an_identity_that_was_erased_is_not_given_again(gallery: Gallery) -> None:
    scene = Scene(gallery)
    scene.passing("cam1", 0, 0, 5)
    gallery.erase(1)
    scene.book.forget(1)
    assert scene.passing("cam2", 0, 10, 15).global_id == 2


def test_among_two_who_are_alike_the_margin_leaves_it_open(gallery: Gallery) -> None:
    gallery.config = GalleryConfig(min_similarity=0.8, min_margin=0.1)
    scene = Scene(gallery)
    one = scene.begin("cam1", 0.0)
    other = scene.begin("cam1", 0.0)
    for now in (0.1, 0.2, 0.3):
        scene.see(one, 0, now)
        scene.see(other, 40, now)
    scene.end(one)
    scene.end(other)
    assert one.global_id != other.global_id
    between = scene.passing("cam2", 19, 10, 15)  # 0.946 to one, 0.934 to the other
    assert between.global_id is None
    assert scene.passing("cam2", 2, 20, 25).global_id == one.global_id


def test_two_who_were_once_seen_together_are_two_for_good(gallery: Gallery) -> None:
    scene = Scene(gallery)
    one, other = scene.begin("cam1", 0.0), scene.begin("cam2", 0.0)
    for now in (0.1, 0.2, 0.3):
        scene.see(one, 0, now)
        scene.see(other, 12, now)
    scene.end(one)
    scene.end(other)
    assert gallery.identities() == [1, 2]
    scene.passing("cam1", 180, 5000, 5005)  # meanwhile both have left the window
    assert one not in scene.book.window.ended
    assert scene.passing("cam1", 6, 5100, 5105).global_id in (1, 2)
    assert gallery.identities() == [1, 2, 3]


def test_part_of_an_identity_is_not_where_the_rest_of_it_is(gallery: Gallery) -> None:
    """Of three sightings of one person the middle one is unlike the newcomer, but in view at the same time."""
    scene = Scene(gallery)
    scene.passing("cam1", 0, 0, 5)
    middle = scene.begin("cam2", 100.0)
    for now in (100.1, 100.2, 100.3):
        scene.see(middle, 30, now)
    assert middle.global_id == 1
    newcomer = scene.begin("cam3", 100.0)
    for now in (100.3, 100.4, 100.5):
        scene.see(newcomer, -30, now)
    assert newcomer.global_id != 1


def test_what_stands_in_for_a_track_goes_when_the_track_is_over_so_that_nothing_stays_of_it_when_it_is_erased(
    gallery: Gallery,
) -> None:
    scene = Scene(gallery)
    sighting = scene.begin("cam1", 0.0)
    for now in (0.1, 0.2, 0.3):
        scene.see(sighting, 0, now)
    assert sighting.global_id == 1
    assert [exemplar.sighting_id for exemplar in gallery.exemplars(1)] == [None]  # found again after a kill
    scene.end(sighting)
    assert [exemplar.sighting_id for exemplar in gallery.exemplars(1)] == [sighting.sighting_id]


def test_an_identity_in_view_is_nobody_else_in_view_from_whatever_side(gallery: Gallery) -> None:
    """Known from two sides, in view from one of them; whoever shows the other side at the same time is another one."""
    scene = Scene(gallery)
    known = scene.known(0, 90)
    front, back = scene.begin("cam1", 1000.0), scene.begin("cam1", 1000.0)
    for now in (1000.1, 1000.2, 1000.3):
        scene.see(front, 0, now)
        scene.see(back, 90, now)
    assert front.global_id == known
    assert back.global_id not in (known, None)
    scene.end(back)
    assert [round(float(exemplar.embedding_D[0])) for exemplar in gallery.exemplars(known)] == [1] * 4 + [0] * 4
    scene.end(front)
    assert scene.passing("cam1", 90, 1010, 1015).global_id == known


def test_two_who_are_in_view_together_are_not_merged_by_a_third_that_is_like_both(gallery: Gallery) -> None:
    """The third is unlike what either of them shows at present, but like the other side of both."""
    scene = Scene(gallery, {"cam2": ["cam1"]})
    one, other = scene.known(-28, 24), scene.known(-20, 28)
    scene.in_view(one, "cam1", -28, 1000.0, 1001.0)
    scene.in_view(other, "cam1", -20, 1000.0, 1001.0)
    third = scene.begin("cam2", 1000.5)
    scene.see(third, 26, 1000.6)
    assert "merged" not in scene.see(third, 26, 1000.7)
    assert gallery.identities() == [one, other]


def meet(scene: Scene, one: int, other: int) -> None:
    """Let two be in view together, and leave the window."""
    together = [scene.in_view(one, "cam1", 0, 1000.0, 1005.0), scene.in_view(other, "cam1", 10, 1000.0, 1005.0)]
    for sighting in together:
        scene.end(sighting)
    scene.passing("cam1", 180, 5000, 5005)
    assert not set(together) & set(scene.book.window.ended)
    assert scene.book.gallery.flush(10)


def test_two_who_meet_after_they_were_compared_are_two_from_then_on(on_disk: Gallery) -> None:
    scene = Scene(on_disk)
    one, other = scene.known(0), scene.known(10)
    assert not scene.are_two(5, 500.0)
    meet(scene, one, other)
    assert scene.are_two(5, 6000.0)


@pytest.mark.parametrize("met", [True, False])
def test_two_stay_two_while_the_file_cannot_say_whether_they_met(on_disk: Gallery, met: bool) -> None:
    scene = Scene(on_disk)
    one, other = scene.known(0), scene.known(10)
    if met:
        meet(scene, one, other)
    scene.book.window.changed()
    with unreadable(on_disk):
        assert scene.are_two(5, 6000.0)
    assert scene.are_two(5, 6000.0) == met


def aside(scene: Scene, angles: Sequence[float]) -> None:
    """People who were seen once, long ago."""
    for number, angle in enumerate(angles, 1):
        sighting = Sighting(
            camid="cam1", track_id=number, started_at=60.0 * number, last_seen=60.0 * number + 5,
            box=(0, 0, 1, 1), sighting_id=number,
        )  # fmt: skip
        sighting.add_evidence(unit(angle), 1.0)
        scene.book.window.set_aside(sighting)


def test_of_very_many_who_were_seen_once_the_nearest_are_asked_about(gallery: Gallery) -> None:
    scene = Scene(gallery)
    angles = [(7 * number) % 300 / 10 for number in range(300)]  # each tenth of a degree up to 30, in no order
    aside(scene, angles)
    focus = scene.begin("cam2", 1e6)
    focus.add_evidence(unit(0), 1.0)
    *before, last = scene.book.window.ask(focus, [], 0.8).sightings
    assert last is focus
    assert [s.track_id for s in before] == [n for n, a in enumerate(angles, 1) if a < MOST_TOGETHER / 10]


def test_of_very_many_identities_the_nearest_are_asked_about(gallery: Gallery) -> None:
    """Each of 90 sightings is like eight identities of its own; together that is more than a decision can look at."""
    scene = Scene(gallery)
    for number in range(1000):
        gallery.enrol(unit(number / 40), captured_at=0.0)
    aside(scene, [number / 4 for number in range(90)])
    focus = scene.begin("cam2", 1e6)
    focus.add_evidence(unit(0), 1.0)
    question = scene.book.window.ask(focus, [], 0.8)
    assert len(question.sightings) == 91
    assert len(question.anchors) == MOST_TOGETHER


def test_what_cannot_be_read_at_the_start_is_asked_for_again(
    on_disk: Gallery, caplog: pytest.LogCaptureFixture
) -> None:
    first = Scene(on_disk, min_sightings=2).passing("cam1", 0, 1000, 1005)
    scene = Scene(on_disk, min_sightings=2)
    again = scene.begin("cam2", 1020.0)
    with unreadable(on_disk):
        scene.see(again, 5, 1020.1)
        assert scene.see(again, 5, 1020.2) == []
    assert [record.message.partition(",")[0] for record in caplog.records] == [
        "whom this site saw before cannot be read"
    ]
    assert scene.see(again, 5, 1020.2 + RESUME_AGAIN) == ["created", "decided", "assigned"]
    scene.end(again)
    assert [row.sighting_id for row in on_disk.sightings(global_id=1)] == [first.sighting_id, again.sighting_id]


def test_what_was_seen_until_the_file_can_be_read_is_not_taken_in_twice(on_disk: Gallery) -> None:
    scene = Scene(on_disk, min_sightings=2)
    first = scene.begin("cam1", 2000.0)
    with unreadable(on_disk):
        scene.see(first, 0, 2000.1)
        scene.see(first, 0, 2000.2)
    scene.end(first)
    other = scene.passing("cam1", 90, 2000 + RESUME_AGAIN, 2010 + RESUME_AGAIN)
    assert list(scene.book.window.ended) == [first, other]
    assert scene.book.window.once_seen == {}
    assert scene.passing("cam2", 3, 2060, 2065).global_id == first.global_id == 1


def test_at_no_moment_is_an_identity_in_the_file_without_anything_to_recognise_it_by(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change is a transaction, and a kill may come after any of them."""
    counts = []

    def keep(statements: Sequence[Statement]) -> None:
        gallery.store.write(statements)
        counts.extend(gallery.store.read("SELECT count(*) FROM exemplars GROUP BY global_id"))
        counts.extend(
            gallery.store.read("SELECT 0 FROM identities WHERE global_id NOT IN (SELECT global_id FROM exemplars)")
        )

    monkeypatch.setattr(gallery, "keep", keep)
    scene = Scene(gallery)
    assert scene.passing("cam1", 0, 0, 5).global_id == 1
    assert len(gallery.exemplars(1)) == 1
    assert counts
    assert (0,) not in counts


def test_what_stands_in_gives_way_to_its_sighting_where_one_exemplar_is_kept() -> None:
    config = GalleryConfig(min_similarity=0.8, max_exemplars=1)
    with Gallery(":memory:", encoder_hash="a" * 64, embedding_dim=2, config=config) as gallery:
        scene = Scene(gallery)
        sighting = scene.begin("cam1", 0.0)
        for now in (0.1, 0.2, 0.3):
            scene.see(sighting, 0, now)
        scene.end(sighting)
        assert [exemplar.sighting_id for exemplar in gallery.exemplars(1)] == [sighting.sighting_id]
