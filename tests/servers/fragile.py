"""A detector that is sure of one person, and cannot bear white."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def write_fragile_detector(path: Path) -> Path:
    """A network that sees one person in the middle of every picture, and fails at one that is white."""
    constants: dict[str, NDArray[Any]] = {
        "boxes": np.array([[[26, 6, 38, 34]]], dtype=np.float32),
        "score": np.array([0.9], dtype=np.float32),
        "white": np.array(230, dtype=np.float32),
        "shape": np.array([1, 1], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Identity", ["boxes"], ["found"]),
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "white"], ["is_white"]),
        helper.make_node("Cast", ["is_white"], ["extra"], to=TensorProto.INT64),
        helper.make_node("Add", ["shape", "extra"], ["wanted"]),
        helper.make_node("Reshape", ["score", "wanted"], ["scores"]),  # 1 number becomes 1 x 1, and never 2 x 2
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 36, 64])],
        [
            helper.make_tensor_value_info("found", TensorProto.FLOAT, [1, 1, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", "M"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
