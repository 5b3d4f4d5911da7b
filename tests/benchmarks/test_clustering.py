from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    Benchmark = Callable[[str], ModuleType]

ON_LINUX = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is measured on Linux only"
)


def simulate(benchmark: Benchmark, path: Path, **shape: Any) -> Path:
    features = benchmark("clustering_features")
    features.ensure(features.Simulation(**{"dimensions": 64, "decay": 0.0, **shape}), path)
    return path


@pytest.fixture
def here(benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the tasks in this process: new ones would each import and compile everything."""
    tasks = benchmark("clustering_side").TASKS

    def run(_sides: Any, task: str, features: Path, **arguments: Any) -> Any:
        return json.loads(json.dumps(tasks[task](str(features), **arguments)))

    monkeypatch.setattr(benchmark("clustering").Sides, "run", run)


def measure(benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> dict[str, Any]:
    command = ["clustering.py", "--dimensions", "64", "--rounds", "1", "--output", str(folder), *arguments]
    monkeypatch.setattr(sys, "argv", [*command, "--result", str(folder / "result.json")])
    assert benchmark("clustering").main() == 0
    cases: dict[str, Any] = json.loads((folder / "result.json").read_text())["cases"]
    return cases


# The embeddings


def test_embeddings_have_unit_length_and_company(benchmark: Benchmark) -> None:
    features = benchmark("clustering_features")
    x_ND = np.concatenate(list(features.blocks(features.Simulation(images=170, dimensions=64, decay=0.0, noise=0.5))))
    np.testing.assert_allclose(np.linalg.norm(x_ND, axis=1), 1, atol=1e-5)
    # Of about 17 images of an identity, 9 have a cosine near 1 / (1 + 0.5 ** 2) = 0.8 with each other.
    assert np.median(np.sort(x_ND @ x_ND.T, axis=1)[:, -9]) > 0.6


def test_extras_are_copies_strangers_and_hubs(benchmark: Benchmark) -> None:
    features = benchmark("clustering_features")
    simulation = features.Simulation(
        images=200, copies=10, isolated=4, hubs=2, dimensions=512, decay=0.0, common=2.0, noise=1.7, uneven=0.1
    )
    x_ND = np.concatenate(list(features.blocks(simulation)))
    assert len(x_ND) == simulation.total == 216
    # 10 copies, 5 of each: of the first two images.
    np.testing.assert_array_equal(x_ND[200:210], np.tile(x_ND[:2], (5, 1)))
    similarities_NN = x_ND @ x_ND.T
    hubs_first = similarities_NN[:200, 214:].min(axis=1) > np.sort(similarities_NN[:200, :200], axis=1)[:, -4]
    assert hubs_first.mean() > 0.9


def test_embeddings_are_written_once(benchmark: Benchmark, tmp_path: Path) -> None:
    path = simulate(benchmark, tmp_path / "a.npy", images=100)
    written = path.stat().st_mtime_ns
    assert simulate(benchmark, path, images=100).stat().st_mtime_ns == written
    assert len(np.load(simulate(benchmark, path, images=101))) == 101


# The sides


@pytest.mark.parametrize("shape", [{"images": 180, "copies": 10, "isolated": 10}, {"images": 20, "noise": 0.5}])
def test_sparse_labels_are_the_dense_ones(benchmark: Benchmark, tmp_path: Path, shape: dict[str, Any]) -> None:
    found = benchmark("clustering_side").compare(str(simulate(benchmark, tmp_path / "a.npy", **shape)))
    assert found["clusters"] >= 1
    assert found["same_ranking"] == {"identical": True, "differing": 0}
    assert (found["missing"], found["extra"]) == (0, 0)
    assert found["largest_difference"] < 1e-5
    assert found["own_ranking"]["not_as_near"] == 0


@ON_LINUX
def test_embeddings_above_the_bound_stay_in_their_file(
    benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    side, path = benchmark("clustering_side"), simulate(benchmark, tmp_path / "a.npy", images=150)
    in_memory = side.run_sparse(str(path))
    monkeypatch.setattr(side, "CONFIG", side.CONFIG.model_copy(update={"memory_gib": 1e-6}))
    assert side.load(str(path)).dtype == torch.float16
    in_file = side.run_sparse(str(path))
    assert in_file["clusters"] == in_memory["clusters"]
    assert in_file["entries"] == pytest.approx(in_memory["entries"], rel=0.02)


def test_pairs_near_on_one_side_only_are_counted(benchmark: Benchmark) -> None:
    from scipy.sparse import csr_matrix

    dense = np.array([[0, 0.2, 0.5], [0.2, 0, 0.9], [0.5, 0.9, 0]], dtype=np.float32)
    # 0-1 is off by 0.1, 0-2 is not stored, 1-2 is stored though it is far.
    rows, columns = [0, 0, 1, 1, 1, 2, 2], [0, 1, 0, 1, 2, 1, 2]
    distances = np.array([0, 0.3, 0.3, 0, 0.4, 0.4, 0], dtype=np.float32)
    sparse = csr_matrix((distances, (rows, columns)))
    found = benchmark("clustering_side")._compare_entries(sparse, dense)
    assert (found["missing"], found["extra"]) == (2, 2)
    assert found["largest_difference"] == pytest.approx(0.5)  # of the pair that is far


def test_other_neighbours_that_are_equally_near_are_told_from_wrong_ones(benchmark: Benchmark) -> None:
    from reidge.train.neighbors import Neighbors

    # Images 1 and 2 are copies; 3 is farther from image 0 than they are.
    x_ND = np.array([[1, 0], [0.8, 0.6], [0.8, 0.6], [0.6, 0.8]], dtype=np.float32)
    ours = np.array([[0, 1], [1, 2], [2, 1], [3, 1]])
    nearest = Neighbors(
        indices_NK=ours.astype(np.int32), similarities_NK=np.array([[1, 0.8], [1, 1], [1, 1], [1, 0.96]], np.float32)
    )
    side = benchmark("clustering_side")
    copies = np.array([[0, 2], [2, 1], [1, 2], [3, 2]])
    assert side._compare_neighbors(x_ND, nearest, copies) == {"other_neighbours": 2, "not_as_near": 0}
    wrong = np.array([[0, 3], [1, 2], [2, 1], [3, 1]])
    assert side._compare_neighbors(x_ND, nearest, wrong) == {"other_neighbours": 1, "not_as_near": 1}


def test_recall_counts_the_true_neighbours_that_were_found(benchmark: Benchmark) -> None:
    import torch

    from reidge.train.neighbors import Neighbors, nearest_neighbors

    angles = torch.arange(8) * 0.1 + torch.arange(8) ** 2 * 0.001  # growing steps: no two are as far apart
    x_ND = torch.stack([angles.cos(), angles.sin()], dim=1)
    found_NK = nearest_neighbors(x_ND, 3).indices_NK.copy()
    found_NK[:, 2] = found_NK[:, 0]  # of the two neighbours beside itself one is lost
    nearest = Neighbors(indices_NK=found_NK, similarities_NK=np.ones((8, 3), np.float32))
    assert benchmark("clustering_side")._checked(x_ND, nearest)["checked_recall"] == 0.5


def test_a_side_runs_in_a_process_of_its_own_and_its_failure_is_told(
    benchmark: Benchmark, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from reidge.edge.errors import ReidgeError

    sides = benchmark("clustering").Sides(tmp_path, threads=1, dimensions=64)
    _, path = sides.simulate("one", images=1)
    with pytest.raises(ReidgeError, match="ended with exit status 2"):
        sides.run("sparse", path)
    assert "two images or more" in capfd.readouterr().err


# Peak memory


@ON_LINUX
def test_the_peak_is_of_the_work_alone(benchmark: Benchmark) -> None:
    def allocate(mib: int) -> None:
        np.ones(mib * 2**20, dtype=np.uint8)

    peak = benchmark("peak")
    allocate(200)  # is over when the meter begins
    meter = peak.Meter.here()
    _, first = meter.measure(lambda: allocate(100))
    held, second = meter.measure(lambda: np.ones(50 * 2**20, dtype=np.uint8))
    _, third = meter.measure(lambda: allocate(10))
    assert held.nbytes == 50 * 2**20
    # A little more goes to Python itself.
    assert [round(part["peak_mib"], -1) for part in (first, second, third)] == [100, 50, 60]


# The cases


@ON_LINUX
@pytest.mark.usefixtures("here")
def test_a_case_replaces_its_own_part_of_the_result(
    benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = measure(benchmark, monkeypatch, tmp_path, "--case", "speed", "--images", "150")["speed"]["rows"]
    assert [row["images"] for row in speed] == [150]
    assert set(speed[0]["rounds"][0]) == {"dense", "sparse"}
    assert speed[0]["faster"] > 0
    measure(benchmark, monkeypatch, tmp_path, "--case", "scale", "--images", "150")
    cases = measure(benchmark, monkeypatch, tmp_path, "--case", "scale", "--images", "200", "--part", "knn")
    assert cases["speed"]["rows"] == speed
    assert [row["images"] for row in cases["scale"]["rows"]] == [150, 200]
    assert ["jaccard" in row for row in cases["scale"]["rows"]] == [True, False]
    assert cases["scale"]["rows"][0]["checked_recall"] == 1
    assert cases["scale"]["machine"]["cpu"]["cores"] >= 1


@ON_LINUX
@pytest.mark.usefixtures("here")
def test_neighbours_of_other_embeddings_are_refused(
    benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reidge.edge.errors import InputError

    (tmp_path / "neighbors-150.npz").touch()
    with pytest.raises(InputError, match="--part both"):
        measure(benchmark, monkeypatch, tmp_path, "--case", "scale", "--images", "150", "--part", "cluster")


def test_ratios_are_medians_over_the_rounds(benchmark: Benchmark) -> None:
    def side(knn: float, jaccard: float, peak: float) -> dict[str, Any]:
        parts = {"knn": knn, "jaccard": jaccard, "dbscan": 0.0}
        return {name: {"seconds": seconds, "peak_mib": peak} for name, seconds in parts.items()}

    rounds = [{"dense": side(10, 20, 500), "sparse": side(10, 2, 50)} for _ in range(3)]
    rounds[2]["sparse"] = side(10, 0.1, 400)  # a turn unlike the others changes nothing
    found = benchmark("clustering").ratios(rounds)
    assert (found["faster"], found["faster_with_knn"], found["memory"]) == (10.0, 2.5, 0.1)


# The tables


def row(images: int, seconds: float, recall: float | None, members: int = 17) -> dict[str, Any]:
    cost = {"seconds": seconds, "peak_mib": seconds}
    parts: dict[str, Any] = {"knn": cost, "jaccard": cost, "dbscan": cost}
    parts["simulation"] = {"members": members, "noise": 0.8, "decay": 0.0, "dimensions": 512}
    return {"images": images, "recall": recall, "checked_recall": 0.98, "clusters": 9, "outliers": 0.1, **parts}


def test_costs_beyond_what_was_measured_follow_a_power_of_the_size(benchmark: Benchmark) -> None:
    extrapolate = benchmark("clustering_tables").extrapolate
    assert extrapolate([(1000, 1.0), (100_000, 10.0), (1_000_000, 100.0)], 10_000_000) == pytest.approx(1000)
    assert extrapolate([(100_000, 10.0), (1_000_000, 200.0)], 10_000_000) == pytest.approx(4000)


def test_no_cost_is_said_to_grow_slower_than_the_images(benchmark: Benchmark) -> None:
    assert benchmark("clustering_tables").extrapolate([(100, 1.0), (1000, 2.0)], 10_000) == pytest.approx(20)


def test_one_size_or_two_of_a_kind_say_nothing_of_larger_ones(benchmark: Benchmark) -> None:
    extrapolate = benchmark("clustering_tables").extrapolate
    assert extrapolate([], 10_000) is None
    assert extrapolate([(1000, 2.0)], 10_000) is None
    assert extrapolate([(900, 1.0), (1000, 2.0)], 10_000) is None


def test_the_table_marks_what_is_extrapolated_and_shows_goals(benchmark: Benchmark) -> None:
    rows = [row(12_936, 1.0, None), row(100_000, 30.0, 0.99), row(1_000_000, 600.0, 0.99)]
    lines = benchmark("clustering_tables").scale_table(rows).splitlines()
    assert lines[2].startswith("| 12,936 | 17 | 0.8 | 25.0 % | 1.0 s | exact |")
    assert "<= 40 s, 1.5 GiB" in lines[3]
    assert "| 10 min | 0.980 |" in lines[4]
    assert "<= 15 min, 8 GiB, recall >= 0.97" in lines[4]
    # 600 s is 20 times 30 s: ten times as many images take 20 times as long again.
    assert lines[6].startswith("| *10,000,000, extrapolated* | 17 | 0.8 | 25.0 % | *3.3 h* |")


def test_sizes_are_compared_at_the_same_number_of_images_of_a_person(benchmark: Benchmark) -> None:
    rows = [row(100_000, 10.0, 0.99), row(300_000, 30.0, 0.99), row(1_000_000, 900.0, 0.99, members=50)]
    lines = benchmark("clustering_tables").scale_table(rows).splitlines()[2:]
    firsts = [line.split("|")[1].strip() for line in lines]
    # The only size of clusters of 50 says nothing of larger ones, and 900 s nothing of clusters of 17.
    expected = ["100,000", "300,000", "*3,000,000, extrapolated*", "*10,000,000, extrapolated*", "1,000,000"]
    assert firsts == expected
    assert "*5 min*" in lines[2]


def test_a_hub_line_says_how_cost_grew(benchmark: Benchmark) -> None:
    rows = [
        {"images": images, "hubs": 3, "near": 1.0, "seconds": seconds, "peak_mib": mib}
        for images, seconds, mib in [(20_000, 1.0, 100.0), (40_000, 2.5, 190.0)]
    ]
    assert "N x 2: time x 2.5, memory x 1.9" in benchmark("clustering_tables").hub_table(rows).splitlines()[3]


def test_tables_go_into_the_document_with_what_they_ran_on(benchmark: Benchmark, tmp_path: Path) -> None:
    ran = {
        "threads": 2, "date": "2026-01-01", "versions": {"torch": "2"},
        "machine": {"cpu": {"model": "x", "cores": 2}, "gpus": [], "system": {"python": "3"}},
    }  # fmt: skip
    side = {"knn": 6.0, "jaccard": 1.5, "dbscan": 0.1, "peak_mib": 100.0}
    speed = {"images": 12_936, "dense": side, "sparse": side, "faster": 16.2, "faster_with_knn": 3.4, "memory": 0.05}
    simulation = {"noise": 0.8, "copies": 5, "isolated": 4}
    same, other = (
        {"identical": True, "differing": 0},
        {"identical": False, "differing": 2, "other_neighbours": 7, "not_as_near": 0},
    )
    labels = {
        "images": 2000, "simulation": simulation, "clusters": 99, "outliers": 0.125, "largest_difference": 6e-7,
        "missing": 0, "extra": 0, "same_ranking": same, "own_ranking": other,
    }  # fmt: skip
    gpu = {"images": 12_936, "seconds": 0.5, "gpu_peak_mib": 1024.0, "clusters": 750, "outliers": 0.1}
    cases = {"speed": {**ran, "rows": [speed]}, "labels": {**ran, "rows": [labels]}, "gpu": {**ran, "rows": [gpu]}}
    document = tmp_path / "scaling.md"
    tables = benchmark("clustering_tables")
    document.write_text("".join(f"<!-- clustering-{case} -->\n<!-- /clustering-{case} -->\n" for case in tables.TABLES))
    for case in tables.TABLES:
        tables.write_tables(cases, case, document)
    text = document.read_text()
    assert "| 16.2 x | 3.4 x | 1 / 20 |" in text
    assert ">= 15 x | >= 3 x | <= 1 / 10 |" in text
    assert "| identical | 2 differ | 7 | 0 |" in text
    assert "| 12,936 | 0.50 s | <= 1 s | 1.00 GiB | 750 | 10.0 % |" in text
    assert text.count("Ran on x, 2 cores") == 3


def test_the_document_has_a_place_for_every_table(benchmark: Benchmark) -> None:
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    assert all(f"<!-- clustering-{case} -->" in text for case in benchmark("clustering_tables").TABLES)


def test_every_case_has_sizes_and_a_table(benchmark: Benchmark) -> None:
    clustering = benchmark("clustering")
    assert set(clustering.IMAGES) == set(benchmark("clustering_tables").TABLES)
    assert isinstance(clustering.parse(["--case", "hub"]), argparse.Namespace)
