from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from reidge.edge.backends import open_encoder
from reidge.edge.bundle import Accuracy, Bundle
from reidge.edge.crops import read_crop_folder, read_image, resize_crops
from reidge.edge.errors import InputError, ReidgeError
from reidge.export.bundle import export_bundle, weigh_queries
from reidge.export.parity import Gate
from reidge.export.provenance import hash_weights
from reidge.train.checkpoint import load_encoder
from reidge.train.encoders import build_encoder
from reidge.train.extract import embed_crops

if TYPE_CHECKING:
    from collections.abc import Callable

    from reidge.export.bundle import ExportReport
    from reidge.train.encoders.encoder import Encoder


def test_a_bundle_holds_what_the_contract_names(exported: ExportReport) -> None:
    assert sorted(path.name for path in exported.path.iterdir()) == [
        "calibration.npz",
        "encoder.int8.onnx",
        "encoder.onnx",
        "golden.npz",
        "manifest.json",
        "report.html",
        "report.json",
        "scales.json",
    ]
    manifest = Bundle.load(exported.path).manifest
    assert manifest == exported.manifest
    assert set(manifest.files) == {path.name for path in exported.path.iterdir()} - {"manifest.json"}
    assert (manifest.input.size, manifest.input.resize, manifest.embedding_dim) == ((64, 32), "linear", 512)
    assert manifest.precisions == ("float", "int8")


def test_the_manifest_says_where_the_bundle_comes_from(exported: ExportReport, small_encoder: Encoder) -> None:
    origin = exported.manifest.provenance
    assert (origin.architecture, origin.source, origin.recipe) == ("small", "tests", {"name": "quick"})
    assert origin.weights_sha256 == hash_weights(small_encoder)
    assert (origin.calibration_crops, origin.held_out_crops) == (64, 32)  # a third of twelve tracklets of eight
    assert {"python", "torch", "onnx", "onnxruntime", "numpy"} <= set(origin.versions)
    assert origin.created_at.endswith("+00:00")


def test_golden_embeddings_are_those_of_the_trained_encoder(exported: ExportReport, small_encoder: Encoder) -> None:
    golden = Bundle.load(exported.path).golden
    assert golden.crops_NHW3.shape == (16, 64, 32, 3)
    np.testing.assert_allclose(golden.embeddings_ND, embed_crops(small_encoder, golden.crops_NHW3), atol=1e-6)


def test_the_edge_runs_int8_near_the_trained_encoder(
    exported: ExportReport, small_encoder: Encoder, crop_folder: Path
) -> None:
    records = read_crop_folder(crop_folder).records
    crops_NHW3 = resize_crops((read_image(crop_folder / record.path) for record in records), size=(64, 32))
    with open_encoder(Bundle.load(exported.path), threads=1) as encoder:
        assert (encoder.backend, encoder.precision) == ("openvino", "int8")
        found_ND = encoder.embed(crops_NHW3)
    cosines_N = np.einsum("nd,nd->n", found_ND, embed_crops(small_encoder, crops_NHW3))
    assert cosines_N.mean() >= 0.99
    assert exported.manifest.parity["int8"].cosine_mean >= 0.99
    assert exported.manifest.parity["float"].max_abs_diff < 1e-5


def test_scales_are_the_ranges_in_127_steps(exported: ExportReport) -> None:
    content = json.loads((exported.path / "scales.json").read_text())
    assert content["method"] == exported.manifest.quantisation.method  # type: ignore[union-attr]
    assert len(content["activations"]) == 10
    for activation in content["activations"].values():
        assert activation["scale"] == pytest.approx(activation["range"] / 127)
        assert activation["range"] <= activation["largest"]


def test_the_report_shows_the_figures_of_the_manifest(exported: ExportReport) -> None:
    report = json.loads((exported.path / "report.json").read_text())
    assert report["parity"]["int8"]["cosine_mean"] == exported.manifest.parity["int8"].cosine_mean
    page = (exported.path / "report.html").read_text()
    assert f"{exported.manifest.parity['int8'].cosine_mean:.5f}" in page
    coverage = exported.manifest.provenance.coverage
    assert coverage is not None
    cameras = ", ".join(f"{camid} {count}" for camid, count in coverage.cameras.items())
    assert f"<td>{cameras}, \n{coverage.tracklets} tracklets within " in page
    assert page.count("<svg") == 3
    assert not re.search(r"""(src|href)\s*=\s*["']?http""", page)  # nothing is loaded from elsewhere


def test_both_precisions_have_a_threshold(exported: ExportReport) -> None:
    for precision in ("float", "int8"):
        threshold = exported.manifest.threshold[precision]
        assert threshold.min_similarity is not None
        assert threshold.tracklets == 12
        assert threshold.same_pairs == 12
        # At each of three times two people are in view of each of two cameras.
        assert threshold.different_pairs == 6


def test_the_same_seed_gives_the_same_graphs(
    tmp_path: Path, exported: ExportReport, small_encoder: Encoder, crop_folder: Path
) -> None:
    again = export_bundle(small_encoder, crop_folder, tmp_path / "again", threads=1)
    for name in ("encoder.onnx", "encoder.int8.onnx", "scales.json"):
        assert again.manifest.files[name] == exported.manifest.files[name]


def few_crops(root: Path, count: int) -> Path:
    """The first rows of a crop folder, as a folder of its own, beside the images of the other."""
    lines = (root / "crops.csv").read_text().splitlines(keepends=True)
    (root / "crops.csv").write_text("".join(lines[: 1 + count]))
    return root


def test_few_crops_work_with_a_warning(
    tmp_path: Path, small_encoder: Encoder, write_crops: Callable[[Path], Path]
) -> None:
    folder = few_crops(write_crops(tmp_path / "crops"), 3)
    report = export_bundle(small_encoder, folder, tmp_path / "bundle", method="max", threads=1)
    assert any("few calibration crops: 2, better 64" in warning for warning in report.warnings)
    assert any("few held-out crops: 1, better 32" in warning for warning in report.warnings)
    assert report.manifest.threshold["int8"].min_similarity is None  # one tracklet
    assert len(Bundle.load(tmp_path / "bundle").golden.crops_NHW3) == 16


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "crops" not in path.name)


def test_a_single_crop_is_refused(tmp_path: Path, small_encoder: Encoder, write_crops: Callable[[Path], Path]) -> None:
    folder = few_crops(write_crops(tmp_path / "crops"), 1)
    with pytest.raises(InputError, match="crops to calibrate on: 1, none is left"):
        export_bundle(small_encoder, folder, tmp_path / "bundle")
    assert left_behind(tmp_path) == []


def test_no_crops_are_refused(tmp_path: Path, small_encoder: Encoder, write_crops: Callable[[Path], Path]) -> None:
    folder = few_crops(write_crops(tmp_path / "crops"), 0)
    with pytest.raises(InputError, match="lists no crops"):
        export_bundle(small_encoder, folder, tmp_path / "bundle")
    assert left_behind(tmp_path) == []


def test_many_corrupt_crops_are_named_and_nothing_stays(
    tmp_path: Path, small_encoder: Encoder, write_crops: Callable[[Path], Path]
) -> None:
    folder = write_crops(tmp_path / "crops")
    for path in folder.glob("03/*.jpg"):
        path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(InputError, match=r"8 of 32 crops .* cannot be read"):
        export_bundle(small_encoder, folder, tmp_path / "bundle")
    assert left_behind(tmp_path) == []


def test_an_int8_graph_below_the_gate_fails_the_export_and_leaves_its_report_unless_forced(
    tmp_path: Path, small_encoder: Encoder, crop_folder: Path
) -> None:
    export = partial(export_bundle, small_encoder, crop_folder, tmp_path / "bundle", method="max", threads=1)
    unreachable = Gate(min_cosine_mean=1, min_cosine_p1=1)
    with pytest.raises(
        ReidgeError,
        match=r"gate on 32 held-out crops: mean cosine 0\.\d+ \(at least 1\).*bundle\.failed/report\.html.*--force",
    ):
        export(gate=unreachable)
    assert left_behind(tmp_path) == ["bundle.failed"]
    assert sorted(path.name for path in (tmp_path / "bundle.failed").iterdir()) == ["report.html", "report.json"]
    figures = json.loads((tmp_path / "bundle.failed" / "report.json").read_text())
    assert not figures["passed"]
    assert [check["name"] for check in figures["checks"] if not check["passed"]] == ["mean cosine", "first percentile"]
    report = export(gate=unreachable, force=True)
    assert left_behind(tmp_path) == ["bundle"]  # the report of the failure is gone, the bundle has its own
    quantisation = report.manifest.quantisation
    assert quantisation is not None
    assert quantisation.forced
    assert quantisation.gate == unreachable.model_dump()
    assert [line.partition(" (")[0][:11] for line in quantisation.missed] == ["mean cosine", "first perce"]
    assert any("misses its gate" in warning for warning in report.warnings)


def test_a_missed_gate_names_what_of_the_crops_may_be_the_cause(
    tmp_path: Path, small_encoder: Encoder, write_crops: Callable[[Path], Path]
) -> None:
    gate, crops = Gate(min_cosine_mean=1, min_cosine_p1=1), write_crops(tmp_path / "crops")
    with pytest.raises(ReidgeError, match=r"with --force\. What may be the cause: few calibration crops: \d\d"):
        export_bundle(small_encoder, crops, tmp_path / "bundle", gate=gate, method="max", max_float_share=0, threads=1)


def split_of(crop_folder: Path, root: Path) -> Path:
    """The people of a crop folder as a labelled data set: one query each, seen by another camera in the gallery."""
    for path in sorted(crop_folder.glob("*/*.jpg")):
        pid, shot = int(path.parent.name) + 1, int(path.stem)
        folder = root / ("query" if shot == 0 else "bounding_box_test")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / f"{pid:04d}_c{1 + shot % 2}s1_{shot:06d}_00.jpg")
    return root


def test_labels_add_map_and_rank1_of_both_graphs_to_the_gate(
    tmp_path: Path, small_encoder: Encoder, crop_folder: Path
) -> None:
    labels = split_of(crop_folder, tmp_path / "split")
    export = partial(export_bundle, small_encoder, crop_folder, method="max", threads=1, labels=labels)
    gate = Gate(max_map_loss=1, max_rank1_loss=1)
    report = export(tmp_path / "bundle", gate=gate)
    manifest = report.manifest
    assert set(manifest.accuracy) == {"float", "int8"}
    for accuracy in manifest.accuracy.values():
        assert (accuracy.queries, accuracy.gallery) == (12, 84)
        assert 0 < accuracy.mAP <= 1
    checks = json.loads((tmp_path / "bundle" / "report.json").read_text())["checks"]
    assert [check["name"] for check in checks[3:]] == ["mAP loss", "rank-1 loss"]
    lost = manifest.accuracy["float"].mAP - manifest.accuracy["int8"].mAP
    assert checks[3]["found"] == pytest.approx(lost)
    page = (tmp_path / "bundle" / "report.html").read_text()
    assert page.count(" points</td>") == 4  # two losses and their limits
    assert not any("a single one decides" in warning for warning in report.warnings)  # all may be lost


def test_one_query_that_weighs_more_than_the_gate_allows_is_said(exported: ExportReport) -> None:
    assert list(weigh_queries(exported.manifest)) == []
    found = Accuracy(mAP=0.6, rank1=0.7, split="door", queries=112, gallery=500)
    labelled = exported.manifest.model_copy(update={"accuracy": {"float": found, "int8": found}})
    (line,) = weigh_queries(labelled)
    assert line == (
        "one query of 112 is 0.0089 of rank-1, and the gate allows a loss of 0.005: a single one decides. Give labels "
        "with 200 queries or more, or allow more."
    )
    enough = found.model_copy(update={"queries": 200})
    assert list(weigh_queries(labelled.model_copy(update={"accuracy": {"float": enough}}))) == []


def test_a_graph_that_only_labels_tell_from_a_good_one_fails_the_export(
    tmp_path: Path, exported: ExportReport, small_encoder: Encoder, crop_folder: Path
) -> None:
    scales = json.loads((exported.path / "scales.json").read_text())
    for activation in scales["activations"].values():  # nearly all is cut off, but not so much that it is refused
        activation["range"], activation["scale"] = activation["range"] / 40, activation["scale"] / 40
    (tmp_path / "scales.json").write_text(json.dumps(scales))
    with pytest.raises(ReidgeError, match=r"misses its gate on 32 held-out crops: mAP loss 0\.\d+ \(at most 0\.005\)"):
        export_bundle(
            small_encoder,
            crop_folder,
            tmp_path / "bundle",
            scales=tmp_path / "scales.json",
            labels=split_of(crop_folder, tmp_path / "split"),
            gate=Gate(min_cosine_mean=-1, min_cosine_p1=-1, min_neighbour_overlap=0),
            max_float_share=0,
            threads=1,
        )
    figures = json.loads((tmp_path / "bundle.failed" / "report.json").read_text())
    assert [check["passed"] for check in figures["checks"][:4]] == [True, True, True, False]
    assert figures["accuracy"]["int8"]["mAP"] < figures["accuracy"]["float"]["mAP"] - 0.005


def test_scales_of_an_earlier_export_give_the_same_graph(
    tmp_path: Path, exported: ExportReport, small_encoder: Encoder, crop_folder: Path
) -> None:
    again = export_bundle(small_encoder, crop_folder, tmp_path / "bundle", scales=exported.path, threads=1)
    for name in ("encoder.int8.onnx", "scales.json"):
        assert again.manifest.files[name] == exported.manifest.files[name]
    origin = again.manifest.provenance
    assert origin.scales is not None
    assert (origin.scales.source, origin.scales.sha256) == (
        "bundle/scales.json",
        exported.manifest.files["scales.json"].sha256,
    )
    # No crop of this export took part in finding the ranges, and those that did may be held out here.
    assert (origin.calibration_crops, origin.calibration_sha256, origin.coverage) == (0, None, None)
    page = (again.path / "report.html").read_text()
    assert "The ranges were given: bundle/scales.json." in page
    assert "took no part" not in page
    calibrated = (exported.path / "report.html").read_text()
    assert "took no part in finding the ranges, which\ncame from 64 others" in calibrated


def test_scales_of_other_weights_are_refused(tmp_path: Path, exported: ExportReport, crop_folder: Path) -> None:
    torch.manual_seed(7)
    other = build_encoder("small", input_size=(64, 32)).eval()
    with pytest.raises(InputError, match=r"scales\.json was calibrated for other weights .* Leave --scales out"):
        export_bundle(other, crop_folder, tmp_path / "bundle", scales=exported.path, threads=1)
    assert left_behind(tmp_path) == []


def test_an_encoder_whose_weights_are_not_finite_is_refused(tmp_path: Path, crop_folder: Path) -> None:
    encoder = build_encoder("small", input_size=(32, 16), stripes=1).eval()
    next(encoder.parameters()).data.fill_(float("nan"))
    with pytest.raises(ReidgeError, match="not finite"):
        export_bundle(encoder, crop_folder, tmp_path / "bundle", threads=1)
    assert left_behind(tmp_path) == []


def test_a_folder_with_files_is_never_written_over(
    exported: ExportReport, small_encoder: Encoder, crop_folder: Path
) -> None:
    with pytest.raises(InputError, match="already exists and is not an empty folder"):
        export_bundle(small_encoder, crop_folder, exported.path)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"calibration_size": 0}, "calibration size"),
        ({"false_match_rate": 1.0}, "false-match rate"),
        ({"method": "magic"}, "range method 'magic'"),
        ({"max_float_share": 1.5}, "largest share in float"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"method": "max", "scales": Path("scales.json")}, "--scales or --method"),
        ({"labels": Path("/nowhere")}, "/nowhere"),
    ],
)
def test_a_senseless_option_is_refused(
    tmp_path: Path, small_encoder: Encoder, crop_folder: Path, option: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export_bundle(small_encoder, crop_folder, tmp_path / "bundle", **option)  # type: ignore[arg-type]


def test_published_weights_give_their_golden_embeddings(
    tmp_path: Path, shared: Path, write_golden_crops: Callable[[Path], Path]
) -> None:
    encoder = load_encoder(shared / "weights/osnet_x0_25_msmt17.pth", "osnet_x0_25")
    crops = write_golden_crops(tmp_path / "crops")
    report = export_bundle(encoder, crops, tmp_path / "bundle", method="percentile", force=True, threads=1)
    with np.load(shared / "weights/osnet_x0_25_msmt17_golden.npz") as golden:
        crops_NHW3, features_ND = golden["crops_bgr_uint8"], golden["embeddings"]
    expected_ND = features_ND / np.linalg.norm(features_ND, axis=1, keepdims=True)
    bundle = Bundle.load(tmp_path / "bundle")
    with open_encoder(bundle, "onnxruntime", "float", threads=1) as edge:
        np.testing.assert_allclose(edge.embed(crops_NHW3), expected_ND, atol=1e-4)
    with open_encoder(bundle, "openvino", "int8", threads=1) as edge:
        assert np.einsum("nd,nd->n", edge.embed(crops_NHW3), expected_ND).mean() >= 0.98
    assert report.manifest.input.resize == "linear"
