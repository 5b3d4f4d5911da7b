"""The search for an INT8 graph that is near enough: first the way to take ranges, then the blocks to leave in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from reidge.calibration.ranges import METHODS, Histogram, RangeMethod, ranges_from
from reidge.export.parity import INT8_GATE, Gate
from reidge.export.quantize import blocks, quantize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnx import ModelProto

    from reidge.edge.bundle import Parity

MAX_FLOAT_SHARE = 0.5
"""Of the blocks that may be put back to float; with more, INT8 is not worth its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Search:
    """The INT8 graph that was found, and how."""

    model: ModelProto
    parity: Parity
    ranges: Mapping[str, float]
    method: RangeMethod
    candidates: Mapping[str, float]
    """Mean cosine of each way to take ranges that was tried."""
    float_blocks: tuple[str, ...]
    """Put back to float, costliest first."""
    passed: bool
    """Whether the gate is reached."""


def search_int8(
    model: ModelProto,
    histograms: Mapping[str, Histogram],
    evaluate: Callable[[ModelProto], Parity],
    *,
    method: RangeMethod | Literal["auto"] = "auto",
    gate: Gate = INT8_GATE,
) -> Int8Search:
    """Quantise, and where the gate is missed put the costliest blocks back to float one at a time.

    Args:
        model: The float graph.
        histograms: Of every activation in `placements(model)`.
        evaluate: Compares a candidate with the trained encoder on held-out crops.
        method: How ranges are taken; `auto` tries all and keeps the one of best mean cosine.
        gate: What to reach.

    Returns:
        The first graph that passes; where none does within the budget, the one of best mean cosine.
    """
    tried = {name: ranges_from(histograms, name) for name in (METHODS if method == "auto" else (method,))}
    parities = {name: evaluate(quantize(model, ranges)) for name, ranges in tried.items()}
    chosen = max(parities, key=lambda name: parities[name].cosine_mean)
    float_blocks: tuple[str, ...] = ()
    best, best_parity = float_blocks, parities[chosen]
    if not gate.passes(best_parity):
        order = costliest_blocks(model, tried[chosen], evaluate)
        for count in range(1, int(len(order) * MAX_FLOAT_SHARE) + 1):
            float_blocks = tuple(order[:count])
            parity = evaluate(quantize(model, tried[chosen], float_blocks=float_blocks))
            if gate.passes(parity) or parity.cosine_mean > best_parity.cosine_mean:
                best, best_parity = float_blocks, parity
            if gate.passes(parity):
                break
    return Int8Search(
        model=quantize(model, tried[chosen], float_blocks=best),
        parity=best_parity,
        ranges=tried[chosen],
        method=chosen,
        candidates={name: parity.cosine_mean for name, parity in parities.items()},
        float_blocks=best,
        passed=gate.passes(best_parity),
    )


def costliest_blocks(
    model: ModelProto, ranges: Mapping[str, float], evaluate: Callable[[ModelProto], Parity]
) -> Sequence[str]:
    """All blocks, first the one whose quantisation alone lowers the mean cosine most."""
    names = blocks(model)
    cosine_alone = {
        name: evaluate(quantize(model, ranges, float_blocks=[other for other in names if other != name])).cosine_mean
        for name in names
    }
    return sorted(names, key=lambda name: cosine_alone[name])
