from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType


@pytest.fixture(scope="module")
def crash(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("crash")


def test_what_was_told_survives_a_dozen_kills(
    crash: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crash, "LONGEST", 0.1)
    result = crash.run_all(12, tmp_path)
    assert result["kept"] >= result["told"] >= 12
    assert "| 12 |" in crash.describe(result)


def test_a_change_that_was_told_and_is_not_in_the_file_is_seen(crash: ModuleType, tmp_path: Path) -> None:
    before, after = tmp_path / "before.sqlite", tmp_path / "after.sqlite"
    with crash.open_gallery(after) as gallery:
        life = crash.Life(gallery, 7)
        for _ in range(20):
            life.turn()
    found = crash.snapshot(after)
    assert crash._replay(before, 7, found, 15) == 20
    with pytest.raises(AssertionError, match="at no moment after change 21"):
        crash._replay(before, 7, found, 21)
