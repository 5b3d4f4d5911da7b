"""Graphs made by hand that break one rule each, and what TensorRT's own parser makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reidge.edge.errors import ReidgeError
from reidge.export.dialect import check_dialect

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tests.export.conftest import TensorRT

WEIGHTS = np.random.default_rng(0).normal(size=(16, 3, 3, 3)).astype(np.float32)
SCALES = (np.abs(WEIGHTS).reshape(16, -1).max(axis=1) / 127).astype(np.float32)


class OneConv:
    """uint8 image -> Cast -> Transpose -> Q/DQ -> one convolution with Q/DQ weights, each part open to change."""

    def __init__(self) -> None:
        self.constants: dict[str, NDArray[Any]] = {
            "weights": WEIGHTS,
            "bias": np.zeros(16, dtype=np.float32),
            "scale": np.array(0.5, dtype=np.float32),
            "zero": np.array(0, dtype=np.int8),
            "weights_scale": SCALES,
            "weights_zero": np.zeros(16, dtype=np.int8),
        }
        self.nodes = {
            "cast": helper.make_node("Cast", ["crops"], ["floats"], to=TensorProto.FLOAT),
            "planes": helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
            "q": helper.make_node("QuantizeLinear", ["planes", "scale", "zero"], ["quantized"]),
            "dq": helper.make_node("DequantizeLinear", ["quantized", "scale", "zero"], ["planes_dq"]),
            "wq": helper.make_node("QuantizeLinear", ["weights", "weights_scale", "weights_zero"], ["wq"], axis=0),
            "wdq": helper.make_node("DequantizeLinear", ["wq", "weights_scale", "weights_zero"], ["wdq"], axis=0),
            "conv": helper.make_node("Conv", ["planes_dq", "wdq", "bias"], ["out"], kernel_shape=[3, 3]),
        }
        self.opset = 17

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            list(self.nodes.values()),
            "one_conv",
            [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["N", 16, 16, 3])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 16, 14, 14])],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def int32_bias(conv: OneConv) -> None:
    conv.constants["bias"] = np.zeros(16, dtype=np.int32)
    conv.constants |= {"bias_scale": SCALES / 2, "bias_zero": np.zeros(16, dtype=np.int32)}
    pair = helper.make_node("DequantizeLinear", ["bias", "bias_scale", "bias_zero"], ["bias_dq"], axis=0)
    conv.nodes = {"bias": pair, **conv.nodes}
    conv.nodes["conv"].input[2] = "bias_dq"


def shifted_activation(conv: OneConv) -> None:
    conv.constants["zero"] = np.array(3, dtype=np.int8)


def shifted_weights(conv: OneConv) -> None:
    conv.constants["weights_zero"] = np.full(16, 2, dtype=np.int8)


def unsigned_activation(conv: OneConv) -> None:
    conv.constants["zero"] = np.array(128, dtype=np.uint8)


def unsigned_from_zero(conv: OneConv) -> None:
    conv.constants["zero"] = np.array(0, dtype=np.uint8)


def no_zero_point(conv: OneConv) -> None:
    del conv.nodes["q"].input[2], conv.nodes["dq"].input[2]


def only_the_input(conv: OneConv) -> None:
    conv.nodes["conv"].input[1] = "weights"
    del conv.nodes["wq"], conv.nodes["wdq"]


def weights_stored_as_int8(conv: OneConv) -> None:
    conv.constants["weights"] = np.ones(WEIGHTS.shape, dtype=np.int8)
    conv.nodes["wdq"].input[0] = "weights"
    del conv.nodes["wq"]


def two_scales(conv: OneConv) -> None:
    conv.constants["scale_of_dq"] = np.array(0.25, dtype=np.float32)
    conv.nodes["dq"].input[1] = "scale_of_dq"


def scale_of_zero(conv: OneConv) -> None:
    conv.constants["scale"] = np.array(0, dtype=np.float32)


def scales_per_input_channel(conv: OneConv) -> None:
    conv.constants |= {"weights_scale": SCALES[:3], "weights_zero": np.zeros(3, dtype=np.int8)}
    for name in ("wq", "wdq"):
        conv.nodes[name].attribute[0].i = 1


def newer_opset(conv: OneConv) -> None:
    conv.opset = 21


REFUSED_BY_BOTH = {
    int32_bias: "DequantizeLinear bias_dq: it reads int32 constants (a quantised bias)",
    shifted_activation: "QuantizeLinear quantized: its zero-point is 3",
    shifted_weights: "QuantizeLinear wq: its zero-point is 2",
    unsigned_activation: "QuantizeLinear quantized: its zero-point is of type uint8",
}
# The newest parser takes these: as if they were signed, slower than they need be, or by rules that TensorRT 8.6 lacks.
REFUSED_BY_US = {
    unsigned_from_zero: "QuantizeLinear quantized: its zero-point is of type uint8",
    no_zero_point: "QuantizeLinear quantized: its zero-point is missing, which means uint8",
    only_the_input: "Conv out: only its input is quantised",
    weights_stored_as_int8: "DequantizeLinear wdq: it reads int8 constants",
    two_scales: "DequantizeLinear planes_dq: its scale or axis is not that of its QuantizeLinear",
    scale_of_zero: "QuantizeLinear quantized: its scale is not a positive float32 constant",
    scales_per_input_channel: "Conv out: its weights are scaled along another axis",
    newer_opset: "the graph is of opset 21",
}


def broken(change: Callable[[OneConv], None]) -> onnx.ModelProto:
    conv = OneConv()
    change(conv)
    return conv.model()


def test_a_graph_in_the_dialect_passes() -> None:
    model = OneConv().model()
    onnx.checker.check_model(model, full_check=True)
    check_dialect(model)


@pytest.mark.parametrize(("change", "message"), (REFUSED_BY_BOTH | REFUSED_BY_US).items(), ids=lambda x: "")
def test_a_graph_that_leaves_the_dialect_is_refused_by_node_and_rule(
    change: Callable[[OneConv], None], message: str
) -> None:
    with pytest.raises(ReidgeError) as refused:
        check_dialect(broken(change))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("change", REFUSED_BY_BOTH)
def test_tensorrt_refuses_what_is_refused_here(tensorrt: TensorRT, change: Callable[[OneConv], None]) -> None:
    assert tensorrt.verdict(OneConv().model().SerializeToString()) == "accepted"
    assert tensorrt.verdict(broken(change).SerializeToString()).startswith("the parser: ")


@pytest.mark.parametrize("kind", ["QLinearConv", "DynamicQuantizeLinear"])
def test_operators_on_integers_are_refused(kind: str) -> None:
    model = OneConv().model()
    model.graph.node.append(helper.make_node(kind, ["out"], ["integers"], name="fast"))
    with pytest.raises(ReidgeError, match=f"{kind} fast"):
        check_dialect(model)
