from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.backends import open_encoder
from reidge.edge.bundle import Bundle
from reidge.edge.crops import read_crop_folder, read_image, resize_crops
from reidge.edge.errors import InputError, ReidgeError
from reidge.export.bundle import export_bundle
from reidge.export.parity import Gate
from reidge.export.provenance import hash_weights
from reidge.train.checkpoint import load_encoder
from reidge.train.encoders import build_encoder
from reidge.train.extract import embed_crops

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from reidge.export.bundle import ExportReport
    from reidge.train.encoders.encoder import Encoder


def test_a_bundle_holds_what_the_contract_names(exported: ExportReport) -> None:
    assert sorted(path.name for path in exported.path.iterdir()) == [
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
    assert page.count("<svg") == 2
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
    assert any("only 2 calibration crops" in warning for warning in report.warnings)
    assert report.manifest.threshold["int8"].min_similarity is None  # one tracklet
    assert len(Bundle.load(tmp_path / "bundle").golden.crops_NHW3) == 16


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "crops" not in path.name)


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


def test_an_int8_graph_below_the_gate_fails_the_export_unless_forced(
    tmp_path: Path, small_encoder: Encoder, crop_folder: Path
) -> None:
    export = partial(export_bundle, small_encoder, crop_folder, tmp_path / "bundle", method="max", threads=1)
    unreachable = Gate(min_cosine_mean=1, min_cosine_p1=1)
    with pytest.raises(ReidgeError, match=r"misses its gate on 32 held-out crops: mean cosine 0\.\d+.*--force"):
        export(gate=unreachable)
    assert left_behind(tmp_path) == []
    report = export(gate=unreachable, force=True)
    assert report.manifest.quantisation is not None
    assert report.manifest.quantisation.forced
    assert any("misses its gate" in warning for warning in report.warnings)


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
