from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydantic import ValidationError

from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.records import SightingRow
from reidge.edge.retention import DAY, NEWEST, PROBATION, Calendar, RetentionConfig, find_expired, forget_expired

if TYPE_CHECKING:
    from pathlib import Path

EAST = np.array([1, 0], dtype=np.float32)
NOW = 100 * DAY


def open_gallery(folder: Path) -> Gallery:
    config = GalleryConfig(min_similarity=0.8)
    return Gallery(folder / "gallery.sqlite", encoder_hash="a" * 64, embedding_dim=2, config=config)


def retain(gallery: Gallery, *, keep: tuple[int, ...] = (), limit: int = 10, **settings: float | None) -> list[int]:
    """Who is left."""
    assert gallery.flush(10.0)
    config = RetentionConfig.model_validate(settings)
    forget_expired(gallery, find_expired(gallery, config, now=NOW, limit=limit), keep=keep)
    assert gallery.flush(10.0)
    return gallery.identities()


def people(gallery: Gallery) -> None:
    """1 was seen 31 days ago, 2 was seen 29 days ago, 3 is enrolled and was last seen 90 days ago."""
    gallery.enrol(EAST, captured_at=NOW - 31 * DAY)
    gallery.enrol(EAST, captured_at=NOW - 29 * DAY)
    gallery.enrol(EAST, captured_at=NOW - 90 * DAY, enrolled=True, name="Anna")


def test_who_was_not_seen_for_30_days_is_forgotten_unless_enrolled(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        people(gallery)
        assert retain(gallery) == [2, 3]
    with open_gallery(tmp_path) as gallery:
        assert gallery.identities() == [2, 3]


def test_null_keeps_everybody_and_another_limit_is_heeded(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        people(gallery)
        assert retain(gallery, retention_days=None) == [1, 2, 3]
        assert retain(gallery, retention_days=None, retention_enrolled_days=90.5) == [1, 2, 3]
        assert retain(gallery, retention_days=None, retention_enrolled_days=60) == [1, 2]
        assert retain(gallery, retention_days=7) == []


def test_enrolling_somebody_known_keeps_them_as_long_as_anybody_who_was_enrolled_then(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        people(gallery)
        assert gallery.flush(10.0)
        expired = find_expired(gallery, RetentionConfig(retention_enrolled_days=60), now=NOW, limit=10)
        assert [number for number, _ in expired.identities] == [1, 3]
        gallery.enrol(EAST, captured_at=NOW - DAY, global_id=1, enrolled=True)
        gallery.enrol(EAST, captured_at=NOW - 59 * DAY, global_id=3, enrolled=True)
        assert forget_expired(gallery, expired) == []  # found before they were enrolled
        assert gallery.last_seen(1) == NOW - 31 * DAY
        assert retain(gallery, retention_enrolled_days=60) == [1, 2, 3]
        assert retain(gallery, retention_enrolled_days=30) == [1, 2]


def test_who_is_in_view_is_not_forgotten(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        people(gallery)
        assert retain(gallery, keep=(1,)) == [1, 2, 3]


def test_who_came_by_since_the_file_was_read_is_not_forgotten(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        people(gallery)
        assert gallery.flush(10.0)
        expired = find_expired(gallery, RetentionConfig(), now=NOW, limit=10)
        gallery.enrol(EAST, captured_at=NOW, global_id=1)
        assert forget_expired(gallery, expired) == []


def test_old_sightings_go_and_the_people_who_were_seen_since_stay(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        known = gallery.enrol(EAST, captured_at=NOW - 50 * DAY)
        for at, who in ((NOW - 50 * DAY, known), (NOW - 40 * DAY, None), (NOW - DAY, known)):
            row = SightingRow(camid="gate", track_id=1, started_at=at, ended_at=at, global_id=who, pictures=1)
            gallery.record(row)
        assert retain(gallery) == [known]
        assert [row.ended_at for row in gallery.sightings()] == [NOW - DAY]
        assert len(gallery.exemplars(known)) == 1


def passing(gallery: Gallery, at: float, global_id: int | None = None) -> None:
    gallery.record(SightingRow(camid="gate", track_id=1, started_at=at, ended_at=at, global_id=global_id, pictures=1))


def test_what_a_clock_that_ran_ahead_dated_goes_with_what_was_recorded_after_it(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        for day in (400, -31, 401, -29):
            passing(gallery, NOW + day * DAY)
        retain(gallery)
        assert [row.ended_at for row in gallery.sightings()] == [NOW - 29 * DAY, NOW + 401 * DAY]


def test_who_was_seen_by_a_clock_that_ran_ahead_is_forgotten_when_not_seen_since(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        for day in (400, 400, -31, 400):
            gallery.enrol(EAST, captured_at=NOW + day * DAY)
        passing(gallery, NOW - DAY, 2)
        assert retain(gallery) == [2, 4]  # 2 was seen yesterday, and nothing says how old 4 is


def test_a_clock_that_is_behind_has_nobody_forgotten(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        for day in (400, 401, 402):
            passing(gallery, NOW + day * DAY, gallery.enrol(EAST, captured_at=NOW + day * DAY))
        assert retain(gallery) == [1, 2, 3]
        assert len(gallery.sightings()) == 3


def test_what_is_in_the_future_does_not_tell_when_anybody_was_seen_last(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        people(gallery)
        gallery.enrol(EAST, captured_at=NOW + 400 * DAY)
        assert gallery.flush(10.0)
        assert gallery.store.read(NEWEST, (NOW + DAY,)) == [(NOW - 29 * DAY,)]


def test_no_more_than_a_portion_is_forgotten_at_once_the_oldest_first(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        for age in (40, 60, 50):
            gallery.enrol(EAST, captured_at=NOW - age * DAY)
        assert gallery.flush(10.0)
        assert find_expired(gallery, RetentionConfig(), now=NOW, limit=2).more
        assert retain(gallery, limit=2) == [1]
        assert not find_expired(gallery, RetentionConfig(), now=NOW, limit=2).more


def test_a_retention_of_no_time_is_refused() -> None:
    with pytest.raises(ValidationError):
        RetentionConfig(retention_days=0)


def test_a_clock_that_goes_on_as_before_is_believed() -> None:
    calendar = Calendar(newest=NOW - 3600)
    assert calendar.believes(NOW, 5.0)
    assert calendar.believes(NOW + 10, 15.0)


def test_a_clock_that_jumps_ahead_is_believed_after_an_hour_and_at_once_when_it_is_set_right() -> None:
    for settles in (True, False):
        calendar = Calendar(newest=None)
        assert calendar.believes(NOW, 0.0)
        assert not calendar.believes(NOW + 40 * DAY, 1.0)
        assert not calendar.believes(NOW + 40 * DAY + PROBATION - 10, PROBATION - 9)
        if settles:
            assert calendar.believes(NOW + 40 * DAY + PROBATION + 10, PROBATION + 11)
        else:
            assert calendar.believes(NOW + 100, 100.0)


def test_a_start_after_a_long_time_away_is_doubted_at_first() -> None:
    calendar = Calendar(newest=NOW - 40 * DAY)
    assert not calendar.believes(NOW, 5.0)
    assert not calendar.believes(NOW + 60, 65.0)
    assert calendar.believes(NOW + PROBATION + 1, PROBATION + 6.0)
