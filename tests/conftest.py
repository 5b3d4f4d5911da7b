"""Fixtures shared by the packages' tests: the smallest real things."""

# N = crops, H, W = input height and width, D = embedding

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reidge.edge.backends import load_runner
from reidge.edge.bundle import (
    GOLDEN_NAME,
    MANIFEST_NAME,
    ONNX_NAMES,
    InputSpec,
    Manifest,
    Provenance,
    ThresholdReport,
    describe_file,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TINY_SIZE = 32, 16


def tiny_graph() -> onnx.ModelProto:
    """Mean colour of each 8x8 cell of a 32x16 crop, relative to mid-grey: an encoder that knows clothes by colour."""
    weights = np.zeros((3, 3, 8, 8), dtype=np.float32)
    weights[range(3), range(3)] = 1 / 64
    constants: dict[str, NDArray[Any]] = {
        "grey": np.array(110, dtype=np.float32),
        "weights": weights,
        "shape": np.array([0, 24], dtype=np.int64),
        "axes": np.array([1], dtype=np.int64),
        "eps": np.array(1e-12, dtype=np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["crops"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["floats", "grey"], ["centred"]),
        helper.make_node("Transpose", ["centred"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weights"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Reshape", ["cells", "shape"], ["flat"]),
        helper.make_node("Mul", ["flat", "flat"], ["squares"]),
        helper.make_node("ReduceSum", ["squares", "axes"], ["sum"], keepdims=1),
        helper.make_node("Add", ["sum", "eps"], ["safe"]),
        helper.make_node("Sqrt", ["safe"], ["norm"]),
        helper.make_node("Div", ["flat", "norm"], ["embeddings"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["N", *TINY_SIZE, 3])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", 24])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_tiny_bundle(folder: Path) -> Path:
    """A real bundle in a few kilobytes, float only."""
    folder.mkdir()
    onnx_path = folder / ONNX_NAMES["float"]
    onnx.save(tiny_graph(), onnx_path)
    crops_NHW3 = np.random.default_rng(0).integers(0, 256, (16, *TINY_SIZE, 3), dtype=np.uint8)
    runner = load_runner(onnx_path, "onnxruntime", threads=1)
    np.savez(folder / GOLDEN_NAME, crops=crops_NHW3, embeddings=runner.run(crops_NHW3))
    runner.close()
    manifest = Manifest(
        files={path.name: describe_file(path) for path in sorted(folder.iterdir())},
        input=InputSpec(height=TINY_SIZE[0], width=TINY_SIZE[1]),
        embedding_dim=24,
        golden_min_cosine={"float": 0.999},
        threshold={"float": ThresholdReport(min_similarity=0.9, method="by hand")},
        provenance=Provenance(
            architecture="tiny",
            source="tests",
            weights_sha256="0" * 64,
            calibration_sha256="0" * 64,
            calibration_crops=0,
            created_at="2026-01-01T00:00:00+00:00",
        ),
    )
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2))
    return folder


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Path:
    """A bundle folder of its own for each test; input 32x16, embedding 24-d, float only."""
    return write_tiny_bundle(tmp_path / "tiny_bundle")
