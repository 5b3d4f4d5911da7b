from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.duplicates import find_duplicates
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.records import SightingRow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

DIM = 32


def towards(axis: int, *, other: int = 0, share: float = 0.0) -> NDArray[np.float32]:
    """Unit length, mostly along one axis."""
    embedding_D = np.zeros(DIM, dtype=np.float32)
    embedding_D[axis] = 1
    embedding_D[other] += share
    return np.asarray(embedding_D / np.linalg.norm(embedding_D), dtype=np.float32)


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    config = GalleryConfig(min_similarity=0.7)
    with Gallery(tmp_path / "gallery.sqlite", encoder_hash="a" * 64, embedding_dim=DIM, config=config) as opened:
        yield opened


def pairs(gallery: Gallery, *, limit: int) -> list[tuple[int, int]]:
    assert gallery.flush(10.0)
    return [pair.global_ids for pair in find_duplicates(gallery.store, min_similarity=0.7, limit=limit)]


def test_the_likeliest_come_first_and_no_more_than_are_asked_for(gallery: Gallery) -> None:
    for share in (0.0, 0.5, 0.1):
        gallery.enrol(towards(0, other=1, share=share), captured_at=0.0)
    assert pairs(gallery, limit=9) == [(1, 3), (2, 3), (1, 2)]
    assert pairs(gallery, limit=2) == [(1, 3), (2, 3)]
    assert pairs(gallery, limit=1) == [(1, 3)]


def test_of_equally_alike_pairs_the_older_come_first(gallery: Gallery) -> None:
    for _ in range(4):
        gallery.enrol(towards(0), captured_at=0.0)
    assert pairs(gallery, limit=4) == [(1, 2), (1, 3), (1, 4), (2, 3)]


def test_colleagues_in_a_uniform_who_were_seen_at_once_hide_nobody_less_alike(gallery: Gallery) -> None:
    for number in range(12):  # 66 pairs that are more alike than the two below
        who = gallery.enrol(towards(0, other=2 + number, share=0.05), captured_at=0.0)
        row = SightingRow(camid="gate", track_id=number, started_at=0.0, ended_at=9.0, global_id=who, pictures=1)
        gallery.record(row)
    one, other = (gallery.enrol(towards(20, other=21, share=share), captured_at=0.0) for share in (0.0, 0.6))
    assert pairs(gallery, limit=3) == [(one, other)]


def test_two_who_were_taken_apart_are_not_found_again(gallery: Gallery) -> None:
    for _ in range(3):
        gallery.enrol(towards(0), captured_at=0.0)
    gallery.merge(kept=1, absorbed=2)
    gallery.unmerge(2)
    assert pairs(gallery, limit=1) == [(1, 3)]
