from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cv2
import pytest

from reidge.cli.main import main
from reidge.demo.site import SiteConfig
from reidge.demo.trip import clear, run_demo
from reidge.edge.bundle import Bundle
from reidge.train.recipe import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

FIGURES = {
    "map_untrained",
    "map_histogram",
    "map_trained",
    "rank1_trained",
    "map_int8",
    "cosine_int8_mean",
    "idf1",
    "identities_true",
    "identities_found",
    "frames_per_second",
    "latency_ms_p95",
    "seconds",
}


@pytest.fixture(scope="module")
def trip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The whole trip in small: too short to learn much, long enough that every stage really runs."""
    output = tmp_path_factory.mktemp("trip")
    site = SiteConfig(seed=2, residents=10, strangers=3, routes=(1, 1), density=0.9)
    recipe = load_recipe("quick", ["warmup.epochs=2", "warmup.iters=12", "loop.epochs=1", "loop.iters=12"])
    return output, run_demo(output, recipe, site)


def test_the_trip_ends_with_all_figures(trip: tuple[Path, dict[str, Any]]) -> None:
    output, figures = trip
    assert figures.keys() >= FIGURES
    assert json.loads((output / "figures.json").read_text()) == figures
    assert set(figures["seconds"]) == {"simulate", "harvest", "train", "export", "evaluate", "run", "score", "total"}


def test_even_a_short_training_beats_random_weights(trip: tuple[Path, dict[str, Any]]) -> None:
    _, figures = trip
    assert figures["map_trained"] > figures["map_untrained"]


def test_the_run_finds_most_people_where_they_are(trip: tuple[Path, dict[str, Any]]) -> None:
    _, figures = trip
    assert figures["detection_f1"] > 0.8
    assert figures["identities_true"] == 13


def test_the_trip_leaves_a_bundle_events_and_a_picture(trip: tuple[Path, dict[str, Any]]) -> None:
    output, _ = trip
    assert Bundle.load(output / "bundle").manifest.threshold["int8"].min_similarity is not None
    kinds = {json.loads(line)["event"] for line in (output / "events.jsonl").read_text().splitlines()}
    assert kinds >= {"camera.up", "sighting.started", "sighting.ended", "identity.created"}
    picture = cv2.imread(str(output / "result.png"))
    assert picture is not None
    assert picture.shape[1] > 3 * 640


def test_a_second_demo_does_not_overwrite_the_first(
    trip: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    output, _ = trip
    assert main(["demo", "--output", str(output)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("reidge demo: ")
    assert (output / "figures.json").exists()


def test_clearing_removes_only_what_the_demo_wrote(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "figures.json").touch()
    (tmp_path / "mine.txt").touch()
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
