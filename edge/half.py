"""FP16 written into a graph, for a TensorRT that takes every type from the graph.

TensorRT 8 and 10 choose FP16 themselves when they are allowed to; TensorRT 11 computes each node in the type that
stands there. So the nodes that bear the work get FP16 weights and scales, with casts where they meet the others.
What overflows or loses its meaning in FP16 stays in float32: powers, sums and norms, so the whole tail of an encoder
(GeM with p = 3 overflows above 40), and every node with a constant that FP16 cannot hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

QUANTISED_OPSET = 19
"""The first in which the scale of a Q/DQ pair, and so the type it gives, may be FP16."""
HEAVY = frozenset({"Conv", "ConvTranspose", "MatMul"})
PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
POINTWISE = frozenset({"Add", "Clip", "Erf", "HardSigmoid", "HardSwish", "LeakyRelu", "Mul", "Relu", "Sigmoid", "Tanh"})
MOVES = frozenset({"Concat", "MaxPool", "Resize", "Reshape", "Slice", "Split", "Transpose"})
"""These compute nothing, so they follow what they move."""
TAIL = PAIR | {"Add", "Relu"}
"""All that may be FP16 behind the last heavy node, where it goes on in FP16: the end of a block."""
ONLY_FIRST_INPUT = frozenset({"Resize"})
"""The other inputs have types of their own."""
MAX_RELATIVE_ERROR = 2**-8
"""Half a step of INT8 at full range: what rounding a constant to FP16 may cost."""


def bake_half(model: bytes) -> bytes:
    """Write FP16 into a serialised float or Q/DQ graph; inputs and outputs keep their types.

    Raises:
        ModuleNotFoundError: `onnx` is not installed; only TensorRT 11 needs it on a device.
    """
    import onnx

    graph = onnx.load_model_from_string(model)
    if any(node.op_type in PAIR for node in graph.graph.node):
        graph = onnx.version_converter.convert_version(graph, QUANTISED_OPSET)
    HalfWriter(graph).write()
    onnx.checker.check_model(graph, full_check=True)
    return bytes(graph.SerializeToString())


class HalfWriter:
    """Rewrites one graph in place."""

    def __init__(self, model: ModelProto) -> None:
        import onnx

        self.graph = model.graph
        self.nodes = list(model.graph.node)
        self.producers = {name: node for node in self.nodes for name in node.output}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant":
                self.constants.update((node.output[0], entry.t) for entry in node.attribute if entry.name == "value")
        inferred = onnx.shape_inference.infer_shapes(model).graph
        kinds = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
        kinds |= {name: tensor.data_type for name, tensor in self.constants.items()}
        self.outputs = {value.name for value in model.graph.output}
        self.floats = {name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT}
        self.half = self._choose()
        self._casts: dict[str, str] = {}

    def _choose(self) -> set[str]:
        """First outputs of the nodes that shall be FP16."""
        before_heavy = self._before_heavy()
        half: set[str] = set()
        for node in self.nodes:
            if self._suits(node, half, in_tail=before_heavy.isdisjoint(node.output)):
                half.add(node.output[0])
        while True:  # a pair and the nodes that read it are of one type, or a cast would stand between them
            wrong = {name for name in half if self._torn(name, half)}
            if not wrong:
                return half
            half -= wrong

    def _before_heavy(self) -> set[str]:
        """Tensors that some heavy node reads, itself or through others; all else is the tail."""
        needed: set[str] = set()
        for node in reversed(self.nodes):
            if node.op_type in HEAVY or needed.intersection(node.output):
                needed.update(node.input)
        return needed

    def _suits(self, node: NodeProto, half: set[str], *, in_tail: bool) -> bool:
        inputs = [name for name in self._float_inputs(node) if name not in self.constants]
        if not self.outputs.isdisjoint(node.output):
            return False  # callers count on float32
        if not all(self._fits(name, node) for name in self._float_inputs(node) if name in self.constants):
            return False
        if node.op_type in MOVES:
            return not in_tail and bool(inputs) and all(name in half for name in map(self._first_output, inputs))
        if node.op_type in HEAVY or not in_tail:
            return node.op_type in HEAVY | PAIR | POINTWISE
        bare = node.op_type in PAIR or len(inputs) == len(node.input)
        return node.op_type in TAIL and bare and all(self._first_output(name) in half for name in inputs)

    def _fits(self, name: str, node: NodeProto) -> bool:
        """Whether a constant keeps its meaning in FP16; of weights it is enough that the largest does."""
        from onnx import numpy_helper

        values = np.abs(numpy_helper.to_array(self.constants[name]).astype(np.float64)).ravel()
        if node.op_type not in PAIR or name == node.input[0]:
            values = values.max(initial=0, keepdims=True)
        with np.errstate(over="ignore"):
            error = np.abs(values.astype(np.float16).astype(np.float64) - values)
        return bool((error <= values * MAX_RELATIVE_ERROR).all())

    def _torn(self, name: str, half: set[str]) -> bool:
        """Whether a chosen node and the pairs around it are not all chosen."""
        node = self.producers[name]
        if node.op_type == "QuantizeLinear":
            return not self._readers(name) <= half
        if node.op_type == "DequantizeLinear":
            heavy = {out for out in self._readers(name) if self.producers[out].op_type in HEAVY}
            return node.input[0] not in half or not heavy <= half
        pairs = (one for one in node.input if one in self.producers and self.producers[one].op_type in PAIR)
        return node.op_type in HEAVY and any(pair not in half for pair in pairs)

    def _readers(self, name: str) -> set[str]:
        return {node.output[0] for node in self.nodes if name in node.input}

    def _first_output(self, name: str) -> str:
        producer = self.producers.get(name)
        return name if producer is None else str(producer.output[0])

    def _float_inputs(self, node: NodeProto) -> list[str]:
        names = node.input[:1] if node.op_type in ONLY_FIRST_INPUT else node.input
        return [name for name in names if name in self.floats]

    def write(self) -> None:
        """Rewrite the graph."""
        written: list[Any] = []
        for node in self.nodes:
            is_half = node.output[0] in self.half
            wanted = set(self._float_inputs(node)) if is_half else set(node.input)
            for index, name in enumerate(node.input):
                if name in wanted and name in self.floats:
                    node.input[index] = self._typed(name, is_half, written)
            written.append(node)
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(written)

    def _typed(self, name: str, to_half: bool, written: list[Any]) -> str:
        """Name of a tensor in the wanted type, made where it does not exist yet."""
        from onnx import numpy_helper

        if (self._first_output(name) in self.half) == to_half:
            return name
        target = f"{name}_half" if to_half else f"{name}_float"
        if name in self.constants:
            if target not in self._casts:
                values = numpy_helper.to_array(self.constants[name]).astype(np.float16)
                self.graph.initializer.append(numpy_helper.from_array(values, target))
        elif target not in self._casts:
            written.append(self._cast(name, target, to_half=to_half))
        self._casts[target] = name
        return target

    def _cast(self, source: str, target: str, *, to_half: bool) -> NodeProto:
        from onnx import TensorProto, helper

        kind = TensorProto.FLOAT16 if to_half else TensorProto.FLOAT
        return helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=kind)
