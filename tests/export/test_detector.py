"""On small networks of the two families that find bright cells, and on a real one where it is there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reidge.calibration.ranges import Histogram
from reidge.cli.main import main
from reidge.edge.agreement import Agreement
from reidge.edge.backends import load_runner
from reidge.edge.detector_bundle import DetectorBundle
from reidge.edge.detectors import open_detector
from reidge.edge.detectors.bundle import BundleConfig, people_of
from reidge.edge.detectors.letterbox import letterbox
from reidge.edge.detectors.yolox import YoloxConfig
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.footage import Span, read_footage
from reidge.edge.half import bake_half
from reidge.export.detector import DetectorGate, DetectorReport, export_detector
from reidge.export.detector_graph import PREPROCESSING, Preprocessing, examine, fold, read_detector
from reidge.export.detector_search import depthwise_blocks, fewest_that_pass, noise_share
from reidge.export.quantize import blocks

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.edge.bundle import Precision

SIZE = 64
CHANNELS = 16


class Network:
    """A foreign detector of 64x64 in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))  # without names, as some exporters
        return output

    def constant(self, name: str, value: object, dtype: type[np.generic] = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def conv(self, source: str, name: str, weights: NDArray[np.float32], bias: list[float], **attributes: Any) -> str:
        return self.add("Conv", [source, self.constant(f"{name}.w", weights), self.constant(f"{name}.b", bias)], name,
                        **attributes)  # fmt: skip

    def save(self, path: Path, outputs: dict[str, tuple[int, ...]], *, opset: int = 17) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "foreign",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self.constants,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
        return path


def add_backbone(network: Network, *, white: float, loud: float = 1) -> str:
    """Mean brightness of each 8x8 cell, 0 to 1, in 16 channels, the first louder; then mixed by a 1x1 convolution."""
    stem = np.full((CHANNELS, 3, 8, 8), 1 / (3 * 64 * white), dtype=np.float32)
    stem[0] *= loud
    cells = network.conv("images", "stem", stem, [0] * CHANNELS, kernel_shape=[8, 8], strides=[8, 8])
    mixed = np.full((CHANNELS, CHANNELS, 1, 1), 1 / CHANNELS, dtype=np.float32)
    mixed[:, 0] /= loud
    return network.conv(network.add("Relu", [cells], "bright"), "mix", mixed, [0] * CHANNELS)


def write_yolox(path: Path, *, opset: int = 11, loud: float = 1) -> Path:
    """Each cell of stride 8 that is bright is a person: a box of 2x3 cells around its middle; two classes."""
    network = Network()
    features = add_backbone(network, white=255, loud=loud)
    parts = []
    for level, kernel in enumerate((1, 2, 4)):
        source = network.add("AveragePool", [features], f"pool{level}", kernel_shape=[kernel] * 2, strides=[kernel] * 2)
        weights = np.zeros((7, CHANNELS, 1, 1), dtype=np.float32)
        weights[4] = 20 / CHANNELS if level == 0 else 0
        box = [0.5, 0.5, float(np.log(2)), float(np.log(3))]
        raw = network.conv(source, f"head{level}", weights, [*box, -10, 10, -10])
        geometry = network.add("Slice", [raw, *bounds(network, f"g{level}", 0, 4)], f"geometry{level}")
        scores = network.add("Slice", [raw, *bounds(network, f"s{level}", 4, 7)], f"scores{level}")
        sure = network.add("Sigmoid", [scores], f"sure{level}")
        level_output = network.add("Concat", [geometry, sure], f"level{level}", axis=1)
        shape = network.constant(f"shape{level}", [1, 7, -1], np.int64)
        parts.append(network.add("Reshape", [level_output, shape], f"flat{level}"))
    network.add("Transpose", [network.add("Concat", parts, "all", axis=2)], "output", perm=[0, 2, 1])
    return network.save(path, {"output": (1, 84, 7)}, opset=opset)


def bounds(network: Network, name: str, first: int, last: int) -> list[str]:
    return [network.constant(f"{name}{i}", [value], np.int64) for i, value in enumerate((first, last, 1))]


def write_rtdetr(path: Path, *, joined: bool = False) -> Path:
    """Two queries over the left and right half of the picture; boxes as shares, class scores as logits; two classes."""
    network = Network()
    features = add_backbone(network, white=1)  # its own preprocessing divides by 255
    halves = network.add("AveragePool", [features], "halves", kernel_shape=[8, 4], strides=[8, 4])
    weights = np.zeros((2, CHANNELS, 1, 1), dtype=np.float32)
    weights[1] = 20 / CHANNELS
    logits = network.conv(halves, "classes", weights, [-10, -10])  # (1, 2, 1, 2)
    flat = network.add("Reshape", [logits, network.constant("shape", [1, 2, 2], np.int64)], "flat")
    scores = network.add("Transpose", [flat], "logits", perm=[0, 2, 1])
    nothing = network.add("Mul", [network.add("ReduceMean", ["images"], "mean", keepdims=0), "zero"], "nothing")
    network.constant("zero", 0)
    shares = network.constant("shares", [[[0.25, 0.5, 0.25, 0.5], [0.75, 0.5, 0.25, 0.5]]])
    boxes = network.add("Add", [shares, nothing], "boxes")
    if not joined:
        return network.save(path, {"boxes": (1, 2, 4), "logits": (1, 2, 2)})
    network.add("Concat", [boxes, network.add("Sigmoid", [scores], "probabilities")], "both", axis=2)
    return network.save(path, {"both": (1, 2, 6)})


def write_frames(folder: Path, count: int = 12) -> Path:
    """Grey pictures with one white cell that moves; BGR noise keeps the ranges honest."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        image_HW3 = rng.integers(40, 60, (SIZE, SIZE, 3), dtype=np.uint8)
        row, column = divmod(9 + 5 * index, 8)
        image_HW3[8 * (row % 8) : 8 * (row % 8) + 8, 8 * column : 8 * column + 8] = 240
        cv2.imwrite(str(folder / f"{index:02}.png"), image_HW3)
    return folder


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("frames") / "frames")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, frames: Path) -> DetectorReport:
    folder = tmp_path_factory.mktemp("detector")
    return export_detector(write_yolox(folder / "yolox.onnx"), [frames], folder / "out", method="max", threads=1)


def one_white_cell(row: int, column: int, size: int = SIZE) -> NDArray[np.uint8]:
    image_HW3 = np.full((size, size, 3), 50, dtype=np.uint8)
    cell = size // 8
    image_HW3[cell * row : cell * (row + 1), cell * column : cell * (column + 1)] = 240
    return image_HW3


def test_a_yolox_becomes_a_folder_that_finds_the_same_people(report: DetectorReport) -> None:
    assert report.manifest.agreement.recall == report.manifest.agreement.precision == 1
    assert report.manifest.provenance.calibration_frames == 8
    assert report.figures["held_out_boxes"] == 4
    assert "fewer than 50" in report.warnings[0]
    for precision in ("float", "int8"):
        config = BundleConfig.model_validate({"path": report.path, "precision": precision, "threads": 1})
        with open_detector(config) as detector:
            found = detector.detect("cam1", one_white_cell(3, 2, size=128))
        # Centre (2.5, 3.5) cells of 8, sides 2 and 3 cells, times 2 for the larger frame; objectness 20 * 0.94 - 10.
        np.testing.assert_allclose(found.boxes_N4, [[24, 32, 56, 80]], atol=0.5)
        assert found.scores_N[0] > 0.99


def test_int8_graphs_differ_from_float_only_by_pairs_and_take_bytes(report: DetectorReport) -> None:
    bundle = DetectorBundle.load(report.path)
    kinds = {precision: [node.op_type for node in onnx.load(bundle.onnx_path(precision)).graph.node]
             for precision in ("float", "int8")}  # fmt: skip
    assert kinds["float"][0] == kinds["int8"][0] == "Cast"
    assert kinds["int8"].count("QuantizeLinear") == 4  # two convolutions; the heads are slim
    assert [kind for kind in kinds["int8"] if "Linear" not in kind] == kinds["float"]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("precision", ["float", "int8"])
def test_tensorrt_builds_both_graphs_also_with_fp16_written_in(
    report: DetectorReport, precision: Precision, half: bool
) -> None:
    graph = DetectorBundle.load(report.path).onnx_path(precision).read_bytes()
    assert build_ahead_of_time(bake_half(graph) if half else graph) == "accepted"


@pytest.mark.parametrize("joined", [False, True])
def test_tensorrt_builds_what_is_decoded_of_an_rtdetr(tmp_path: Path, joined: bool) -> None:
    path = write_rtdetr(tmp_path / "rtdetr.onnx", joined=joined)
    model = read_detector(path)
    fold(model, examine(model, path), PREPROCESSING["rtdetr"], person_class=1)
    assert build_ahead_of_time(model.SerializeToString()) == "accepted"


def build_ahead_of_time(graph: bytes) -> str:
    """What TensorRT's parser and builder, which need no GPU for this, say to a graph of one frame."""
    trt: Any = pytest.importorskip("tensorrt_rtx_bindings", reason="the wheels of TensorRT for RTX are absent here")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        return str(parser.get_error(0).desc())
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    return "accepted" if builder.build_serialized_network(network, config) is not None else "refused"


@pytest.mark.parametrize("joined", [False, True])
def test_an_rtdetr_is_decoded_with_logits_or_probabilities(tmp_path: Path, joined: bool) -> None:
    path = write_rtdetr(tmp_path / "rtdetr.onnx", joined=joined)
    model = read_detector(path)
    anatomy = examine(model, path)
    assert (anatomy.family, anatomy.logits, anatomy.classes) == ("rtdetr", not joined, 2)
    fold(model, anatomy, PREPROCESSING["rtdetr"], person_class=1)
    onnx.save(model, tmp_path / "folded.onnx")
    runner = load_runner(tmp_path / "folded.onnx", "onnxruntime", threads=1)
    image_HW3 = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    image_HW3[:, 32:] = 255
    people_A5 = runner.run(image_HW3[None])[0]
    np.testing.assert_allclose(people_A5[:, :4], [[8, 16, 24, 48], [40, 16, 56, 48]], atol=1e-4)
    np.testing.assert_allclose(people_A5[:, 4], [1 / (1 + np.exp(10)), 1 / (1 + np.exp(-10))], atol=1e-5)


def test_an_rtdetr_goes_all_the_way(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for index in range(6):
        image_HW3 = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
        image_HW3[:, 32 * (index // 3) : 32 * (index // 3) + 32] = 255
        cv2.imwrite(str(tmp_path / "frames" / f"{index}.png"), image_HW3)
    path = write_rtdetr(tmp_path / "rtdetr.onnx")
    done = export_detector(path, [tmp_path / "frames"], tmp_path / "out", person_class=1, method="max", threads=1)
    with open_detector(BundleConfig(path=done.path, threads=1)) as detector:
        found = detector.detect("cam1", image_HW3)
    np.testing.assert_allclose(found.boxes_N4, [[40, 16, 56, 48]], atol=0.5)


def test_colours_and_scale_are_put_as_the_network_wants_them(tmp_path: Path) -> None:
    network = Network()
    flat = network.add("Reshape", ["images", network.constant("shape", [1, 3, -1], np.int64)], "flat")
    means = network.add("ReduceMean", [flat], "means", axes=[2], keepdims=0)  # (1, 3)
    rows = network.add("Reshape", [means, network.constant("row", [1, 1, 3], np.int64)], "rows")
    boxes = network.constant("boxes", [[[0.5, 0.5, 0.5, 0.5]]])
    network.add("Concat", [boxes, rows], "output", axis=2)
    path = network.save(tmp_path / "colours.onnx", {"output": (1, 1, 7)})
    for column, expected in enumerate([(30 - 10) / 2, (20 - 0) / 4, (10 - 5) / 5]):  # red, green, blue
        model = read_detector(path)
        anatomy = examine(model, path)
        assert anatomy.logits  # grey of 114 is no probability
        wanted = Preprocessing(channels="rgb", mean=(10, 0, 5), std=(2, 4, 5))
        fold(model, anatomy, wanted, person_class=column)
        onnx.save(model, tmp_path / "folded.onnx")
        runner = load_runner(tmp_path / "folded.onnx", "onnxruntime", threads=1)
        image_HW3 = np.full((SIZE, SIZE, 3), (10, 20, 30), dtype=np.uint8)  # BGR
        score = float(runner.run(image_HW3[None])[0, 0, 4])
        assert np.log(score / (1 - score)) == pytest.approx(expected, rel=1e-2)


def test_the_fewest_that_pass_are_found_by_doubling_and_bisection() -> None:
    tried: list[int] = []

    def attempt(count: int) -> bool:
        tried.append(count)
        return count >= 5

    assert fewest_that_pass(20, attempt) == 5
    assert tried == [1, 2, 4, 8, 6, 5]
    assert fewest_that_pass(4, attempt) is None
    assert fewest_that_pass(0, attempt) is None
    assert fewest_that_pass(1, lambda count: True) == 1


def test_depthwise_convolutions_stay_in_float() -> None:
    network = Network()
    weights = np.ones((CHANNELS, 1, 3, 3), dtype=np.float32)
    wide = np.ones((CHANNELS, 3, 3, 3), dtype=np.float32)
    network.conv("images", "stem", wide, [0] * CHANNELS)
    network.conv("stem", "depthwise", weights, [0] * CHANNELS, group=CHANNELS)
    for node in network.nodes:
        node.name = f"/{node.output[0]}/Conv"
    graph = helper.make_graph(
        network.nodes,
        "two",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("depthwise", TensorProto.FLOAT, [1, CHANNELS, 60, 60])],
        network.constants,
    )
    assert depthwise_blocks(helper.make_model(graph)) == {"depthwise"}


def test_every_node_is_a_block_of_its_own_whatever_the_exporter_called_it(tmp_path: Path) -> None:
    path = write_yolox(tmp_path / "yolox.onnx", opset=17)
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = f"/backbone/backbone/{node.output[0]}/{node.op_type}"  # as newer exporters name them
    onnx.save(model, path)
    assert blocks(read_detector(path)) == ["backbone.backbone.stem.Conv", "backbone.backbone.mix.Conv"]


def test_noise_is_the_share_of_energy_that_int8_loses() -> None:
    histogram = Histogram()
    histogram.add(np.full(1000, 100, dtype=np.float32))
    assert noise_share(histogram, 50.0) == pytest.approx(0.25, rel=0.01)  # saturates at half
    assert noise_share(histogram, 100.0) < 1e-4
    assert noise_share(histogram, 0.0) == 0.0


def test_what_drowns_in_int8_is_put_back_to_float(tmp_path: Path, frames: Path) -> None:
    done = export_detector(write_yolox(tmp_path / "y.onnx", loud=1000), [frames], tmp_path / "out", method="max")
    assert done.manifest.quantisation.candidates == {"max": 0}
    assert done.manifest.quantisation.float_blocks == ("Conv_mix",)
    assert done.manifest.agreement.recall == 1


def test_a_missed_gate_leaves_its_report_and_force_writes_it_down(
    tmp_path: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reidge.export.detector_search.MAX_FLOAT_SHARE", 0)
    path, output = write_yolox(tmp_path / "yolox.onnx", loud=1000), tmp_path / "out"
    with pytest.raises(ReidgeError, match="misses its gate on 4 held-out frames with 4 people: recall 0") as caught:
        export_detector(path, [frames], output, method="max", threads=1)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "out.failed" / "report.json") in str(caught.value)
    assert not output.exists()
    figures = json.loads((tmp_path / "out.failed" / "report.json").read_text())
    assert not figures["passed"]
    assert (figures["checks"][0]["name"], figures["checks"][0]["passed"]) == ("recall", False)
    assert figures["provenance"]["calibration_frames"] == 8
    done = export_detector(path, [frames], output, method="max", force=True, threads=1)
    assert done.manifest.quantisation.forced
    assert done.manifest.quantisation.missed[0] == "recall 0.0000 (at least 0.95)"
    assert "because of --force: recall 0.0000 (at least 0.95)" in done.warnings[0]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "yolox.onnx"]  # the failure's report is gone
    assert not json.loads((output / "report.json").read_text())["passed"]


def test_gates_are_reached_only_by_all_three_figures() -> None:
    good = Agreement(frames=1, boxes=1, recall=0.96, precision=0.96, mean_iou=0.95, score_shift=0)
    assert DetectorGate().passes(good)
    for name in ("recall", "precision", "mean_iou"):
        assert not DetectorGate().passes(good.model_copy(update={name: 0.8}))


def test_frames_of_nobody_are_refused(tmp_path: Path) -> None:
    (tmp_path / "dark").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / "dark" / f"{index}.png"), np.zeros((SIZE, SIZE, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="finds nobody"):
        export_detector(write_yolox(tmp_path / "y.onnx"), [tmp_path / "dark"], tmp_path / "out", threads=1)


def test_a_detector_that_is_none_is_refused_with_its_shapes(tmp_path: Path, frames: Path) -> None:
    network = Network()
    network.add("ReduceMean", ["images"], "means", axes=[2, 3], keepdims=0)
    path = network.save(tmp_path / "classifier.onnx", {"means": (1, 3)})
    with pytest.raises(InputError, match=r"it gives means \(1, 3\)"):
        export_detector(path, [frames], tmp_path / "out")
    yolox = write_yolox(tmp_path / "yolox.onnx")
    with pytest.raises(InputError, match="is not a rtdetr"):
        export_detector(yolox, [frames], tmp_path / "out", family="rtdetr")
    with pytest.raises(InputError, match="has 2 classes"):
        export_detector(yolox, [frames], tmp_path / "out", person_class=2)


def test_a_network_of_boxes_in_pixels_is_refused(tmp_path: Path, frames: Path) -> None:
    network = Network()
    nothing = network.add("Mul", [network.add("ReduceMean", ["images"], "mean", keepdims=0), "zero"], "nothing")
    network.constant("zero", 0)
    rows = np.full((1, 84, 7), 0.5, dtype=np.float32)
    rows[0, :, :4] = 30  # decoded in the graph
    network.add("Add", [network.constant("rows", rows), nothing], "output")
    path = network.save(tmp_path / "decoded.onnx", {"output": (1, 84, 7)})
    with pytest.raises(InputError, match="raw outputs"):
        export_detector(path, [frames], tmp_path / "out")


def test_damaged_and_newer_files_are_one_line(tmp_path: Path, frames: Path) -> None:
    path = write_yolox(tmp_path / "yolox.onnx")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="is not a readable ONNX file") as caught:
        export_detector(path, [frames], tmp_path / "out")
    assert "\n" not in str(caught.value)
    network = Network()
    network.add("Relu", ["images"], "output")
    newer = network.save(tmp_path / "newer.onnx", {"output": (1, 3, SIZE, SIZE)}, opset=18)
    with pytest.raises(InputError, match="opset 18"):
        export_detector(newer, [frames], tmp_path / "out")
    with pytest.raises(InputError, match="is not a file"):
        export_detector(tmp_path / "absent.onnx", [frames], tmp_path / "out")


def test_the_command_prints_one_json_object_and_harvest_and_site_take_the_folder(
    tmp_path: Path, frames: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from reidge.cli.harvest import parse_detector

    network, output = write_yolox(tmp_path / "yolox.onnx"), tmp_path / "out"
    command = ["export", "detector", str(network), "--frames", str(frames), "--output", str(output), "--json"]
    assert main([*command, "--gate", "recall=0.9", "mean_iou=0.8", "--method", "max"]) == 0
    assert json.loads(capsys.readouterr().out)["recall_int8"] == 1
    assert parse_detector(str(output)) == {"kind": "bundle", "path": str(output)}
    assert parse_detector(str(network)) == {"kind": "yolox", "path": str(network)}
    assert parse_detector("motion") == {"kind": "motion"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--gate", "recal=0.9"], "recal=0.9 is not NAME=VALUE with one of the names recall, precision, mean_iou."),
        (["--gate", "recall"], "--gate recall is not NAME=VALUE"),
        (["--gate", "recall=2", "--gate", "precision=0.8"], "--gate recall=2: must be"),  # not undone by the second
        (["--person-class", "-1"], "the person class is -1, the detector has 2 classes, from 0."),
        (["--gate", "recall=2"], "--gate recall=2: must be"),
        (["--mean", "1", "2", "3"], "--channels is missing"),
        (["--channels", "rgb", "--mean", "0", "0", "0", "--std", "1", "0", "1"], "--std is 1.0 0.0 1.0"),
        (["--frame-count", "2"], "2 frames are too few"),
    ],
)
def test_a_wrong_option_is_one_line(
    tmp_path: Path, frames: Path, options: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    network = write_yolox(tmp_path / "yolox.onnx")
    command = ["export", "detector", str(network), "--frames", str(frames), "--output", str(tmp_path / "out")]
    assert main([*command, *options]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("reidge export detector: ")
    assert line in printed
    assert printed.count("\n") == 1


def test_folding_changes_nothing_about_a_real_detector(shared: Path, tmp_path: Path) -> None:
    path = shared / "weights" / "yolox_nano.onnx"
    model = read_detector(path)
    fold(model, examine(model, path), PREPROCESSING["yolox"], person_class=0)
    onnx.save(model, tmp_path / "folded.onnx")
    footage = shared / "media" / "one-by-one-person-detection.mp4"
    (frame,) = read_footage(str(footage), camid="hall", span=Span(since=32.0, until=32.1))
    with open_detector(YoloxConfig(path=path, threads=1)) as plain:
        expected = plain.detect("hall", frame.image)
    picture_HW3, scale = letterbox(frame.image, (416, 416))
    found = people_of(load_runner(tmp_path / "folded.onnx", "openvino", threads=1).run(picture_HW3[None])[0])
    found = found.select(found.scores_N >= 0.5)
    np.testing.assert_allclose(found.boxes_N4 / scale, expected.boxes_N4[expected.scores_N >= 0.5], atol=1.5)


def test_int8_of_a_real_detector_finds_the_people_of_real_footage(shared: Path, tmp_path: Path) -> None:
    footage = shared / "media" / "one-by-one-person-detection.mp4"
    done = export_detector(
        shared / "weights" / "yolox_nano.onnx", [footage], tmp_path / "out", frame_count=18, method="mse", threads=1
    )
    assert done.manifest.agreement.boxes >= 2
    assert done.manifest.agreement.recall == done.manifest.agreement.precision == 1
    assert len(done.manifest.quantisation.float_blocks) == 30  # its depthwise convolutions
    assert build_ahead_of_time((done.path / "detector.int8.onnx").read_bytes()) == "accepted"
