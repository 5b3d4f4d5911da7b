"""TensorRT's own parser and ahead-of-time builder, which need no GPU, judge the graphs that leave this project."""

# N = crops, H, W = input height and width, D = embedding

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from reidge.calibration.ranges import observe, ranges_from
from reidge.edge.engine_builder import tail_start
from reidge.edge.errors import ReidgeError
from reidge.edge.half import bake_half
from reidge.export.dialect import check_dialect
from reidge.export.onnx import export_onnx
from reidge.export.quantize import placements, quantize
from reidge.train.encoders import ARCHITECTURES, build_encoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tests.export.conftest import TensorRT

SIZE = 64, 32
CROPS_NHW3 = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
IN_HALF = {"small": "float int8", "resnet18": "int8", "osnet_x0_25": "int8", "vit_small": "float"}
"""Networks, and which of their graphs are computed in FP16; all that is in the others is in these."""
RANGE = 4.0
"""Of every activation, where only the builder looks at it, which does not compute."""


@functools.cache
def both_graphs(architecture: str) -> tuple[bytes, bytes]:
    """Float and INT8 graph of an architecture with random weights."""
    torch.manual_seed(2)
    with tempfile.TemporaryDirectory() as folder:
        model = export_onnx(build_encoder(architecture, input_size=SIZE).eval(), Path(folder) / "encoder.onnx")
    names = [place.tensor for place in placements(model)]
    computed = architecture in IN_HALF
    found = ranges_from(observe(model, names, [CROPS_NHW3], threads=1), "max") if computed else {}
    int8 = quantize(model, dict.fromkeys(names, RANGE) | found)
    return model.SerializeToString(), int8.SerializeToString()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tensorrt_builds_every_encoder_in_float_and_int8(tensorrt: TensorRT, architecture: str) -> None:
    for graph in both_graphs(architecture):
        check_dialect(onnx.load_model_from_string(graph))
        assert tensorrt.verdict(graph) == "accepted"


@pytest.mark.parametrize(
    ("architecture", "last"),
    [
        ("small", "/body/blocks/blocks.2/Relu_1"),  # its last shortcut has a pair, with constants between
        ("resnet18", "/body/layer4/layer4.1/relu_1/Relu"),
        ("vit_small", "/body/layers/encoder_layer_11/Add_1"),  # a bias, with the layer that broadcasts it, in between
    ],
)
def test_a_block_ends_behind_its_sum_among_the_layers_that_the_parser_makes(
    tensorrt: TensorRT, architecture: str, last: str
) -> None:
    for graph in both_graphs(architecture):
        kinds, names = zip(*tensorrt.layers(graph), strict=True)
        assert names[tail_start(tensorrt.module, kinds, names) - 1] == last


def compute(graph: bytes) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"crops": CROPS_NHW3})[0], dtype=np.float32)


@pytest.mark.parametrize("architecture", IN_HALF)
def test_fp16_written_into_a_graph_builds_and_changes_next_to_nothing(tensorrt: TensorRT, architecture: str) -> None:
    for precision, graph in zip(("float", "int8"), both_graphs(architecture), strict=True):
        if precision in IN_HALF[architecture]:
            half = bake_half(graph)
            assert tensorrt.verdict(half) == "accepted"
            assert np.einsum("nd,nd->n", compute(graph), compute(half)).min() > 0.999


def test_fp16_bears_the_work_and_leaves_the_tail() -> None:
    for graph in both_graphs("resnet18"):
        model = onnx.load_model_from_string(bake_half(graph))
        inferred = onnx.shape_inference.infer_shapes(model).graph
        kinds = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
        by_kind = {
            kind: {node.op_type for node in model.graph.node if kinds.get(node.output[0]) == kind}
            for kind in (TensorProto.FLOAT, TensorProto.FLOAT16)
        }
        assert by_kind[TensorProto.FLOAT16] >= {"Conv", "Relu", "Add", "MaxPool"}
        assert by_kind[TensorProto.FLOAT16].isdisjoint({"Pow", "ReduceSum", "GlobalAveragePool", "Mul"})
        assert "Conv" not in by_kind[TensorProto.FLOAT]
        assert kinds["embeddings"] == TensorProto.FLOAT


def test_what_fp16_cannot_hold_stays_in_float32() -> None:
    float_graph, _ = both_graphs("small")
    model = onnx.load_model_from_string(float_graph)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == conv.input[1])
    values = onnx.numpy_helper.to_array(weights) * 1e-9  # all of them round to nothing in FP16
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    half = onnx.load_model_from_string(bake_half(model.SerializeToString()))
    kept = next(node for node in half.graph.node if node.name == conv.name)
    assert kept.input[1] == conv.input[1]


class Crops(CalibrationDataReader):  # type: ignore[misc]
    """One batch, as onnxruntime's own quantiser wants to be fed."""

    def __init__(self) -> None:
        self._batches: Iterator[dict[str, Any]] = iter([{"crops": CROPS_NHW3}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def test_the_default_of_onnxruntime_is_refused_by_both(tensorrt: TensorRT, tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").write_bytes(both_graphs("small")[0])
    quantize_static(tmp_path / "encoder.onnx", tmp_path / "default.onnx", Crops())
    graph = (tmp_path / "default.onnx").read_bytes()
    assert tensorrt.verdict(graph).startswith("the parser: ")
    with pytest.raises(ReidgeError, match="leaves the INT8 dialect"):
        check_dialect(onnx.load_model_from_string(graph))
