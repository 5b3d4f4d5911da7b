from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reidge.calibration.drift import DriftLimits, DriftReport, Saturation, find_drift, judge_int8, judge_threshold
from reidge.calibration.snapshot import CALIBRATION_NAME, read_snapshot, take_snapshot
from reidge.calibration.threshold import Rates
from reidge.cli.main import main
from reidge.edge.bundle import Bundle, BundleError, HashMismatch, ThresholdReport
from reidge.edge.crops import CropFolder, read_crop_folder, read_image, resize_crops

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Light = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def drift_of(bundle: Path, crops: Path) -> DriftReport:
    return find_drift(Bundle.load(bundle), crops, threads=1)


def test_other_people_under_the_same_light_are_no_drift(site_bundle: Path, harvest_site: Callable[..., Path]) -> None:
    report = drift_of(site_bundle, harvest_site(seed=1))
    assert (report.verdict, report.reasons) == ("fine", ())
    assert (report.crops_then, report.crops_now, report.tracklets_now) == (160, 160, 40)
    assert abs(report.appearance.inhomogeneity) < 0.02
    assert report.saturation[0].now < 0.001


@pytest.mark.parametrize(
    ("light", "reasons"),
    [
        (lambda image: 1.3 * image, ["look different", "leave their INT8 range", "different people match too often"]),
        (lambda image: 0.6 * image, ["look different", "different people match too often"]),
        (lambda image: image * np.array([0.8, 1, 1.2], dtype=np.float32), ["look different"]),
    ],
    ids=["brighter", "darker", "warmer"],
)
def test_another_light_asks_for_a_new_calibration_and_says_why(
    site_bundle: Path, harvest_site: Callable[..., Path], light: Light, reasons: list[str]
) -> None:
    report = drift_of(site_bundle, harvest_site(seed=1, light=light))
    assert report.verdict == "recalibrate"
    for expected in reasons:
        assert any(expected in reason for reason in report.reasons)


def test_a_camera_that_was_never_calibrated_on_is_worth_a_look(
    site_bundle: Path, harvest_site: Callable[..., Path]
) -> None:
    report = drift_of(site_bundle, harvest_site(seed=1, cameras=("hall", "gate")))
    assert (report.verdict, report.reasons) == ("look", ("the calibration saw no camera named gate.",))


def break_bright_crops(graph: Path) -> None:
    """Give crops whose mean is above 135 an embedding of NaN, and change no other."""
    model = onnx.load(graph)
    (output,) = model.graph.output
    crops = model.graph.input[0].name
    last = next(node for node in model.graph.node if output.name in node.output)
    last.output[:] = ["sound"]
    model.graph.node.extend(
        [
            helper.make_node("Cast", [crops], ["whole"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["whole"], ["mean_N3"], axes=[1, 2], keepdims=0),
            helper.make_node("ReduceMean", ["mean_N3"], ["mean_N1"], axes=[1], keepdims=1),
            helper.make_node("Sub", ["limit", "mean_N1"], ["left"]),
            helper.make_node("Sqrt", ["left"], ["root"]),
            helper.make_node("Mul", ["root", "next_to_nothing"], ["nothing"]),
            helper.make_node("Add", ["sound", "nothing"], [output.name]),
        ]
    )
    for name, value in (("limit", 135), ("next_to_nothing", 1e-9)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype=np.float32), name))
    onnx.save(model, graph)


def test_embeddings_that_are_not_finite_are_never_fine(
    site_bundle: Path, harvest_site: Callable[..., Path], describe_again: Callable[..., None]
) -> None:
    break_bright_crops(site_bundle / "encoder.int8.onnx")
    describe_again(site_bundle)
    report = drift_of(site_bundle, harvest_site(seed=1, light=lambda image: 1.1 * image))
    assert report.verdict == "recalibrate"
    (reason,) = (reason for reason in report.reasons if "not finite" in reason)
    assert reason.startswith("INT8 gives ")
    assert 0 < report.cosine_now < 1
    json.loads(json.dumps(asdict(report)), parse_constant=pytest.fail)  # JSON knows no NaN


def test_six_people_prove_nothing_and_that_is_said(
    site_bundle: Path, harvest_site: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    crops = harvest_site(seed=1, people=6)
    assert main(["drift", str(site_bundle), "--crops", str(crops)]) == 0
    headline, reason, *_ = capsys.readouterr().out.splitlines()
    assert headline == "look: no change was found, but in too little to be sure."
    assert reason == (
        "- little to go by: crops 24, better 64 or more; tracklets 6, better 16 or more. Harvest longer before you "
        "trust this."
    )


def test_the_command_prints_the_verdict_or_one_object(
    site_bundle: Path, harvest_site: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    crops = harvest_site(seed=1, light=lambda image: 0.6 * image)
    assert main(["drift", str(site_bundle), "--crops", str(crops)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("recalibrate: export the bundle again")
    reasons = [line for line in lines if line.startswith("- ")]
    assert lines[1 : 1 + len(reasons)] == reasons
    assert lines[1 + len(reasons)].split() == ["crops", "160"]
    assert main(["drift", str(site_bundle), "--crops", str(crops), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "recalibrate"
    assert report["reasons"] == [reason[2:] for reason in reasons]
    assert report["appearance"]["novel_share"] > 0.5


def test_a_calibration_of_other_weights_is_refused_in_one_line(
    site_bundle: Path,
    harvest_site: Callable[..., Path],
    describe_again: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    provenance = Bundle.load(site_bundle).manifest.provenance
    describe_again(site_bundle, provenance=provenance.model_copy(update={"weights_sha256": "a" * 64}))
    assert main(["drift", str(site_bundle), "--crops", str(harvest_site(seed=1))]) == 2
    line = capsys.readouterr().err
    assert "made with other weights (000000000000...) than the bundle's (aaaaaaaaaaaa...)" in line
    assert "stale" in line
    assert line.count("\n") == 1


def test_a_folder_that_holds_no_crops_is_refused_in_one_line(
    site_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drift", str(site_bundle), "--crops", str(tmp_path / "nowhere")]) == 2
    assert "is not a crop folder" in capsys.readouterr().err


def test_a_negative_seed_is_refused_in_one_line(
    site_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drift", str(site_bundle), "--crops", str(tmp_path / "then"), "--seed", "-1"]) == 2
    assert "the seed must be 0 or more, got -1." in capsys.readouterr().err


def test_an_unknown_limit_is_refused_with_the_nearest_one(
    site_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drift", str(site_bundle), "--crops", str(tmp_path), "--set", "look_novelty=0.5"]) == 2
    assert "Did you mean 'look_novel_share'?" in capsys.readouterr().err


def test_a_bundle_without_its_calibration_is_refused(
    site_bundle: Path, harvest_site: Callable[..., Path], describe_again: Callable[..., None]
) -> None:
    (site_bundle / CALIBRATION_NAME).unlink()
    describe_again(site_bundle)
    with pytest.raises(BundleError, match=r"calibration.npz is missing: .* Export the bundle again"):
        drift_of(site_bundle, harvest_site(seed=1))


def test_a_damaged_calibration_is_refused(
    site_bundle: Path, harvest_site: Callable[..., Path], describe_again: Callable[..., None]
) -> None:
    path = site_bundle / CALIBRATION_NAME
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    with pytest.raises(HashMismatch):
        Bundle.load(site_bundle)
    crops = harvest_site(seed=1)
    for damaged in (content[:100], b"", b"no archive"):
        path.write_bytes(damaged)
        describe_again(site_bundle)
        with pytest.raises(BundleError, match="does not describe a calibration"):
            drift_of(site_bundle, crops)


def test_a_snapshot_survives_the_disk(site_bundle: Path) -> None:
    found = read_snapshot(site_bundle / CALIBRATION_NAME, weights_sha256="0" * 64)
    assert found.embeddings_ND.shape == (160, 24)
    assert len(np.unique(found.tracklets_N)) == 40
    assert set(found.camids_N.tolist()) == {"hall", "door"}
    assert found.saturation == {"planes": 0.0}  # the range is the largest value of these very crops


def test_saturation_is_the_share_of_values_beyond_the_range(site_bundle: Path, tmp_path: Path) -> None:
    # "floats" is the crop itself: of all its values, those above 120 are beyond a range of 120.
    folder = read_crop_folder(tmp_path / "then")
    few = CropFolder(root=folder.root, records=folder.records[:4])
    graph = site_bundle / "encoder.onnx"
    found = take_snapshot(graph, few, {"floats": 120.0}, size=(32, 16), resize="linear", threads=1)
    everything = take_snapshot(graph, few, {"floats": -1.0}, size=(32, 16), resize="linear", threads=1)
    assert everything.saturation["floats"] == 1
    crops_NHW3 = resize_crops((read_image(folder.root / record.path) for record in few.records), size=(32, 16))
    assert found.saturation["floats"] == pytest.approx(float((crops_NHW3 > 120).mean()))


@pytest.mark.parametrize(
    ("then", "now", "levels"),
    [
        (0.998, 0.997, []),
        (0.998, 0.994, ["look"]),
        (0.998, 0.985, ["recalibrate"]),
        (0.998, 0.9995, []),
        (None, 0.5, []),
    ],
)
def test_int8_that_moves_away_from_float_is_noticed(then: float | None, now: float, levels: list[str]) -> None:
    assert [finding.level for finding in judge_int8(then, now, [], DriftLimits())] == levels


def test_int8_that_would_miss_its_gate_today_is_calibrated_again() -> None:
    (finding,) = judge_int8(0.994, 0.989, [], DriftLimits(), gate=0.99)
    assert finding.level == "recalibrate"
    assert finding.reason.endswith("mean cosine 0.9890, it was 0.9940 and had to reach 0.99.")
    (finding,) = judge_int8(0.98, 0.975, [], DriftLimits(), gate=0.99)  # forced at the export: nothing new
    assert finding.level == "look"


def test_saturation_counts_when_it_is_much_more_than_at_the_calibration() -> None:
    def judge(then: float, now: float) -> list[str]:
        saturation = [Saturation(activation="relu", then=then, now=now)]
        return [finding.reason for finding in judge_int8(None, 1, saturation, DriftLimits())]

    assert judge(0.0001, 0.0009) == []  # nobody is hurt by one value in a thousand
    assert judge(0.002, 0.01) == []  # five times what was accepted when the ranges were chosen
    assert judge(0.0001, 0.02) == [
        "1 of 1 activations leave their INT8 range: 2.00% of relu, 0.010% at the calibration."
    ]


def test_a_threshold_is_blamed_only_for_what_is_sure() -> None:
    threshold = ThresholdReport(min_similarity=0.5, false_match_rate=0.01, same_match_rate=0.9)

    def judge(low: float, highest_same: float) -> list[str]:
        rates = Rates(different=0.1, different_interval=(low, 0.2), same=0.6, same_interval=(0.4, highest_same))
        return [finding.reason.split(":")[0] for finding in judge_threshold(threshold, rates, DriftLimits())]

    assert judge(0.015, 0.85) == []
    assert judge(0.03, 0.85) == ["different people match too often"]
    assert judge(0.015, 0.7) == ["people match themselves less often"]
