from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reidge.cli.main import main
from reidge.edge.agreement import Agreement
from reidge.edge.backends import Backend, GoldenMismatch, installed_backends, presence
from reidge.edge.bench import bench
from reidge.edge.bundle import GOLDEN_NAME, MANIFEST_NAME, Bundle, BundleError, Quantisation, describe_file
from reidge.edge.detection import Detections
from reidge.edge.detector_bundle import (
    DETECTOR_NAMES,
    DetectorBundle,
    DetectorManifest,
    DetectorOrigin,
    FrameSpec,
    GoldenFrames,
)
from reidge.edge.detectors import bundle as module
from reidge.edge.detectors import open_detector
from reidge.edge.detectors.bundle import BundleConfig, BundleDetector, precisions_for
from reidge.edge.detectors.foreign import MAX_BATCH
from reidge.edge.errors import InputError
from reidge.edge.frame import Frame
from reidge.edge.service import run_site
from reidge.edge.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PERSON = [16.0, 8.0, 32.0, 40.0, 0.9]
DOUBTFUL = [40.0, 8.0, 56.0, 40.0, 0.3]
SAME_AGAIN = [17.0, 8.0, 33.0, 40.0, 0.7]


def write_graph(path: Path, people: list[list[float]], *, count: int | str = 1) -> None:
    """A detector of 48x64 that sees the same people in every frame, a millionth less surely for each unit of grey."""
    nodes = [
        helper.make_node("Cast", ["frames"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Squeeze", ["mean", "last"], ["column"]),
        helper.make_node("Mul", ["column", "less"], ["doubt"]),
        helper.make_node("Sub", ["rows", "doubt"], ["people"]),
    ]
    rows = np.array([people], dtype=np.float32)
    less = np.array([0, 0, 0, 0, 1e-6], dtype=np.float32)
    graph = helper.make_graph(
        nodes,
        "fixed",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, [count, 48, 64, 3])],
        [helper.make_tensor_value_info("people", TensorProto.FLOAT, [count, *rows.shape[1:]])],
        [
            numpy_helper.from_array(rows, "rows"),
            numpy_helper.from_array(less, "less"),
            numpy_helper.from_array(np.array([3], dtype=np.int64), "last"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_bundle(
    folder: Path, people: list[list[float]], *, golden: list[list[float]] | None = None, count: int | str = 1
) -> Path:
    folder.mkdir()
    for name in DETECTOR_NAMES.values():
        write_graph(folder / name, people, count=count)
    known = np.array(people if golden is None else golden, dtype=np.float32)
    GoldenFrames(
        frames_NHW3=np.zeros((2, 48, 64, 3), dtype=np.uint8),
        people=(Detections.from_arrays(known[:, :4], known[:, 4]),) * 2,
    ).write(folder / GOLDEN_NAME)
    manifest = DetectorManifest(
        files={path.name: describe_file(path) for path in sorted(folder.iterdir())},
        input=FrameSpec(height=48, width=64),
        golden_min_agreement={"float": 0.85, "int8": 0.85},
        agreement=Agreement(frames=2, boxes=2, recall=1, precision=1, mean_iou=1, score_shift=0),
        quantisation=Quantisation(method="max"),
        provenance=DetectorOrigin(
            source="tests",
            source_sha256="0" * 64,
            family="yolox",
            person_class=0,
            channels="bgr",
            mean=(0, 0, 0),
            std=(1, 1, 1),
            calibration_frames=0,
            calibration_sha256="0" * 64,
            created_at="2026-01-01T00:00:00+00:00",
        ),
    )
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json())
    return folder


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "detector", [PERSON, DOUBTFUL, SAME_AGAIN])


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("precision", ["float", "int8"])
def test_people_come_in_pixels_of_the_frame_and_once_each(detector: Path, backend: str, precision: str) -> None:
    pytest.importorskip(backend)
    config = BundleConfig.model_validate({"path": detector, "backend": backend, "precision": precision, "threads": 1})
    with open_detector(config) as opened:
        found = opened.detect("cam1", np.zeros((96, 128, 3), dtype=np.uint8))  # twice the detector's input
    np.testing.assert_allclose(found.boxes_N4, [[32, 16, 64, 80], [80, 16, 112, 80]])
    np.testing.assert_allclose(found.scores_N, [0.9, 0.3])


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("count", [1, "N"])
def test_many_frames_give_what_each_gives_alone(tmp_path: Path, backend: Backend, count: int | str) -> None:
    pytest.importorskip(backend)
    folder = write_bundle(tmp_path / "detector", [PERSON, DOUBTFUL], count=count)
    frames = [
        Frame(camid=f"cam{n}", index=n, captured_at=0.0, decoded_at=0.0, image=np.full((96, 128, 3), 20 * n, np.uint8))
        for n in range(MAX_BATCH + 3)
    ]
    with BundleDetector(BundleConfig(path=folder, backend=backend, precision="float", threads=1)) as detector:
        assert detector._batches == (count == "N")
        together = detector.detect_many(frames)
        assert detector.detect_many([]) == []
        for frame, many in zip(frames, together, strict=True):
            alone = detector.detect(frame.camid, frame.image)
            np.testing.assert_allclose(many.boxes_N4, alone.boxes_N4)
            np.testing.assert_allclose(many.scores_N, alone.scores_N, atol=1e-7)
            np.testing.assert_allclose(many.scores_N[0], 0.9 - 20e-6 * frame.index, atol=1e-6)


def test_a_detector_is_measured_at_the_batches_it_takes(detector: Path, tmp_path: Path) -> None:
    fixed = bench(DetectorBundle.load(detector), backends=["onnxruntime"], batches=(1, 2, 4), seconds=0.01, threads=1)
    assert [(speed.precision, speed.batch) for speed in fixed.speeds] == [("float", 1), ("int8", 1)]
    assert [speed.golden_f1 for speed in fixed.speeds] == [1, 1]
    assert fixed.speeds[0].golden_cosine_min is None
    assert fixed.missing["onnxruntime int8 batch 2, 4"] == "the detector takes 1 at a time here, at most."
    free = DetectorBundle.load(write_bundle(tmp_path / "free", [PERSON], count="N"))
    report = bench(free, backends=["onnxruntime"], precisions=["float"], batches=(8,), seconds=0.01, threads=1)
    assert [speed.batch for speed in report.speeds] == [8]
    assert report.missing == {}


def test_the_bench_command_takes_a_detector(
    detector: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    quick = ["bench", str(detector), "--backend", "onnxruntime", "--precision", "float", "--seconds", "0.01"]
    assert main([*quick, "--json"]) == 0
    out, err = capsys.readouterr()
    (speed,) = json.loads(out)["speeds"]
    assert (speed["batch"], speed["golden_f1"]) == (1, 1)
    assert "not measured: onnxruntime float batch 4, 8: the detector takes 1 at a time" in err
    assert main(quick) == 0
    assert capsys.readouterr().out.split()[-1] == "1.0000"
    assert main([*quick, "--choose"]) == 2
    assert "--choose is for encoders" in capsys.readouterr().err


def test_a_run_says_what_its_detector_took(
    detector: Path, tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    site = {
        "bundle": str(tiny_bundle),
        "cameras": [{"name": "cam1", "source": str(walks["cam1"])}],
        "encoder": {"backend": "onnxruntime", "threads": 1},
        "identity": {"min_similarity": 0.8, "min_sightings": 1},
        "outputs": {"events": str(tmp_path / "events.jsonl")},
    }
    exported = {"kind": "bundle", "path": str(detector), "backend": "onnxruntime", "precision": "int8"}
    summary = run_site(Site.model_validate({**site, "detector": exported}), progress=False)
    assert (summary.detector_backend, summary.detector_precision) == ("onnxruntime", "int8")
    learnt = run_site(Site.model_validate(site), progress=False)
    assert (learnt.detector_backend, learnt.detector_precision) == (None, None)


def test_the_least_score_is_the_users(detector: Path) -> None:
    with open_detector(BundleConfig(path=detector, min_score=0.5, threads=1)) as opened:
        assert len(opened.detect("cam1", np.zeros((48, 64, 3), dtype=np.uint8))) == 1


def test_a_gpu_gets_one_graph_and_a_processor_chooses() -> None:
    assert precisions_for("tensorrt", "auto") == ("int8",)
    assert precisions_for("onnxruntime-cuda", "auto") == ("float",)
    assert precisions_for("openvino", "auto") == ("float", "int8")
    assert precisions_for("tensorrt", "float") == ("float",)


def test_a_runtime_that_does_not_start_makes_way_for_the_next(
    detector: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # As on a machine that has a GPU, its driver, and a TensorRT that does not load.
    monkeypatch.setattr(module, "installed_backends", lambda: ("tensorrt", "onnxruntime"))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with BundleDetector(BundleConfig(path=detector, threads=1)) as opened:
        assert opened.backend == "onnxruntime"
    assert caplog.messages[0].startswith("tensorrt does not start: TensorRT does not load here")


def test_a_backend_that_was_asked_for_by_name_is_not_replaced(detector: Path) -> None:
    if "tensorrt" in installed_backends():
        pytest.skip("this machine has TensorRT")
    with pytest.raises(InputError, match="the backend tensorrt cannot be used here: "):
        BundleDetector(BundleConfig(path=detector, backend="tensorrt"))


def test_a_machine_that_misses_the_golden_people_does_not_go_live(tmp_path: Path) -> None:
    elsewhere = [[0.0, 0.0, 8.0, 8.0, 0.9]]
    folder = write_bundle(tmp_path / "detector", [PERSON], golden=elsewhere)
    with pytest.raises(GoldenMismatch, match=r"F1 0\.000, at least 0\.850") as caught:
        open_detector(BundleConfig(path=folder, threads=1))
    assert "\n" not in str(caught.value)


def test_golden_frames_are_read_as_they_were_written(detector: Path) -> None:
    golden = DetectorBundle.load(detector).golden
    assert golden.frames_NHW3.shape == (2, 48, 64, 3)
    assert [len(found) for found in golden.people] == [3, 3]
    assert golden.people[1].scores_N.tolist() == pytest.approx([0.9, 0.3, 0.7])


def test_a_tampered_graph_is_refused(detector: Path) -> None:
    path = detector / DETECTOR_NAMES["int8"]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"detector\.int8\.onnx was changed after the export"):
        open_detector(BundleConfig(path=detector))


def test_a_truncated_graph_is_refused(detector: Path) -> None:
    path = detector / DETECTOR_NAMES["float"]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"detector\.onnx is truncated"):
        open_detector(BundleConfig(path=detector))


@pytest.mark.parametrize("content", [b"", b"PK", b"not an archive"])
def test_golden_frames_that_cannot_be_read_are_refused(detector: Path, content: bytes) -> None:
    (detector / GOLDEN_NAME).write_bytes(content)
    manifest = json.loads((detector / MANIFEST_NAME).read_text())
    manifest["files"][GOLDEN_NAME] = describe_file(detector / GOLDEN_NAME).model_dump()
    (detector / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="holds no golden frames"):
        DetectorBundle.load(detector)


def test_an_encoders_bundle_is_no_detector_and_the_other_way_round(detector: Path, tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"of kind 'encoder', wanted is 'detector'.*reidge export detector"):
        open_detector(BundleConfig(path=tiny_bundle))
    with pytest.raises(BundleError, match="of kind 'detector', wanted is 'encoder'"):
        Bundle.load(detector)


def test_a_folder_of_anything_else_is_no_detector(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json is missing. Make one with: reidge export detector"):
        open_detector(BundleConfig(path=tmp_path))


def test_a_detector_becomes_an_engine_for_one_frame_at_a_time(
    install_tensorrt: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tensorrt = install_tensorrt("10.3")
    monkeypatch.setattr(presence, "GPU_FILES", (__file__,))  # as the driver's would be there
    folder = write_bundle(tmp_path / "detector", [PERSON, DOUBTFUL])
    assert main(["engine", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["precision"], told["built"], told["golden"]) == ("int8", True, "passed")
    assert told["golden_f1"] == 1
    with open_detector(BundleConfig(path=folder)) as detector:  # what `reidge run` does, told nothing
        people = detector.detect("cam1", np.zeros((48, 64, 3), dtype=np.uint8))
    np.testing.assert_allclose(people.boxes_N4, [PERSON[:4], DOUBTFUL[:4]])
    assert tensorrt.builds == 1
