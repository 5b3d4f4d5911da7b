from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.archive import read_archive, write_archive
from reidge.edge.errors import InputError
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.records import SightingRow
from reidge.edge.store import Store
from reidge.edge.transfer import Intake, pack, take_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.edge.archive import Archive

ENCODER = "a" * 64


def someone(seed: int) -> NDArray[np.float32]:
    embedding_D = np.random.default_rng(seed).standard_normal(8).astype(np.float32)
    return np.asarray(embedding_D / np.linalg.norm(embedding_D), dtype=np.float32)


def open_gallery(folder: Path) -> Gallery:
    config = GalleryConfig(min_similarity=0.8, nearest=1)
    return Gallery(folder / "gallery.sqlite", encoder_hash=ENCODER, embedding_dim=8, config=config)


def passing(gallery: Gallery, seed: int, global_id: int | None) -> int:
    row = SightingRow(
        camid="gate", track_id=seed, started_at=1.0, ended_at=2.0, global_id=global_id, pictures=3,
        embedding_D=someone(seed),
    )  # fmt: skip
    sighting_id = gallery.record(row, crop=b"\xff\xd8 of %d" % seed)
    if global_id is not None:
        gallery.enrol(someone(seed), captured_at=2.0, global_id=global_id, sighting_id=sighting_id)
    return sighting_id


def three_people(gallery: Gallery) -> list[int]:
    """Anna, enrolled and seen once; two whom the site found; and somebody who is nobody yet. Returns the sightings."""
    gallery.enrol(someone(1), captured_at=1.0, enrolled=True, name="Anna", crop=b"\xff\xd8 of Anna")
    for seed in (2, 3):
        gallery.enrol(someone(seed), captured_at=1.0)
    return [passing(gallery, 10 + (who or 9), who) for who in (1, 2, 3, None)]


def backup(gallery: Gallery, folder: Path) -> Archive:
    """What an archive brings back, by way of the disk."""
    assert gallery.flush(10.0)
    path = folder / f"{len(list(folder.iterdir()))}.zip"
    write_archive(path, pack(gallery.store))
    return read_archive(path)


def imported(folder: Path, archive: Archive) -> Intake:
    store = Store(folder / "gallery.sqlite", encoder_hash=ENCODER, embedding_dim=8)
    try:
        return take_in(store, archive, by="ada")
    finally:
        store.close()


def looks(folder: Path, seeds: Sequence[int]) -> list[int | None]:
    """Who the gallery says they are."""
    with open_gallery(folder) as gallery:
        return [gallery.match(someone(seed)).global_id for seed in seeds]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The folder of another box."""
    (tmp_path / "other").mkdir()
    return tmp_path / "other"


def test_an_empty_gallery_becomes_the_one_that_was_exported(tmp_path: Path, other: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        three_people(gallery)
        archive = backup(gallery, tmp_path)
        uids = {i: gallery.identity(i).uid for i in gallery.identities()}
    done = imported(other, archive)
    assert (done.identities, done.sightings, done.exemplars, done.pictures, done.renumbered) == (3, 4, 6, 5, {})
    assert looks(other, [1, 2, 3, 11, 12, 13]) == [1, 2, 3, 1, 2, 3]
    with open_gallery(other) as gallery:
        assert {i: gallery.identity(i).uid for i in gallery.identities()} == uids
        assert gallery.identity(1).name == "Anna"
        assert [row.global_id for row in gallery.sightings()] == [1, 2, 3, None]
        assert (None, 1, b"\xff\xd8 of Anna") in gallery.store.images("exemplar_id NOT NULL")
    again = imported(other, archive)
    assert (again.identities, again.known, again.sightings, again.exemplars, again.pictures) == (0, 3, 0, 0, 0)


def test_whoever_was_merged_since_is_not_two_again(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        three_people(gallery)
        archive = backup(gallery, tmp_path)
        gallery.merge(kept=2, absorbed=3)
        gallery.merge(kept=1, absorbed=2)
    done = imported(tmp_path, archive)
    assert (done.identities, done.known, done.renumbered) == (0, 3, {2: 1, 3: 1})
    assert looks(tmp_path, [3, 13]) == [1, 1]


def test_nobody_comes_back_who_was_erased_under_another_number(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        three_people(gallery)
        archive = backup(gallery, tmp_path)
        gallery.merge(kept=1, absorbed=3)
        gallery.erase(1)
    done = imported(tmp_path, archive)
    assert (done.erased_before, done.known, done.exemplars) == (2, 1, 0)
    assert looks(tmp_path, [1, 2, 3, 11, 13]) == [None, 2, None, None, None]


def test_an_identity_that_absorbed_somebody_erased_here_does_not_bring_them_along(tmp_path: Path, other: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        three_people(gallery)
        separate = backup(gallery, tmp_path)
        gallery.merge(kept=2, absorbed=3)
        merged = backup(gallery, tmp_path)
    imported(other, separate)
    with open_gallery(other) as gallery:
        gallery.erase(3)
    imported(other, merged)
    assert looks(other, [3, 13]) == [None, None]


def test_whoever_was_erased_elsewhere_is_erased_here_also_as_part_of_somebody(tmp_path: Path, other: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        three_people(gallery)
        separate = backup(gallery, tmp_path)
        gallery.merge(kept=2, absorbed=1)
    imported(other, separate)
    with open_gallery(other) as gallery:
        gallery.erase(1)
        erased = backup(gallery, tmp_path)
    done = imported(tmp_path, erased)
    assert (done.erased_here, done.sightings_erased_here) == (1, 0)  # the sightings of somebody are not counted twice
    assert looks(tmp_path, [1, 11, 2, 3]) == [None, None, None, 3]
    with open_gallery(tmp_path) as gallery, pytest.raises(InputError, match="was not merged"):
        gallery.unmerge(1)
    assert imported(tmp_path, separate).erased_before == 2


def test_a_sighting_that_was_erased_does_not_come_back(tmp_path: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        sightings = three_people(gallery)
        archive = backup(gallery, tmp_path)
        gallery.forget_sightings([sightings[1], sightings[3]])
        gallery.scrub()
    done = imported(tmp_path, archive)
    assert (done.sightings, done.exemplars) == (0, 0)
    assert looks(tmp_path, [2, 12]) == [2, None]


def test_a_sighting_that_was_erased_elsewhere_is_in_no_file_here_after_the_import(tmp_path: Path, other: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        nobodys = three_people(gallery)[3]
        imported(other, backup(gallery, tmp_path))
        gallery.forget_sightings([nobodys])
        erased = backup(gallery, tmp_path)
    looked_like = someone(19).tobytes()
    assert looked_like in (other / "gallery.sqlite").read_bytes()
    store = Store(other / "gallery.sqlite", encoder_hash=ENCODER, embedding_dim=8)
    done = take_in(store, erased, by="ada")
    assert (done.erased_here, done.sightings_erased_here) == (0, 1)
    assert not any(looked_like in path.read_bytes() for path in other.iterdir())
    store.close()


def test_an_archive_of_another_encoder_changes_nothing(tmp_path: Path, other: Path) -> None:
    with open_gallery(tmp_path) as gallery:
        three_people(gallery)
        archive = backup(gallery, tmp_path)
    store = Store(other / "gallery.sqlite", encoder_hash="b" * 64, embedding_dim=8)
    with pytest.raises(InputError, match="another encoder"):
        take_in(store, archive, by="ada")
    assert store.identities() == []
    store.close()
