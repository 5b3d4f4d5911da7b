from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

import pytest

from reidge.calibration.threshold import FALSE_MATCH_RATE
from reidge.cli.export import add_arguments
from reidge.cli.gate import read_gate
from reidge.cli.main import main
from reidge.edge.bundle import Bundle
from reidge.export.parity import Gate
from reidge.export.sensitivity import MAX_FLOAT_SHARE
from reidge.train.checkpoint import save_encoder

if TYPE_CHECKING:
    from pathlib import Path

    from reidge.train.encoders.encoder import Encoder


@pytest.fixture
def run_folder(tmp_path: Path, small_encoder: Encoder) -> Path:
    folder = tmp_path / "run7"
    save_encoder(small_encoder, folder / "encoder.safetensors")
    (folder / "recipe.yaml").write_text("name: quick\nloop: {epochs: 3}\n")
    return folder


def test_a_run_folder_becomes_a_bundle_and_one_json_object(
    tmp_path: Path, run_folder: Path, crop_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "sites" / "bundle"
    status = main(["export", str(run_folder), "--crops", str(crop_folder), "--output", str(output), "--json"])
    printed = capsys.readouterr()
    assert status == 0
    figures = json.loads(printed.out)
    assert figures["cosine_int8_mean"] >= 0.99
    assert figures["min_similarity_int8"] == pytest.approx(
        Bundle.load(output).manifest.threshold["int8"].min_similarity
    )
    assert "warning: the match threshold is no measurement" in printed.err
    origin = Bundle.load(output).manifest.provenance
    assert (origin.source, origin.recipe) == ("run7", {"name": "quick", "loop": {"epochs": 3}})
    assert [path.name for path in output.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent", "--crops", "{crops}", "--output", "{tmp}/bundle"], "absent"),
        (["{run}", "--crops", "{tmp}", "--output", "{tmp}/bundle"], "is not a crop folder: crops.csv is missing"),
        (["{run}", "--crops", "{crops}", "--output", "{run}"], "already exists and is not an empty folder"),
        (["{run}", "--crops", "{crops}", "--output", "{tmp}/bundle", "--calibration-size", "0"], "calibration size"),
        (
            ["{run}", "--crops", "{crops}", "--output", "{tmp}/bundle", "--gate", "cosine=1"],
            "names cosine_mean, cosine_p1",
        ),
        (
            ["{run}", "--crops", "{crops}", "--output", "{tmp}/bundle", "--gate", "map_loss=-1"],
            "--gate map_loss=-1: must",
        ),
        (["{run}", "--crops", "{crops}", "--output", "{tmp}/bundle", "--gate", "map_loss=0.01"], "Give --labels too"),
        (["{run}", "--crops", "{crops}", "--output", "{tmp}/bundle", "--labels", "{run}"], "{run}"),
        (
            ["{run}", "--crops", "{crops}", "--output", "{tmp}/bundle", "--scales", "{run}"],
            "scales.json cannot be read",
        ),
        (["{run}", "--crops", "{crops}", "--output", "{tmp}/bundle", "--architecture", "resnet18"], "not resnet18"),
    ],
)
def test_a_mistake_ends_with_status_2_and_one_line(
    tmp_path: Path,
    run_folder: Path,
    crop_folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    filled = [part.format(tmp=tmp_path, run=run_folder, crops=crop_folder) for part in arguments]
    assert main(["export", *filled]) == 2
    error = capsys.readouterr().err
    assert message.format(run=run_folder) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "bundle").exists()


def test_an_output_that_cannot_be_written_ends_with_status_1_and_one_line(
    tmp_path: Path, run_folder: Path, crop_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "bundle"
    assert main(["export", str(run_folder), "--crops", str(crop_folder), "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert "Not a directory" in error
    assert error.count("\n") == 1


def test_an_output_that_cannot_be_made_is_named_as_it_was_given(
    run_folder: Path, crop_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = "/proc/bundle"  # where Linux lets nobody make a folder, not even root
    assert main(["export", str(run_folder), "--crops", str(crop_folder), "--output", output]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("reidge export: /proc/bundle: ")


@pytest.mark.parametrize("content", ["loop: {epochs", "[" * 5000], ids=["cut off", "deep"])
def test_a_damaged_recipe_is_one_line(
    tmp_path: Path, run_folder: Path, crop_folder: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_folder / "recipe.yaml").write_text(content)
    assert main(["export", str(run_folder), "--crops", str(crop_folder), "--output", str(tmp_path / "bundle")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "recipe.yaml is no YAML" in line


def test_the_gate_is_changed_by_name() -> None:
    assert read_gate(Gate, []) == Gate()
    assert read_gate(Gate, ["cosine_mean=0.98", "rank1_loss=0.02"]) == Gate(min_cosine_mean=0.98, max_rank1_loss=0.02)


def test_the_help_shows_the_defaults_that_hold() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.get_default("max_float_share") == MAX_FLOAT_SHARE
    assert parser.get_default("false_match_rate") == FALSE_MATCH_RATE
