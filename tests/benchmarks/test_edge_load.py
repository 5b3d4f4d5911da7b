from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.servers.rtsp import need_gstreamer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType


@pytest.fixture(scope="module")
def edge_load(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("edge_load")


def test_a_short_load_gives_every_figure_and_a_table(
    edge_load: ModuleType, osnet_bundle: Path, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_gstreamer()
    monkeypatch.setattr(sys.modules["live"], "SECONDS", 3)  # of each scene
    monkeypatch.setattr(edge_load, "make_bundle", lambda _: osnet_bundle)
    result = edge_load.run_all([1], tmp_path / "work", seconds=4.0, warm_up=1.0)
    (run,) = result["runs"]
    assert 0 < run["handled"] <= 1.1
    assert run["events"] > 0
    assert 0 < run["delay_ms_p50"] <= run["delay_ms_p95"] <= run["delay_ms_max"]
    assert run["memory_mb"] > 100
    assert run["frames"].keys() == {"cam00"}
    text = edge_load.describe(result)
    assert "| 1 |" in text
    assert "detect" in text


def test_fairness_is_seen_in_the_least_and_the_most_that_a_camera_got(edge_load: ModuleType) -> None:
    before = {"reidge_frames_handled_total": {"a": 10.0}, "reidge_frames_decoded_total": {"a": 10.0}}
    after = {
        "reidge_frames_handled_total": {"a": 60.0, "b": 100.0},
        "reidge_frames_decoded_total": {"a": 110.0, "b": 100.0},
    }
    found = edge_load.count(before, after, ["a", "b"], 10.0)
    assert (found["fps_least"], found["fps_most"]) == (5.0, 10.0)
    assert (found["handled"], found["decoded"]) == (0.75, 1.0)
