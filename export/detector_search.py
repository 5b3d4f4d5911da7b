"""The search for an INT8 detector that still finds the people: the way to take ranges, then what to leave in float.

Depthwise convolutions stay in float from the start. Batch norm folded into them stretches single channels, so that one
range for all channels drowns the others: with them in INT8, YOLOX-nano loses between a fifth and three quarters of the
people, with them in float at most one in twenty-five (benchmarks/detector_int8.py). They are a small share of the
arithmetic, and no runtime gains much on them by INT8.
"""

# B = bins of a histogram

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from reidge.calibration.ranges import BINS, LEVELS, METHODS, Histogram, RangeMethod, ranges_from
from reidge.export.quantize import placements, quantize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onnx import ModelProto

    from reidge.edge.agreement import Agreement

MAX_FLOAT_SHARE = 0.5
"""Of the blocks that may be put back to float beside the depthwise ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSearch:
    """The INT8 graph that was found, and how."""

    model: ModelProto
    agreement: Agreement
    method: RangeMethod
    candidates: Mapping[str, float]
    """F1 of each way to take ranges that was tried, depthwise convolutions in float."""
    float_blocks: tuple[str, ...]
    """In the order of the graph."""
    passed: bool


def search_detector(
    model: ModelProto,
    histograms: Mapping[str, Histogram],
    evaluate: Callable[[ModelProto], Agreement],
    passes: Callable[[Agreement], bool],
    *,
    method: RangeMethod | Literal["auto"] = "auto",
) -> DetectorSearch:
    """Quantise, and where the gate is missed put the noisiest blocks back to float, as few as will do.

    Args:
        model: The float graph.
        histograms: Of every activation in `placements(model)`.
        evaluate: Compares a candidate with the float graph on held-out frames.
        passes: The gate.
        method: How ranges are taken; `auto` tries all.

    Returns:
        The graph with the fewest float blocks that passes, by bisection; where none does within the budget, the best.
    """
    always = depthwise_blocks(model)
    tried = {name: ranges_from(histograms, name) for name in (METHODS if method == "auto" else (method,))}
    results = {name: evaluate(quantize(model, ranges, float_blocks=always)) for name, ranges in tried.items()}
    chosen = max(results, key=lambda name: (passes(results[name]), worth(results[name])))
    ranges, best, float_blocks = tried[chosen], results[chosen], always
    if not passes(best):
        order = [block for block in noisiest_blocks(model, histograms, ranges) if block not in always]
        found: dict[int, Agreement] = {}

        def attempt(count: int) -> bool:
            candidate = quantize(model, ranges, float_blocks=always.union(order[:count]))
            found[count] = evaluate(candidate)
            return passes(found[count])

        count = fewest_that_pass(int(len(order) * MAX_FLOAT_SHARE), attempt)
        if count is None and found:
            count = max(found, key=lambda tried_count: worth(found[tried_count]))
        if count is not None and (passes(found[count]) or worth(found[count]) > worth(best)):
            best, float_blocks = found[count], always.union(order[:count])
    return DetectorSearch(
        model=quantize(model, ranges, float_blocks=float_blocks),
        agreement=best,
        method=chosen,
        candidates={name: result.f1 for name, result in results.items()},
        float_blocks=tuple(dict.fromkeys(place.block for place in placements(model) if place.block in float_blocks)),
        passed=passes(best),
    )


def fewest_that_pass(limit: int, attempt: Callable[[int], bool]) -> int | None:
    """The least number from 1 to `limit` that passes, by doubling and bisection; None where the search finds none."""
    low, high = 0, min(1, limit)
    while not (high and attempt(high)):
        if high >= limit:
            return None
        low, high = high, min(2 * high, limit)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if attempt(middle) else (middle, high)
    return high


def worth(agreement: Agreement) -> float:
    """One number to compare candidates by."""
    return agreement.f1 * agreement.mean_iou


def depthwise_blocks(model: ModelProto) -> frozenset[str]:
    """Blocks whose convolution sees one channel at a time."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    depthwise = {
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and shapes.get(node.input[1], (0, 0))[1] == 1 and shapes[node.input[1]][0] > 1
    }
    return frozenset(place.block for place in placements(model) if place.node in depthwise)


def noisiest_blocks(model: ModelProto, histograms: Mapping[str, Histogram], ranges: Mapping[str, float]) -> list[str]:
    """All blocks, first the one whose activation loses the largest share of its energy to INT8.

    Taken from the histograms alone, so it costs no inference; the search measures what it is worth.
    """
    noise: dict[str, float] = {}
    for place in placements(model):
        share = noise_share(histograms[place.tensor], ranges[place.tensor])
        noise[place.block] = max(noise.get(place.block, 0.0), share)
    return sorted(noise, key=lambda block: -noise[block])


def noise_share(histogram: Histogram, largest: float) -> float:
    """Energy of rounding and saturation errors as a share of the activation's own; 0 for one that is always zero."""
    if largest == 0:
        return 0.0
    centres_B = (np.arange(BINS) + 0.5) * histogram.width
    step = largest / (LEVELS - 1)
    rounded_B = np.minimum(np.round(centres_B / step), LEVELS - 1) * step
    errors_B, energy_B = np.square(centres_B - rounded_B), np.square(centres_B)
    return float(histogram.counts_B @ errors_B / (histogram.counts_B @ energy_B))
