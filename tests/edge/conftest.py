"""Detectors of a few nodes, for the tests of each form that networks come in."""

# Q = rows of an output, N = pictures

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray


class WriteDetector(Protocol):
    """Writes a network that answers the same to every picture, but for its mean."""

    def __call__(
        self,
        path: Path,
        outputs: Mapping[str, NDArray[Any]],
        *,
        mean_of: str | None = None,
        shape: tuple[int | str, ...] = (1, 3, 64, 64),
        scaled_by: str | None = None,
    ) -> Path:
        """Write the network and return its path.

        Args:
            path: Where to.
            outputs: By name, without the axis of the batch; float or int64.
            mean_of: The output to whose numbers the mean of a picture is added, so that pictures can be told apart.
            shape: Of the input; text is a size that varies.
            scaled_by: A second input, int64 `(N, 2)` width and height, by which the output `boxes` is multiplied.
        """


@pytest.fixture(scope="session")
def write_detector() -> WriteDetector:
    """The smallest networks that have the inputs and outputs of real ones."""
    return _write_detector


def _write_detector(
    path: Path,
    outputs: Mapping[str, NDArray[Any]],
    *,
    mean_of: str | None = None,
    shape: tuple[int | str, ...] = (1, 3, 64, 64),
    scaled_by: str | None = None,
) -> Path:
    constants = [numpy_helper.from_array(np.array([1], dtype=np.int64), "one")]
    nodes = [helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0)]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)]
    if scaled_by is not None:
        inputs.append(helper.make_tensor_value_info(scaled_by, TensorProto.INT64, [shape[0], 2]))
        nodes += [
            helper.make_node("Concat", [scaled_by, scaled_by], ["corners"], axis=1),
            helper.make_node("Cast", ["corners"], ["float_corners"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["float_corners", "one"], ["scale"]),
            helper.make_node("Mul", ["unscaled", "scale"], ["boxes"]),
        ]
    ports = []
    for name, value in outputs.items():
        kind = TensorProto.INT64 if value.dtype.kind == "i" else TensorProto.FLOAT
        rows = value[None].astype(np.int64 if value.dtype.kind == "i" else np.float32)
        column = np.array([-1] + [1] * value.ndim, dtype=np.int64)
        weight = np.array(float(name == mean_of), dtype=np.float32)
        result = "unscaled" if scaled_by is not None and name == "boxes" else name
        constants += [
            numpy_helper.from_array(rows, f"{name}_rows"),
            numpy_helper.from_array(column, f"{name}_column"),
            numpy_helper.from_array(weight, f"{name}_weight"),
        ]
        nodes += [
            helper.make_node("Reshape", ["mean", f"{name}_column"], [f"{name}_mean"]),
            helper.make_node("Mul", [f"{name}_mean", f"{name}_weight"], [f"{name}_more"]),
            helper.make_node("Cast", [f"{name}_more"], [f"{name}_typed"], to=kind),
            helper.make_node("Add", [f"{name}_rows", f"{name}_typed"], [result]),
        ]
        ports.append(helper.make_tensor_value_info(name, kind, [shape[0], *value.shape]))
    nodes.sort(key=lambda node: node.output[0] == "boxes")  # what it multiplies comes first
    graph = helper.make_graph(nodes, "fixed", inputs, ports, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(params=["openvino", "onnxruntime"])
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each runtime of networks in turn, as if the other were not installed."""
    from reidge.edge.detectors import network

    pytest.importorskip(request.param)
    monkeypatch.setattr(network, "RUNTIMES", {request.param: network.RUNTIMES[request.param]})
    return str(request.param)
