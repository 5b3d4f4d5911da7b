from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reidge.edge import keeper
from reidge.edge.bars import Bars
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.records import Identity, SightingRow
from reidge.edge.store import Store
from tests.edge.test_keeper import full_disk, wait_until_failed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

ENCODER = "a" * 64


def unit(degrees: float) -> NDArray[np.float32]:
    """A direction in the plane; the cosine of two is that of the angle between them."""
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], dtype=np.float32)


def open_gallery(path: Path | str = ":memory:", *, encoder: str = ENCODER, **settings: float) -> Gallery:
    config = GalleryConfig.model_validate({"min_similarity": 0.8, **settings})
    return Gallery(path, encoder_hash=encoder, embedding_dim=2, config=config)


def similarity(gallery: Gallery, embedding_D: NDArray[np.float32], global_id: int) -> float:
    return {found.global_id: found.similarity for found in gallery.nearest(embedding_D)}[global_id]


def test_an_empty_gallery_knows_nobody() -> None:
    with open_gallery() as gallery:
        assert gallery.match(unit(0)).global_id is None


def test_the_nearest_is_nobody_when_it_is_not_near_enough() -> None:
    with open_gallery() as gallery:
        known = gallery.enrol(unit(0), captured_at=0.0)
        assert gallery.match(unit(30)).global_id == known  # cosine 0.87
        stranger = gallery.match(unit(60))  # cosine 0.5
        assert stranger.global_id is None
        assert stranger.similarity == pytest.approx(0.5)


def test_of_two_near_ones_the_nearer_is_it_unless_a_margin_is_asked() -> None:
    for margin, answer in ((0.0, 1), (0.1, None)):
        with open_gallery(min_margin=margin) as gallery:
            gallery.enrol(unit(0), captured_at=0.0)
            gallery.enrol(unit(30), captured_at=0.0)
            assert gallery.match(unit(10)).global_id == answer  # cosines 0.985 and 0.940


def test_the_more_people_there_are_the_more_alike_a_match_must_be() -> None:
    bars = Bars(min_similarity=0.8, decay=0.07, false_match_rate=0.02, stranger_rate=0.02)
    with Gallery(
        ":memory:", encoder_hash=ENCODER, embedding_dim=2, config=GalleryConfig(min_similarity=0.8), bars=bars
    ) as gallery:
        first = gallery.enrol(unit(0), captured_at=0.0)
        assert gallery.match(unit(35)).global_id == first  # cosine 0.82
        second = gallery.enrol(unit(180), captured_at=0.0)
        assert gallery.match(unit(35)).global_id is None  # of two people it takes 0.85
        gallery.enrol(unit(180), captured_at=0.0, global_id=second, enrolled=True)
        assert gallery.match(unit(180 + 35)).global_id == second  # of somebody enrolled 0.80


def test_whoever_is_elsewhere_cannot_be_it() -> None:
    with open_gallery() as gallery:
        first, second = gallery.enrol(unit(0), captured_at=0.0), gallery.enrol(unit(20), captured_at=0.0)
        assert gallery.match(unit(0), forbidden={first}).global_id == second
        assert gallery.match(unit(0), forbidden={first, second}).global_id is None


def test_similarity_is_the_mean_over_the_nearest_exemplars() -> None:
    with open_gallery(nearest=2) as gallery:
        known = gallery.enrol(unit(0), captured_at=0.0)
        gallery.enrol(unit(60), captured_at=1.0, global_id=known)
        gallery.enrol(unit(180), captured_at=2.0, global_id=known)  # a stray; not among the nearest two
        assert similarity(gallery, unit(0), known) == pytest.approx((1.0 + 0.5) / 2)


def test_only_so_many_exemplars_are_kept_and_they_differ() -> None:
    with open_gallery(max_exemplars=2, nearest=1) as gallery:
        known = gallery.enrol(unit(0), captured_at=0.0)
        for angle in (1, 90, 2):  # 1 and 2 add nothing to 0
            gallery.enrol(unit(angle), captured_at=1.0, global_id=known)
        assert similarity(gallery, unit(0), known) == pytest.approx(1.0)
        assert similarity(gallery, unit(90), known) == pytest.approx(1.0)


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    with open_gallery(path) as gallery:
        first, second = gallery.enrol(unit(0), captured_at=0.0), gallery.enrol(unit(90), captured_at=0.0)
        third = gallery.enrol(unit(180), captured_at=0.0)
        gallery.merge(kept=first, absorbed=third)
        gallery.erase(second)
    with open_gallery(path, nearest=1) as gallery:
        assert gallery.identities() == [first]
        assert gallery.match(unit(180)).global_id == first
        assert gallery.match(unit(90)).global_id is None


def test_the_number_of_an_erased_identity_is_never_given_again(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    with open_gallery(path) as gallery:
        gallery.erase(gallery.enrol(unit(0), captured_at=0.0))
    with open_gallery(path) as gallery:
        assert gallery.enrol(unit(0), captured_at=0.0) == 2


def test_an_erased_embedding_is_gone_from_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    secret = unit(33).astype("<f4").tobytes()
    with open_gallery(path) as gallery:
        global_id = gallery.enrol(unit(33), captured_at=0.0)
        assert gallery.flush(5.0)
        assert any(secret in file.read_bytes() for file in tmp_path.iterdir())
        gallery.erase(global_id)
        assert not any(secret in file.read_bytes() for file in tmp_path.iterdir())


def test_merging_moves_all_exemplars() -> None:
    with open_gallery(nearest=1) as gallery:
        first, second = gallery.enrol(unit(0), captured_at=0.0), gallery.enrol(unit(90), captured_at=0.0)
        gallery.merge(kept=first, absorbed=second)
        assert len(gallery) == 1
        assert gallery.match(unit(90)).global_id == first


def test_many_identities_survive_the_growth_and_holes_of_the_index() -> None:
    with open_gallery(nearest=1) as gallery:
        for number in range(300):
            gallery.enrol(unit(number), captured_at=0.0)
        for number in range(0, 300, 2):
            gallery.erase(number + 1)
        assert all(gallery.match(unit(number)).global_id == number + 1 for number in range(1, 300, 2))


def test_a_gallery_of_another_encoder_is_refused_with_two_ways_on(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    open_gallery(path).close()
    with pytest.raises(
        InputError, match=r"another encoder .*anew: reidge gallery reembed SITE.yaml; or start a second gallery"
    ):
        open_gallery(path, encoder="b" * 64)


def test_a_file_that_is_no_gallery_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to look like one" * 50)
    before = path.read_bytes()
    with pytest.raises(InputError, match="not a usable gallery"):
        open_gallery(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["UPDATE exemplars SET embedding = x'00'", "UPDATE exemplars SET embedding = 'ä'"])
def test_an_embedding_of_another_length_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "gallery.sqlite"
    with open_gallery(path) as gallery:
        gallery.enrol(unit(0), captured_at=0.0)
    with sqlite3.connect(path) as db:
        db.execute(damage)
    db.close()
    with pytest.raises(InputError, match="not a usable gallery"):
        open_gallery(path)


def test_a_damaged_page_is_refused_in_one_line_and_the_file_let_go(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    with open_gallery(path) as gallery:
        for number in range(400):
            gallery.enrol(unit(number), captured_at=0.0)
    half = path.stat().st_size // 2
    with path.open("r+b") as file:
        file.seek(half)
        file.write(b"\xff" * half)
    for _ in range(2):  # the second time also shows that nothing holds it
        with pytest.raises(InputError, match=r"gallery\.sqlite is not a usable gallery"):
            open_gallery(path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ReidgeError, match=r"file/gallery.sqlite cannot be opened"):
        open_gallery(tmp_path / "file" / "gallery.sqlite")


def test_a_second_writer_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    with open_gallery(path), pytest.raises(ReidgeError, match=r"gallery.sqlite is in use by another reidge"):
        open_gallery(path)
    open_gallery(path).close()


def test_unknown_identities_are_refused() -> None:
    with open_gallery() as gallery:
        known = gallery.enrol(unit(0), captured_at=0.0)
        with pytest.raises(InputError, match="no identity 7"):
            gallery.merge(kept=known, absorbed=7)
        with pytest.raises(InputError, match="with itself"):
            gallery.merge(kept=known, absorbed=known)
        with pytest.raises(InputError, match="no identity 7"):
            gallery.enrol(unit(0), captured_at=0.0, global_id=7)


def test_only_its_owner_may_read_it_unless_it_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "shared.sqlite").touch()
    (tmp_path / "shared.sqlite").chmod(0o644)
    with open_gallery(tmp_path / "new" / "g.sqlite") as gallery, open_gallery(tmp_path / "shared.sqlite"):
        gallery.enrol(unit(0), captured_at=0.0)
        assert gallery.flush(5.0)
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
        assert {"g.sqlite", "g.sqlite-wal", "g.sqlite-shm"} <= set(modes)
        assert set(modes.values()) == {0o600}
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "shared.sqlite").stat().st_mode & 0o777 == 0o644


def test_others_can_read_while_the_gallery_is_open(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    with open_gallery(path) as gallery:
        gallery.enrol(unit(0), captured_at=0.0)
        assert gallery.flush(5.0)
        reader = sqlite3.connect(path)
        assert reader.execute("SELECT count(*) FROM identities").fetchone() == (1,)
        reader.close()


def seen(degrees: float, *, at: float, global_id: int | None = None, camid: str = "door") -> SightingRow:
    return SightingRow(
        camid=camid,
        track_id=round(at),
        started_at=at - 5,
        ended_at=at,
        global_id=global_id,
        pictures=7,
        embedding_D=unit(degrees),
    )


def visit(gallery: Gallery, degrees: float, *, at: float, global_id: int | None = None) -> tuple[int, int]:
    """A sighting with its exemplar; returns the identity and the sighting."""
    if global_id is None:
        global_id = gallery.enrol(unit(degrees), captured_at=at)
        return global_id, gallery.record(seen(degrees, at=at, global_id=global_id))
    sighting_id = gallery.record(seen(degrees, at=at, global_id=global_id))
    gallery.enrol(unit(degrees), captured_at=at, global_id=global_id, sighting_id=sighting_id)
    return global_id, sighting_id


def test_the_nearest_come_best_first_with_their_names() -> None:
    with open_gallery(nearest=1) as gallery:
        far = gallery.enrol(unit(90), captured_at=0.0)
        known = gallery.enrol(unit(20), captured_at=0.0, enrolled=True, name="Ada")
        near = gallery.enrol(unit(10), captured_at=0.0)
        found = gallery.nearest(unit(0))
        assert [candidate.global_id for candidate in found] == [near, known, far]
        assert [candidate.enrolled for candidate in found] == [False, True, False]
        assert found[1].name == "Ada"
        assert [candidate.global_id for candidate in gallery.nearest(unit(0), forbidden={near}, limit=1)] == [known]
        assert [
            [c.global_id for c in some] for some in gallery.nearest_many(np.stack([unit(0), unit(80)]), limit=1)
        ] == [[near], [far]]


@pytest.mark.parametrize("where", ["gallery.sqlite", ":memory:"])
def test_sightings_are_found_by_time_and_by_identity(tmp_path: Path, where: str) -> None:
    with open_gallery(where if where == ":memory:" else tmp_path / where) as gallery:
        known, first = visit(gallery, 0, at=10.0)
        second = gallery.record(seen(90, at=20.0))
        _, third = visit(gallery, 5, at=30.0, global_id=known)
        assert [row.sighting_id for row in gallery.sightings()] == [first, second, third]
        assert [row.sighting_id for row in gallery.sightings(since=20.0, until=30.0)] == [second]
        assert [row.sighting_id for row in gallery.sightings(global_id=known)] == [first, third]
        row = gallery.sightings(since=30.0)[0]
        assert (row.camid, row.track_id, row.started_at, row.ended_at, row.pictures) == ("door", 30, 25.0, 30.0, 7)
        assert row.embedding_D is not None
        assert np.array_equal(row.embedding_D, unit(5))


def test_a_late_decision_takes_its_exemplar_along(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    with open_gallery(path, nearest=1) as gallery:
        one, other = gallery.enrol(unit(0), captured_at=0.0), gallery.enrol(unit(90), captured_at=0.0)
        _, sighting = visit(gallery, 50, at=10.0, global_id=one)
        gallery.assign(sighting, other, 0.77)
        assert similarity(gallery, unit(50), other) == pytest.approx(1.0)
        assert similarity(gallery, unit(50), one) == pytest.approx(np.cos(np.radians(50)))
        assert gallery.identity(other).last_seen == 10.0
    with open_gallery(path, nearest=1) as gallery:
        assert similarity(gallery, unit(50), other) == pytest.approx(1.0)
        (row,) = gallery.sightings()
        assert (row.global_id, row.similarity) == (other, 0.77)
        gallery.assign(sighting, None)
        assert similarity(gallery, unit(50), other) == pytest.approx(np.cos(np.radians(40)))
        assert gallery.sightings()[0].global_id is None


def test_enrolling_is_not_being_seen(tmp_path: Path) -> None:
    path, today = tmp_path / "gallery.sqlite", 9000.0
    with open_gallery(path) as gallery:
        known, _ = visit(gallery, 0, at=10.0)
        gallery.enrol(unit(0), captured_at=today, global_id=known, enrolled=True, name="Ada")
        waiting = gallery.enrol(unit(90), captured_at=today, enrolled=True, name="Bob")
        assert [gallery.last_seen(number) for number in (known, waiting)] == [10.0, today]
        visit(gallery, 90, at=20.0, global_id=waiting)  # in a recording, which is older
    with open_gallery(path) as gallery:
        assert [gallery.last_seen(number) for number in (known, waiting)] == [10.0, 20.0]
        visit(gallery, 90, at=15.0, global_id=waiting)
        assert gallery.last_seen(waiting) == 20.0


def test_a_merge_with_somebody_enrolled_and_never_seen_is_not_being_seen(tmp_path: Path) -> None:
    with open_gallery(tmp_path / "gallery.sqlite") as gallery:
        seen, _ = visit(gallery, 0, at=10.0)
        for order in ("kept", "absorbed"):
            given = gallery.enrol(unit(0), captured_at=9000.0, enrolled=True)
            kept, absorbed = (seen, given) if order == "kept" else (given, seen)
            gallery.merge(kept=kept, absorbed=absorbed)
            assert gallery.last_seen(kept) == 10.0
            gallery.unmerge(absorbed)
            assert gallery.last_seen(seen) == 10.0


def test_a_merge_can_be_taken_back_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    with open_gallery(path, nearest=1) as gallery:
        one, _ = visit(gallery, 0, at=10.0)
        other, _ = visit(gallery, 90, at=20.0)
        visit(gallery, 95, at=25.0, global_id=other)
        gallery.rename(other, "Ada")
        uid = gallery.identity(other).uid
        gallery.merge(kept=one, absorbed=other)
        assert (gallery.identity(one).name, gallery.identity(one).last_seen) == ("Ada", 25.0)
        visit(gallery, 3, at=30.0, global_id=one)  # what comes after the merge stays
    with open_gallery(path, nearest=1) as gallery:
        assert gallery.unmerge(other) == one
        assert gallery.identities() == [one, other]
        assert gallery.identity(other).uid == uid
        assert (gallery.identity(one).name, gallery.identity(other).name) == (None, "Ada")
        assert (gallery.identity(one).last_seen, gallery.identity(other).last_seen) == (30.0, 25.0)
    with open_gallery(path, nearest=1) as gallery:
        assert gallery.match(unit(91)).global_id == other
        assert gallery.match(unit(2)).global_id == one
        assert [row.ended_at for row in gallery.sightings(global_id=one)] == [10.0, 30.0]
        assert [row.ended_at for row in gallery.sightings(global_id=other)] == [20.0, 25.0]
        with pytest.raises(InputError, match="stands on its own"):
            gallery.unmerge(other)


def test_a_merge_is_taken_back_from_whoever_has_absorbed_the_rest_since() -> None:
    with open_gallery(nearest=1) as gallery:
        first, _ = visit(gallery, 0, at=10.0)
        second, _ = visit(gallery, 90, at=20.0)
        third, _ = visit(gallery, 180, at=30.0)
        gallery.merge(kept=second, absorbed=third)
        gallery.merge(kept=first, absorbed=second)
        assert gallery.unmerge(third) == first
        assert gallery.match(unit(180)).global_id == third
        assert gallery.match(unit(90)).global_id == first
        assert gallery.unmerge(second) == first
        assert gallery.match(unit(90)).global_id == second


def test_what_was_learnt_from_a_sighting_goes_back_with_it() -> None:
    with open_gallery(nearest=1) as gallery:
        one, _ = visit(gallery, 0, at=10.0)
        other, sighting = visit(gallery, 90, at=20.0)
        gallery.merge(kept=one, absorbed=other)
        gallery.enrol(unit(100), captured_at=21.0, global_id=one, sighting_id=sighting)  # after the merge
        gallery.unmerge(other)
        assert gallery.match(unit(100)).global_id == other


def test_exemplars_that_were_thinned_out_come_back_from_their_sightings() -> None:
    with open_gallery(nearest=1, max_exemplars=1) as gallery:
        one, _ = visit(gallery, 0, at=10.0)
        other, _ = visit(gallery, 20, at=20.0)
        gallery.merge(kept=one, absorbed=other)
        assert similarity(gallery, unit(20), one) == pytest.approx(np.cos(np.radians(20)))  # one exemplar is left
        gallery.unmerge(other)
        assert similarity(gallery, unit(20), other) == pytest.approx(1.0)


def test_some_sightings_become_an_identity_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    with open_gallery(path, nearest=1) as gallery:
        known, first = visit(gallery, 0, at=10.0)
        _, second = visit(gallery, 60, at=20.0, global_id=known)
        _, third = visit(gallery, 65, at=30.0, global_id=known)
        made = gallery.split(known, [second, third])
        assert made == known + 1
        assert gallery.match(unit(62)).global_id == made
        assert gallery.identity(known).last_seen == 10.0
        assert (gallery.identity(made).created_at, gallery.identity(made).last_seen) == (15.0, 30.0)
    with open_gallery(path, nearest=1) as gallery:
        assert gallery.match(unit(62)).global_id == made
        assert [row.sighting_id for row in gallery.sightings(global_id=made)] == [second, third]
        with pytest.raises(InputError, match="none of the sightings given"):
            gallery.split(known, [second])
        with pytest.raises(InputError, match="nothing would be left of identity 2"):
            gallery.split(made, [second, third])
        with pytest.raises(InputError, match="no identity 99"):
            gallery.split(99, [first])


def test_a_mark_is_durable_once_the_file_says_what_was_changed_before_it(tmp_path: Path) -> None:
    with open_gallery(tmp_path / "gallery.sqlite") as gallery:
        before = gallery.mark()
        assert gallery.durable(before)
        gallery.enrol(unit(0), captured_at=0.0)
        mark = gallery.mark()
        assert mark > before
        assert gallery.flush(5.0)
        assert gallery.durable(mark)
    with open_gallery() as gallery:
        gallery.enrol(unit(0), captured_at=0.0)
        assert gallery.durable(gallery.mark())  # there is nothing to wait for


def test_a_clock_that_jumps_back_changes_nothing_that_is_known(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    with open_gallery(path, nearest=1, max_exemplars=2) as gallery:
        known, _ = visit(gallery, 0, at=1000.0)
        visit(gallery, 60, at=10.0, global_id=known)
        assert gallery.identity(known).last_seen == 1000.0
        gallery.enrol(unit(61), captured_at=20.0, global_id=known)  # the newer of the pair, though its time is older
        assert [e.captured_at for e in gallery.exemplars(known)] == [1000.0, 10.0]
        assert [row.ended_at for row in gallery.sightings()] == [10.0, 1000.0]


def test_what_the_user_gave_stays_and_the_worse_of_two_alike_goes() -> None:
    with open_gallery(max_exemplars=2, nearest=1) as gallery:
        known = gallery.enrol(unit(0), captured_at=0.0, enrolled=True)
        gallery.enrol(unit(2), captured_at=0.0, global_id=known, enrolled=True)
        gallery.enrol(unit(90), captured_at=1.0, global_id=known)
        assert [e.enrolled for e in gallery.exemplars(known)] == [True, True]
    with open_gallery(max_exemplars=2, nearest=1) as gallery:
        known = gallery.enrol(unit(0), captured_at=0.0, quality=0.3)
        gallery.enrol(unit(90), captured_at=1.0, global_id=known)
        gallery.enrol(unit(1), captured_at=2.0, global_id=known, quality=0.8)
        assert [e.captured_at for e in gallery.exemplars(known)] == [1.0, 2.0]


def test_an_embedding_that_is_none_is_refused() -> None:
    with open_gallery() as gallery:
        for broken in (np.nan, np.inf):
            with pytest.raises(InputError, match="infinite numbers or none"):
                gallery.enrol(np.array([broken, 0], dtype=np.float32), captured_at=0.0)
            with pytest.raises(InputError, match="infinite numbers or none"):
                gallery.record(replace(seen(0, at=1.0), embedding_D=np.array([broken, 0], dtype=np.float32)))
        assert len(gallery) == 0


def test_a_split_needs_no_disk_that_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gallery.sqlite"
    monkeypatch.setattr(keeper, "RETRY_SECONDS", 0.1)
    with open_gallery(path, nearest=1) as gallery:
        known, _ = visit(gallery, 0, at=10.0)
        assert gallery.flush(5.0)
        with full_disk():
            _, second = visit(gallery, 60, at=20.0, global_id=known)
            wait_until_failed(gallery)
            made = gallery.split(known, [second])
            assert gallery.match(unit(62)).global_id == made
            assert gallery.pending
    with open_gallery(path, nearest=1) as gallery:
        assert gallery.match(unit(62)).global_id == made
        assert [row.sighting_id for row in gallery.sightings(global_id=made)] == [second]


def told(gallery: Gallery) -> list[tuple[Identity, list[tuple[int, int | None]]]]:
    """All that the gallery says of everybody."""
    return [
        (gallery.identity(i), [(e.exemplar_id, e.sighting_id) for e in gallery.exemplars(i)])
        for i in gallery.identities()
    ]


@pytest.mark.parametrize("exemplars", ["of both", "of one", "of none"])
@pytest.mark.parametrize("change", ["split", "unmerge"])
def test_where_the_file_cannot_be_read_nobody_is_taken_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, exemplars: str
) -> None:
    with open_gallery(tmp_path / "gallery.sqlite") as gallery:
        passed = []
        for degrees, at in ((0, 10.0), (10, 20.0)):
            sighting_id = gallery.record(seen(degrees, at=at))
            global_id = gallery.enrol(unit(degrees), captured_at=at, sighting_id=sighting_id)
            gallery.assign(sighting_id, global_id)
            passed.append((global_id, sighting_id))
        (one, _), (other, second) = passed
        gallery.merge(kept=one, absorbed=other)
        for exemplar in gallery.exemplars(one)[{"of both": 2, "of one": 1, "of none": 0}[exemplars] :]:
            gallery.let_go(exemplar.exemplar_id)
        assert gallery.flush(5.0)
        before, mark, read, made = told(gallery), gallery.mark(), gallery.store.read, None
        for reads in range(10):
            left = iter(range(reads))

            def read_a_few(
                sql: str, values: Sequence[object] = (), left: Iterator[int] = left
            ) -> list[tuple[Any, ...]]:
                if next(left, None) is None:
                    gallery.store._reader.close()  # as after a disk that could not be opened again
                return read(sql, values)

            monkeypatch.setattr(gallery.store, "read", read_a_few)
            try:
                made = gallery.split(one, [second]) if change == "split" else gallery.unmerge(other)
            except ReidgeError:
                gallery.store.reopen()
                assert told(gallery) == before
                assert gallery.mark() == mark
            monkeypatch.setattr(gallery.store, "read", read)
            if made is not None:
                break
        assert reads > 1
        after = told(gallery)
        assert [len(found) for _, found in after] == [1, 1]
    with open_gallery(tmp_path / "gallery.sqlite") as gallery:
        assert told(gallery) == after


def test_who_was_erased_is_not_remembered_for_a_disk_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "RETRY_SECONDS", 0.1)
    with open_gallery(tmp_path / "gallery.sqlite") as gallery:
        one, other = gallery.enrol(unit(0), captured_at=0.0), gallery.enrol(unit(90), captured_at=0.0)
        assert gallery.flush(5.0)
        with full_disk():
            _, theirs = visit(gallery, 5, at=10.0, global_id=one)
            decided = gallery.record(seen(6, at=20.0))
            gallery.assign(decided, one, 0.9)
            third = gallery.enrol(unit(45), captured_at=30.0)
            merged = gallery.record(seen(45, at=30.0, global_id=third))
            gallery.merge(kept=one, absorbed=third)
            moved = gallery.record(seen(80, at=40.0, global_id=one))
            apart = gallery.split(one, [moved])
            wait_until_failed(gallery)
            assert set(gallery.own_among(one, [theirs, decided, merged, moved])) == {theirs, decided, merged}
            gallery.forget(one)
            assert set(gallery._unwritten) == {moved}
            assert gallery.own_among(apart, [theirs, decided, merged, moved]).keys() == {moved}
        assert gallery.own_among(other, [theirs, moved]) == {}


def test_what_the_file_has_is_let_go_of_when_the_loop_comes_round(tmp_path: Path) -> None:
    with open_gallery(tmp_path / "gallery.sqlite") as gallery:
        visit(gallery, 0, at=10.0)
        assert gallery.flush(5.0)
        gallery.settle()
        assert gallery._unwritten == {}


def test_who_lost_all_exemplars_by_a_merge_gets_them_back_with_it() -> None:
    with open_gallery(nearest=1, max_exemplars=1) as gallery:
        one, _ = visit(gallery, 0, at=10.0)
        other = gallery.enrol(unit(20), captured_at=20.0, quality=2.0)  # better: of the two it stays
        gallery.merge(kept=one, absorbed=other)
        assert similarity(gallery, unit(0), one) == pytest.approx(np.cos(np.radians(20)))
        gallery.unmerge(other)
        assert similarity(gallery, unit(0), one) == pytest.approx(1.0)
        assert similarity(gallery, unit(0), other) == pytest.approx(np.cos(np.radians(20)))


def test_somebody_who_comes_while_another_process_opens_the_gallery_is_whole_there_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_gallery(tmp_path / "gallery.sqlite") as gallery:
        gallery.enrol(unit(0), captured_at=0.0)
        assert gallery.flush(5.0)
        identities = Store.identities

        def and_then_somebody_comes(store: Store) -> list[Identity]:
            found = identities(store)
            gallery.enrol(unit(90), captured_at=1.0)
            assert gallery.flush(5.0)
            return found

        monkeypatch.setattr(Store, "identities", and_then_somebody_comes)
        config = GalleryConfig(min_similarity=0.8)
        with Gallery(gallery.path, encoder_hash=ENCODER, embedding_dim=2, config=config, shared=True) as reader:
            assert [candidate.global_id for candidate in reader.nearest(unit(90))] == [1]
