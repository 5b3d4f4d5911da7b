"""Float ONNX -> INT8 ONNX with explicit Q/DQ pairs, in the one dialect that TensorRT and OpenVINO both fuse.

Symmetric INT8 with zero-point 0; activations per tensor, weights per output channel, bias in float. Q/DQ stands on
the input and the weights of every convolution, and on the shortcut input of each residual Add (not on its convolution
branch, which TensorRT fuses with the Add). Whatever is not a convolution, so everything after the last block, is float.
"""

# O = output channels of a convolution

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from reidge.edge.errors import ReidgeError
from reidge.export.dialect import check_dialect

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

MIN_CHANNELS = 16
"""A slimmer convolution gains nothing from INT8; the stem, which sees the image, is the exception."""
IMAGE_CHANNELS = 3
INT8_MAX = 127


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One Q/DQ pair on an activation: the given input of the given node."""

    node: str
    input_index: int
    tensor: str
    block: str
    """Part of the network the node belongs to; see `block_of`."""


def quantize(model: ModelProto, ranges: Mapping[str, float], *, float_blocks: Collection[str] = ()) -> ModelProto:
    """Write Q/DQ pairs into a float graph.

    Args:
        model: Float ONNX at opset 17, batch norms folded; it is left as it was.
        ranges: Largest magnitude of each activation named by `placements(model)`.
        float_blocks: Blocks that stay in float.

    Returns:
        The INT8 graph, checked.

    Raises:
        ReidgeError: A range is missing, not finite, or negative.
    """
    chosen = [place for place in placements(model) if place.block not in float_blocks]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    writer = PairWriter()
    by_node: dict[str, list[Placement]] = {}
    for place in chosen:
        by_node.setdefault(place.node, []).append(place)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    for original in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        for place in by_node.get(node.name, []):
            node.input[place.input_index] = writer.activation(place.tensor, scale_of(place.tensor, ranges))
            if node.op_type == "Conv":
                node.input[1] = writer.weights(weights[original.input[1]])
        result.graph.node.extend([*writer.take_nodes(), node])
    result.graph.initializer.extend(writer.initializers)
    onnx.checker.check_model(result, full_check=True)
    check_dialect(result)
    return result


def scale_of(tensor: str, ranges: Mapping[str, float]) -> float:
    """Activation units in one INT8 step; 1 for an activation that is always zero."""
    largest = ranges.get(tensor, float("nan"))
    if not 0 <= largest < float("inf"):
        raise ReidgeError(f"no usable range for the activation {tensor} (got {largest}). Calibrate on this very graph.")
    return largest / INT8_MAX or 1.0


class PairWriter:
    """Makes Q/DQ pairs; an activation with several consumers gets one pair."""

    def __init__(self) -> None:
        self.initializers: list[TensorProto] = []
        self._nodes: list[NodeProto] = []
        self._written: dict[str, str] = {}

    def take_nodes(self) -> list[NodeProto]:
        """The nodes made since the last call."""
        nodes, self._nodes = self._nodes, []
        return nodes

    def activation(self, tensor: str, scale: float) -> str:
        """Quantise an activation per tensor and return the name to read instead."""
        return self._pair(tensor, np.array(scale, dtype=np.float32), np.array(0, dtype=np.int8), axis=None)

    def weights(self, tensor: TensorProto) -> str:
        """Quantise weights per output channel and return the name to read instead.

        The weights themselves stay float in the file: TensorRT 8 knows INT8 weights only as a pair on float ones.
        """
        scale_O = weight_scales(numpy_helper.to_array(tensor))
        return self._pair(tensor.name, scale_O, np.zeros(len(scale_O), dtype=np.int8), axis=0)

    def _pair(self, tensor: str, scale: NDArray[np.float32], zero: NDArray[np.int8], axis: int | None) -> str:
        if tensor not in self._written:
            names = [f"{tensor}_{part}" for part in ("scale", "zero_point", "quantized", "dequantized")]
            scale_name, zero_name, quantized, dequantized = names
            self.initializers += [numpy_helper.from_array(scale, scale_name), numpy_helper.from_array(zero, zero_name)]
            for kind, source, target in (("Quantize", tensor, quantized), ("Dequantize", quantized, dequantized)):
                inputs = [source, scale_name, zero_name]
                node = helper.make_node(f"{kind}Linear", inputs, [target], name=f"{tensor}_{kind}", axis=axis)
                self._nodes.append(node)
            self._written[tensor] = dequantized
        return self._written[tensor]


def weight_scales(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weight units in one INT8 step, per output channel; 1 for a channel that is all zero."""
    largest_O = np.abs(weights.reshape(len(weights), -1)).max(axis=1)
    return np.where(largest_O > 0, largest_O / INT8_MAX, 1).astype(np.float32)


def placements(model: ModelProto) -> list[Placement]:
    """Where Q/DQ pairs belong, in the order of the graph."""
    return [*_placements(model)]


def blocks(model: ModelProto) -> list[str]:
    """Blocks that have something to quantise, in the order of the graph."""
    return list(dict.fromkeys(place.block for place in _placements(model)))


def _placements(model: ModelProto) -> Iterator[Placement]:
    producers = {name: node for node in model.graph.node for name in node.output}
    depths = tensor_depths(model)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        index: int | None = None
        if node.op_type == "Conv" and is_wide(node, shapes):
            index = 0
        elif node.op_type == "Add":
            index = shortcut_index(node, producers, depths)
        if index is not None:
            yield Placement(node=node.name, input_index=index, tensor=node.input[index], block=block_of(node.name))


def is_wide(conv: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a convolution is worth quantising: constant weights, and enough channels or the image itself."""
    shape = shapes.get(conv.input[1])
    if shape is None:
        return False
    groups = next((attribute.i for attribute in conv.attribute if attribute.name == "group"), 1)
    inputs, outputs = shape[1] * groups, shape[0]
    return inputs == IMAGE_CHANNELS or min(inputs, outputs) >= MIN_CHANNELS


def shortcut_index(add: NodeProto, producers: Mapping[str, NodeProto], depths: Mapping[str, int]) -> int | None:
    """Which input of an Add is the shortcut around a convolution branch; None where the Add is no residual.

    Where both come from a convolution (a block that changes its width), the shortcut is the shorter way.
    """
    if any(name not in depths for name in add.input):
        return None  # a constant
    convs = [index for index, name in enumerate(add.input) if name in producers and producers[name].op_type == "Conv"]
    if not convs:
        return None
    if len(convs) == 1:
        return 1 - convs[0]
    return 0 if depths[add.input[0]] < depths[add.input[1]] else 1


def tensor_depths(model: ModelProto) -> dict[str, int]:
    """Number of nodes on the longest way from the input to each activation; constants are absent."""
    depths = {value.name: 0 for value in model.graph.input}
    for node in model.graph.node:
        known = [depths[name] for name in node.input if name in depths]
        if known:
            depths.update({name: 1 + max(known) for name in node.output})
    return depths


def block_of(node: str) -> str:
    """Name of the block a node belongs to, from the module path that the torch exporter makes its name.

    `/body/layer1/layer1.0/conv1/Conv` is in `layer1.0`, `/body/conv1/Conv` in `conv1`.
    """
    path = node.strip("/").split("/")[:-1]
    path = path[1:] if path[:1] == ["body"] else path
    if not path:
        return node
    indexed = len(path) > 1 and path[1].startswith(f"{path[0]}.")
    return path[1] if indexed else path[0]
