from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType


@pytest.fixture(scope="module")
def gallery(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("gallery")


def test_a_small_gallery_gives_every_figure_and_a_table(
    gallery: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, small in (("REPEATS", 2), ("CHANGES", 5), ("QUERIES", 128)):
        monkeypatch.setattr(gallery, name, small)
    path = tmp_path / "gallery.sqlite"
    gallery.write_gallery(path, 18_000)  # enough to be looked for in fewer dimensions first
    run = gallery.measure(path, 18_000)
    assert run["recall"] >= 0.98
    assert run["similarity_known"] > run["similarity_strangers"]
    result = gallery.provenance() | {"runs": [run], "at_once": gallery.AT_ONCE}
    assert "| 18,000 |" in gallery.describe(result)


def test_people_who_are_known_can_be_found_and_strangers_are_nobody_of_them(gallery: ModuleType) -> None:
    known_RD = gallery.pictured(gallery.centres(0, 64), np.random.default_rng(1))
    again_RD = gallery.pictured(gallery.centres(0, 64), np.random.default_rng(2))
    strangers_RD = gallery.pictured(gallery.centres(10**9, 64), np.random.default_rng(2))
    assert np.median((known_RD * again_RD).sum(axis=1)) > 0.6
    assert np.median((known_RD @ strangers_RD.T).max(axis=1)) < 0.55
