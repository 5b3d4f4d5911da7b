from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from reidge.calibration.ranges import observe, ranges_from
from reidge.edge.backends import load_runner
from reidge.edge.errors import ReidgeError
from reidge.export.onnx import export_onnx
from reidge.export.quantize import block_of, blocks, placements, quantize, weight_scales
from reidge.train.encoders import build_encoder

if TYPE_CHECKING:
    from pathlib import Path

    from reidge.export.bundle import ExportReport

ARCHITECTURES = ("small", "resnet18", "resnet50_ibn_a", "osnet_x0_25", "mobilenet_v3_small")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def graphs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[onnx.ModelProto, ...]:
    """Float and INT8 graph of one architecture, calibrated on random crops."""
    torch.manual_seed(2)
    encoder = build_encoder(request.param, input_size=(64, 32)).eval()
    model = export_onnx(encoder, tmp_path_factory.mktemp("graph") / "encoder.onnx")
    crops_NHW3 = np.random.default_rng(0).integers(0, 256, (4, 64, 32, 3), dtype=np.uint8)
    histograms = observe(model, [place.tensor for place in placements(model)], [crops_NHW3], threads=1)
    return model, quantize(model, ranges_from(histograms, "max"))


def test_the_dialect_is_the_one_both_runtimes_fuse(graphs: tuple[onnx.ModelProto, ...]) -> None:
    _, model = graphs
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert model.opset_import[0].version == 17
    assert pairs
    for node in pairs:
        scale, zero_point = constants[node.input[1]], constants[node.input[2]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
        assert (scale > 0).all()
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        sides = [producers[name].op_type if name in producers else "constant" for name in node.input[:2]]
        assert sides in (["DequantizeLinear"] * 2, [sides[0], "constant"])  # both or none
        if sides[0] == "DequantizeLinear":
            source, weights = (producers[name] for name in node.input[:2])
            assert constants[source.input[1]].shape == ()
            assert constants[weights.input[1]].shape == (len(constants[producers[weights.input[0]].input[0]]),)
        if len(node.input) == 3:
            assert constants[node.input[2]].dtype == np.float32  # TensorRT rejects an int32 bias
    onnx.checker.check_model(model, full_check=True)


def test_only_the_shortcut_of_a_residual_add_is_quantised(graphs: tuple[onnx.ModelProto, ...]) -> None:
    _, model = graphs
    producers = {name: node for node in model.graph.node for name in node.output}
    residuals = [
        kinds
        for node in model.graph.node
        if node.op_type == "Add"
        and "Conv" in (kinds := sorted(producers[name].op_type for name in node.input if name in producers))
    ]
    assert residuals
    assert all(kinds == ["Conv", "DequantizeLinear"] for kinds in residuals)


def test_nothing_after_the_last_block_is_quantised(graphs: tuple[onnx.ModelProto, ...]) -> None:
    _, model = graphs
    readers = {node.op_type for node in model.graph.node for name in node.input if name.endswith("_dequantized")}
    assert readers == {"Conv", "Add"}  # no pooling, no neck, no fully connected layer
    assert model.graph.output[0].name == "embeddings"


def test_slim_convolutions_stay_float_and_the_stem_does_not(graphs: tuple[onnx.ModelProto, ...]) -> None:
    model, _ = graphs
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    chosen = {place.node for place in placements(model)}
    for node in model.graph.node:
        if node.op_type == "Conv":
            groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            outputs, inputs = weights[node.input[1]][0], weights[node.input[1]][1] * groups
            assert (node.name in chosen) == (inputs == 3 or min(inputs, outputs) >= 16)


def test_blocks_left_in_float_are_exactly_as_before(graphs: tuple[onnx.ModelProto, ...]) -> None:
    model, _ = graphs
    ranges = dict.fromkeys((place.tensor for place in placements(model)), 1.0)
    assert [node.name for node in quantize(model, ranges, float_blocks=blocks(model)).graph.node] == [
        node.name for node in model.graph.node
    ]


def conv_model() -> onnx.ModelProto:
    """uint8 -> Cast -> 1x1 convolution that copies three channels, weights 127, 12.7 and 0."""
    weights = np.diag([127, 12.7, 0]).astype(np.float32).reshape(3, 3, 1, 1)
    nodes = [
        helper.make_node("Cast", ["crops"], ["floats"], name="/Cast", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["floats", "weights"], ["out"], name="/body/conv1/Conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["N", 3, 1, 1])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 3, 1, 1])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_values_round_to_steps_of_the_scale_and_saturate(tmp_path: Path) -> None:
    onnx.save(quantize(conv_model(), {"floats": 63.5}), tmp_path / "int8.onnx")
    crops = np.array([10, 63, 200], dtype=np.uint8).reshape(1, 3, 1, 1)
    found = load_runner(tmp_path / "int8.onnx", "onnxruntime", threads=1).run(crops).ravel()
    # A step is 0.5: 10 and 63 are exact, 200 saturates at 63.5, times 0.
    np.testing.assert_allclose(found, [1270, 63 * 12.7, 0], rtol=1e-6)


def test_weight_scales_are_per_output_channel_and_never_zero() -> None:
    weights = np.array([[127, -1], [0.5, -12.7], [0, 0]], dtype=np.float32).reshape(3, 2, 1, 1)
    np.testing.assert_allclose(weight_scales(weights), [1, 0.1, 1])


@pytest.mark.parametrize("largest", [None, float("nan"), -1.0, float("inf")])
def test_a_range_that_is_missing_or_senseless_is_refused(largest: float | None) -> None:
    with pytest.raises(ReidgeError, match="no usable range for the activation floats"):
        quantize(conv_model(), {} if largest is None else {"floats": largest})


def test_an_activation_that_is_always_zero_is_quantised_without_dividing_by_zero() -> None:
    model = quantize(conv_model(), {"floats": 0.0})
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert scales["floats_scale"] == 1


@pytest.mark.parametrize(
    ("node", "block"),
    [
        ("/body/conv1/Conv", "conv1"),
        ("/body/layer1/layer1.0/conv1/Conv", "layer1.0"),
        ("/body/conv2/conv2.1/conv2a/conv1/Conv", "conv2.1"),
        ("/body/stem/conv_batch/Conv", "stem"),
        ("Conv_7", "Conv_7"),
    ],
)
def test_blocks_are_named_by_module_path(node: str, block: str) -> None:
    assert block_of(node) == block


def test_tensorrt_parses_and_builds_the_bundles_graphs(exported: ExportReport) -> None:
    trt = pytest.importorskip(
        "tensorrt_rtx_bindings", reason="tensorrt_rtx_bindings, a TensorRT without a GPU, is absent"
    )

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: object, message: str) -> None: ...

    logger = Logger()
    builder = trt.Builder(logger)
    for name in ("encoder.onnx", "encoder.int8.onnx"):
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        assert parser.parse_from_file(str(exported.path / name)), parser.get_error(0)
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        profile = builder.create_optimization_profile()
        profile.set_shape("crops", *((count, 64, 32, 3) for count in (1, 8, 16)))
        config.add_optimization_profile(profile)
        assert builder.build_serialized_network(network, config) is not None
