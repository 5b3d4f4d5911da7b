"""What a block of a network costs to run: the multiply-adds of its convolutions, which is what INT8 makes cheaper."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import onnx

from reidge.export.quantize import block_of, placements

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from onnx import ModelProto


def multiply_adds(model: ModelProto) -> dict[str, int]:
    """Multiply-adds, for one crop, of the convolutions of each block that may run in INT8, in the order of the graph.

    Args:
        model: Float ONNX whose sizes but the first (the batch) are known.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    values = [*inferred.graph.value_info, *inferred.graph.output]
    sizes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    chosen = {place.node for place in placements(model)}
    costs: dict[str, int] = {}
    for node in model.graph.node:
        if node.name in chosen:
            costs.setdefault(block_of(node.name), 0)
            if node.op_type == "Conv":
                # Each number of the output is one sum over the weights of its channel.
                costs[block_of(node.name)] += math.prod(sizes[node.output[0]][1:]) * math.prod(
                    weights[node.input[1]][1:]
                )
    return costs


def share_of(blocks: Collection[str], costs: Mapping[str, int]) -> float:
    """Share of all multiply-adds that some blocks take; 0 of nothing."""
    return sum(costs[block] for block in blocks) / max(sum(costs.values()), 1)
