"""The one Q/DQ dialect that TensorRT 8.6 to 11 and OpenVINO all read alike, and the checker that holds graphs to it.

What a runtime refuses, it refuses minutes into a build on a device far away, and in its own words; what it misreads
(TensorRT takes an unsigned zero-point of 0 for a signed one) it does not even refuse. So the export asks here first.
"""

# O = output channels of a convolution

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper, numpy_helper

from reidge.edge.errors import ReidgeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

OPSETS = range(13, 18)
"""13 brought scales per channel; 17 is the newest that TensorRT 8.6 reads."""
INTEGER_OPS = frozenset(
    {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"},
)
"""Operators that compute on integers outright, which TensorRT does not know."""
WEIGHT_AXES = {"Conv": 0, "ConvTranspose": 1}
"""Where the output channels of weights stand."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph with its edges looked up."""

    nodes: tuple[NodeProto, ...]
    constants: Mapping[str, TensorProto]
    producers: Mapping[str, NodeProto]
    readers: Mapping[str, tuple[NodeProto, ...]]
    outputs: frozenset[str]

    @classmethod
    def of(cls, model: ModelProto) -> Graph:
        """Index the main graph of a model."""
        readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        return cls(
            nodes=tuple(model.graph.node),
            constants=constants_of(model),
            producers={name: node for node in model.graph.node for name in node.output},
            readers={name: tuple(nodes) for name, nodes in readers.items()},
            outputs=frozenset(value.name for value in model.graph.output),
        )

    def values(self, name: str) -> NDArray[Any] | None:
        """The values of a constant; None for what is computed at run time."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def makes(self, name: str, kind: str) -> NodeProto | None:
        """The node that makes a tensor if it is of that kind."""
        node = self.producers.get(name)
        return node if node is not None and node.op_type == kind else None


class DialectError(ReidgeError):
    """A graph is not in the dialect; one line names the node, what is wrong there, and what is allowed."""

    def __init__(self, node: NodeProto, wrong: str, allowed: str) -> None:
        name = node.name or (node.output[0] if node.output else "unnamed")
        super().__init__(
            f"the graph leaves the INT8 dialect at {node.op_type} {name}: {wrong}. Allowed is {allowed}. "
            "Quantise the float graph with: reidge export"
        )


def check_dialect(model: ModelProto) -> None:
    """Refuse a graph that some TensorRT from 8.6 to 11 would refuse or misread; a float graph passes.

    Args:
        model: ONNX with explicit `QuantizeLinear` and `DequantizeLinear` pairs.

    Raises:
        ReidgeError: The opset is not 13 to 17, or a pair is asymmetric, not INT8, not whole, of a wrong scale, on a
            bias, or on only one side of a convolution.
    """
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version not in OPSETS:
        raise ReidgeError(
            f"the graph is of opset {version}, the INT8 dialect of opset {OPSETS[0]} to {OPSETS[-1]}. "
            "Write it again at opset 17."
        )
    graph = Graph.of(model)
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx") or node.op_type in INTEGER_OPS:
            raise DialectError(
                node, "this operator computes on integers or is a runtime's own", "standard ONNX in Q/DQ"
            )
        check = CHECKS.get(node.op_type)
        if check is not None:
            check(node, graph)


def check_quantize(node: NodeProto, graph: Graph) -> None:
    """A QuantizeLinear is symmetric INT8, and nothing but its DequantizeLinear reads it."""
    check_scale(node, graph)
    check_zero_point(node, graph)
    partners = graph.readers.get(node.output[0], ())
    if (
        node.output[0] in graph.outputs
        or not partners
        or any(other.op_type != "DequantizeLinear" for other in partners)
    ):
        raise DialectError(node, "it is not followed by a DequantizeLinear", "one pair of both, side by side")


def check_dequantize(node: NodeProto, graph: Graph) -> None:
    """A DequantizeLinear undoes exactly the QuantizeLinear before it."""
    stored = graph.constants.get(node.input[0])
    if stored is not None:
        kind = helper.tensor_dtype_to_np_dtype(stored.data_type).name
        raise DialectError(
            node,
            f"it reads {kind} constants{' (a quantised bias)' if kind == 'int32' else ''}",
            "a bias in float, and weights in float with a pair on them",
        )
    check_scale(node, graph)
    check_zero_point(node, graph)
    quantize = graph.makes(node.input[0], "QuantizeLinear")
    if quantize is None:
        raise DialectError(node, "no QuantizeLinear stands before it", "one pair of both, side by side")
    same_scale = np.array_equal(graph.values(node.input[1]), graph.values(quantize.input[1]))  # type: ignore[arg-type]
    if not same_scale or axis_of(node) != axis_of(quantize):
        raise DialectError(node, "its scale or axis is not that of its QuantizeLinear", "the same in both")


def check_scale(node: NodeProto, graph: Graph) -> None:
    """A scale is constant, float32 and positive: one number for an activation, one per output channel for weights."""
    scale = graph.values(node.input[1])
    if scale is None or scale.dtype != np.float32 or not (np.isfinite(scale) & (scale > 0)).all():
        raise DialectError(node, "its scale is not a positive float32 constant", "a scale that is known in advance")
    weights = graph.constants.get(source_of(node, graph))
    if weights is None:
        if scale.size != 1 or scale.ndim:
            raise DialectError(node, f"an activation has {scale.size} scales", "one scale per activation, a scalar")
        return
    if scale.ndim == 0:
        return
    axis, shape = axis_of(node), tuple(weights.dims)
    if axis >= len(shape) or scale.shape != (shape[axis],):
        raise DialectError(node, f"scales {scale.shape} do not fit axis {axis} of weights {shape}", "one per channel")


def check_zero_point(node: NodeProto, graph: Graph) -> None:
    """A zero-point is there, since without one the type is uint8, and is INT8 and 0."""
    zero = graph.values(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero is None or zero.dtype != np.int8:
        found = "missing, which means uint8" if zero is None else f"of type {zero.dtype}"
        raise DialectError(node, f"its zero-point is {found}", "an int8 zero-point of 0")
    if zero.any():
        raise DialectError(
            node, f"its zero-point is {zero.ravel()[np.flatnonzero(zero)[0]]}", "an int8 zero-point of 0"
        )


def check_convolution(node: NodeProto, graph: Graph) -> None:
    """A convolution is INT8 on both sides or on none, its weights scaled per output channel, its bias in float."""
    sides = [graph.makes(name, "DequantizeLinear") for name in node.input[:2]]
    if (sides[0] is None) != (sides[1] is None):
        quantised = "weights" if sides[0] is None else "input"
        raise DialectError(node, f"only its {quantised} is quantised", "a pair on both input and weights, or on none")
    if sides[1] is not None:
        scale = graph.values(sides[1].input[1])
        if scale is not None and scale.ndim and axis_of(sides[1]) != WEIGHT_AXES[node.op_type]:
            raise DialectError(
                node, "its weights are scaled along another axis", f"output channels, axis {WEIGHT_AXES[node.op_type]}"
            )
    if len(node.input) > 2 and node.input[2]:
        bias = graph.constants.get(node.input[2])
        if bias is None or helper.tensor_dtype_to_np_dtype(bias.data_type) != np.float32:
            raise DialectError(node, "its bias is not a float32 constant", "a bias in float, without a pair")


CHECKS: dict[str, Callable[[NodeProto, Graph], None]] = {
    "QuantizeLinear": check_quantize,
    "DequantizeLinear": check_dequantize,
    "Conv": check_convolution,
    "ConvTranspose": check_convolution,
}


def constants_of(model: ModelProto) -> dict[str, TensorProto]:
    """Initialisers and the outputs of Constant nodes that hold a tensor."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], entry.t) for entry in node.attribute if entry.name == "value")
    return constants


def source_of(node: NodeProto, graph: Graph) -> str:
    """What a pair is about: the tensor that its QuantizeLinear reads."""
    quantize = graph.makes(node.input[0], "QuantizeLinear") if node.op_type == "DequantizeLinear" else node
    return str((quantize or node).input[0])


def axis_of(node: NodeProto) -> int:
    """Axis along which scales differ; ONNX takes 1 where none is given."""
    return next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
