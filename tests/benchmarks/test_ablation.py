from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reidge.edge.errors import InputError
from reidge.train.recipe import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

PARTS = ("data", "ablation", "claims", "choice")
PLACES = [*(f"{part}-{setting}" for part in PARTS for setting in ("cpu", "gpu")), "train-speed-cpu", "train-speed-cuda"]
DOCUMENT = Path(__file__).parents[2] / "docs" / "results.md"


@pytest.fixture(scope="module")
def ablation(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("ablation")


@pytest.fixture(scope="module")
def tables(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("ablation_tables")


@pytest.mark.parametrize("setting", ["tiny", "cpu", "gpu"])
def test_every_configuration_is_a_recipe_of_its_own(ablation: ModuleType, setting: str) -> None:
    chosen = ablation.RUN_SETTINGS[setting]
    rows = ablation.configurations(chosen)
    recipes = [load_recipe(chosen.recipe, [*chosen.base, *row.overrides]) for row in rows]
    assert len({recipe.model_dump_json() for recipe in recipes}) == len(rows) == 17
    assert len({ablation.Job(name=r.name, seed=0, recipe="", overrides=(), weights=None).folder for r in rows}) == 17


def test_a_run_is_made_once_and_skipped_when_asked_for_again(
    ablation: ModuleType,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "data").symlink_to(tiny_data)
    command = ["ablation.py", "--setting", "tiny", "--seeds", "0", "--only", "k-means"]
    command += ["--output", str(tmp_path / "work"), "--result", str(tmp_path / "result.json")]
    monkeypatch.setattr(sys, "argv", command)
    assert ablation.main() == 0
    assert "1/1 seed 0 k-means: mAP" in capfd.readouterr().err
    result: dict[str, Any] = json.loads((tmp_path / "result.json").read_text())
    assert [run["name"] for run in result["runs"]] == ["warm-up", "k-means"]
    assert all(0 < run["mAP"] <= run["rank10"] <= 1 and run["memory_mb"] > 100 for run in result["runs"])
    assert len(result["runs"][1]["history"]) == 2
    assert result["machine"]["cpu"]["cores"] >= 1
    assert ablation.main() == 0
    assert "1/1" not in capfd.readouterr().err


def test_a_line_that_was_cut_off_is_a_run_to_be_made_again(ablation: ModuleType, tmp_path: Path) -> None:
    job = ablation.Job(name="a", seed=1, recipe="quick", overrides=("x=1",), weights=None)
    published: list[int] = []
    ledger = ablation.Ledger(tmp_path / "runs.jsonl", lambda runs: published.append(len(runs)))
    ledger.add({**job.key, "mAP": 0.5})
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write('{"name": "b", "mA')
    again = ablation.Ledger(tmp_path / "runs.jsonl", print)
    assert again.find(job)["mAP"] == 0.5
    assert len(again.runs) == len(published) == 1


def test_a_run_of_an_older_recipe_does_not_count(ablation: ModuleType, tmp_path: Path) -> None:
    job, newer = (
        ablation.Job(name="a", seed=1, recipe="quick", overrides=(value,), weights=None) for value in ("x=1", "x=2")
    )
    ledger = ablation.Ledger(tmp_path / "runs.jsonl", lambda runs: None)
    ledger.add(dict(job.key))
    assert ledger.find(newer) is None
    ledger.add(dict(newer.key))
    assert ledger.find(job) is None
    assert len(ledger.runs) == 1


def test_purity_counts_the_commonest_identity_of_each_cluster_and_passes_outliers_over(
    benchmark: Callable[[str], ModuleType],
) -> None:
    quality = benchmark("trial").label_quality(np.array([0, 0, 0, 1, 1, -1]), np.array([7, 7, 8, 9, 9, 7]))
    assert quality["purity"] == pytest.approx(4 / 5)
    assert 0 < quality["nmi"] < 1


def record(mAP: float, score: float | None) -> dict[str, float | None]:
    return {"mAP": mAP, "agreement": score, "silhouette": score, "tracklets": score}


def test_a_score_judges_the_encoder_that_its_epoch_began_with(tables: ModuleType) -> None:
    choice = tables.choose([record(0.3, None), record(0.6, 0.1), record(0.4, 0.9), record(0.5, 0.2)])
    assert choice.by_score["agreement"] == 0.6
    assert (choice.last, choice.best) == (0.5, 0.6)


def test_a_history_without_scores_gives_no_choice(tables: ModuleType) -> None:
    assert tables.choose([record(0.3, None)] * 4) is None


def test_the_table_gives_mean_and_spread_over_seeds(tables: ModuleType) -> None:
    run = {"name": "a", "rank1": 0.5, "rank5": 0.6, "rank10": 0.7, "clusters": 9, "seconds": 1.0, "memory_mb": 300}
    table = tables.ablation_table([{**run, "mAP": 0.40}, {**run, "mAP": 0.44}], ["a", "absent"])
    assert table.splitlines()[2].startswith("| a | 42.0 ± 2.8 | 50.0 ± 0.0 |")
    assert len(table.splitlines()) == 3


def test_a_claim_is_judged_seed_by_seed_against_the_spread_of_its_gain(tables: ModuleType) -> None:
    maps = {"a": (0.50, 0.62), "b": (0.48, 0.60), "c": (0.70, 0.40)}
    runs = [{"name": name, "seed": seed, "mAP": own[seed]} for name, own in maps.items() for seed in (0, 1)]
    claims = [("a > b", "a", "b"), ("b > a", "b", "a"), ("a > c", "a", "c"), ("a > d", "a", "d")]
    assert tables.claims_table(runs, claims).splitlines()[2:] == [
        "| a > b | 2.0 ± 0.0 | holds |",
        "| b > a | -2.0 ± 0.0 | does not hold |",
        "| a > c | 1.0 ± 29.7 | undecided |",
    ]


def test_claims_are_about_configurations_that_are_run(ablation: ModuleType) -> None:
    names = {row.name for s in ("cpu", "gpu") for row in ablation.configurations(ablation.RUN_SETTINGS[s])}
    assert {name for _, *pair in ablation.CLAIMS for name in pair} <= names


def test_a_result_replaces_the_tables_of_its_setting_alone(tables: ModuleType, tmp_path: Path) -> None:
    document = tmp_path / "results.md"
    markers = "".join(f"<!-- {part}-{s} -->\n<!-- /{part}-{s} -->\n" for part in PARTS
                      for s in ("cpu", "gpu"))  # fmt: skip
    document.write_text(markers)
    figures = {"rank1": 0.5, "rank5": 0.6, "rank10": 0.7, "clusters": 9, "seconds": 1.0, "memory_mb": 300}
    hard = ("map_histogram", "map_untrained")
    result = {
        "setting": "cpu", "date": "2026-01-01", "versions": {"torch": "2"},
        "machine": {"cpu": {"model": "x", "cores": 2}, "gpus": [], "system": {"python": "3"}},
        "data": {"counts": {"query": {"images": 5, "people": 2}}, "difficulty": dict.fromkeys(hard, 3)},
        "runs": [{"name": "a", "seed": 0, "mAP": 0.4, **figures, "history": [record(0.4, None)] * 3}],
    }  # fmt: skip
    tables.write_tables(result, ["a"], [], document)
    once = document.read_text()
    tables.write_tables(result, ["a"], [], document)
    assert document.read_text() == once
    assert "| a | 40.0 |" in once
    assert "<!-- ablation-gpu -->\n<!-- /ablation-gpu -->" in once


def test_a_document_without_a_place_for_the_table_is_refused(
    benchmark: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    (tmp_path / "a.md").write_text("nothing")
    with pytest.raises(InputError, match="has no place for ablation-cpu"):
        benchmark("publish").put_between_markers(tmp_path / "a.md", "ablation-cpu", "text")


@pytest.mark.parametrize(
    "name",
    [f"{part}-{setting}" for part in PARTS for setting in ("cpu", "gpu")] + ["train-speed-cpu", "train-speed-cuda"],
)
def test_the_document_has_a_place_for_every_table(name: str) -> None:
    text = DOCUMENT.read_text()
    assert f"<!-- {name} -->\n" in text
    assert f"<!-- /{name} -->\n" in text
