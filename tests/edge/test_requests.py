from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.audit import NEWEST
from reidge.edge.errors import InputError
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.records import SightingRow
from reidge.edge.requests import Enrol, Erase, Rename, Shot

if TYPE_CHECKING:
    from collections.abc import Iterator

EAST = np.array([1, 0], dtype=np.float32)


@pytest.fixture
def gallery() -> Iterator[Gallery]:
    config = GalleryConfig(min_similarity=0.8)
    with Gallery(":memory:", encoder_hash="a" * 64, embedding_dim=2, config=config) as opened:
        yield opened


def passing(gallery: Gallery, global_id: int | None) -> int:
    row = SightingRow(
        camid="gate", track_id=1, started_at=1.0, ended_at=2.0, global_id=global_id, pictures=1, embedding_D=EAST
    )
    return gallery.record(row)


def test_where_one_picture_is_refused_nobody_is_enrolled(gallery: Gallery) -> None:
    shots = (Shot.of(EAST, quality=1.0), Shot.of(np.ones(3, dtype=np.float32), quality=1.0))
    with pytest.raises(InputError, match="has 2 numbers"):
        Enrol(by="ada", shots=shots, captured_at=1.0).fulfil(gallery)
    assert gallery.identities() == []
    assert gallery.store.read(NEWEST, (10,)) == []


def test_the_answer_to_a_renaming_does_not_say_the_name(gallery: Gallery) -> None:
    gallery.enrol(EAST, captured_at=1.0)
    assert Rename(by="ada", global_id=1, name="Anna").fulfil(gallery) == {"global_id": 1}
    assert gallery.identity(1).name == "Anna"


def test_a_sighting_of_somebody_is_erased_with_them_only(gallery: Gallery) -> None:
    somebody = gallery.enrol(EAST, captured_at=1.0)
    theirs, nobodys = passing(gallery, somebody), passing(gallery, None)
    with pytest.raises(InputError, match=rf"sighting {theirs} is of identity {somebody}\. .*gallery split"):
        Erase(by="ada", sighting_ids=(nobodys, theirs)).fulfil(gallery)
    assert len(gallery.sightings()) == 2
    Erase(by="ada", global_ids=(somebody,), sighting_ids=(nobodys, theirs)).fulfil(gallery)
    assert gallery.sightings() == []
