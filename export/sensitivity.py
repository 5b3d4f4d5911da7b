"""The search for an INT8 graph that is near enough: first the way to take ranges, then the blocks to leave in float.

What a block costs is measured with that block alone in INT8. The costliest blocks then go back to float together, as
few as pass, found by bisection, and each of those is tried in INT8 once more. A network of n blocks takes about
n + log2(n) graphs, where trying every prefix would take up to 2 n and every subset 2^n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from reidge.export.cost import multiply_adds, share_of
from reidge.export.quantize import quantize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnx import ModelProto

    from reidge.edge.bundle import Parity
    from reidge.export.parity import Verdict

MAX_FLOAT_SHARE = 0.25
"""Of the multiply-adds that could run in INT8. They, not blocks or weights, are what INT8 makes faster: with a quarter
of them in float, four fifths of the gain is left where INT8 is twice as fast."""


class Judge(Protocol):
    """Whoever says how good a candidate is."""

    def compare(self, candidate: ModelProto) -> Parity:
        """Compare its embeddings with those of the trained encoder on held-out crops."""

    def judge(self, candidate: ModelProto) -> Verdict:
        """Hold it against the gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Search:
    """The INT8 graph that was found, and how."""

    model: ModelProto
    verdict: Verdict
    ranges: Mapping[str, float]
    method: str
    """How they were taken."""
    candidates: Mapping[str, float]
    """Mean cosine of each way to take ranges that was tried."""
    costs: Mapping[str, float]
    """Mean cosine lost by each block alone in INT8, costliest first; empty where no search was needed."""
    float_blocks: tuple[str, ...]
    """Put back to float, costliest first."""
    no_room: tuple[str, ...]
    """Passed over, as with those that cost more they would burst the budget; empty where no search was needed."""
    float_share: float
    """Their share of the multiply-adds."""


def search_int8(
    model: ModelProto,
    choices: Mapping[str, Mapping[str, float]],
    judge: Judge,
    *,
    max_float_share: float = MAX_FLOAT_SHARE,
) -> Int8Search:
    """Quantise, and where the gate is missed put the fewest blocks back to float that pass.

    Args:
        model: The float graph.
        choices: Ranges of every activation in `placements(model)`, by the way they were taken; the way of best mean
            cosine is kept, among those that pass as they are if there are any.
        judge: Compares candidates with the trained encoder.
        max_float_share: Most of the multiply-adds that may go back to float.

    Returns:
        The graph that passes with the fewest blocks in float; where none does within the budget, the one of best mean
        cosine.
    """
    cosines = {name: judge.compare(quantize(model, ranges)).cosine_mean for name, ranges in choices.items()}
    order, macs = sorted(cosines, key=lambda name: cosines[name], reverse=True), multiply_adds(model)
    judged: dict[str, Verdict] = {}
    for name in order:  # another way that passes as it is beats the best one with blocks in float
        judged[name] = judge.judge(quantize(model, choices[name]))
        if judged[name].passed:
            break
    method = next((name for name, verdict in judged.items() if verdict.passed), order[0])
    ranges = choices[method]
    verdicts: dict[tuple[str, ...], Verdict] = {(): judged[method]}

    def verdict_of(float_blocks: tuple[str, ...]) -> Verdict:
        if float_blocks not in verdicts:
            verdicts[float_blocks] = judge.judge(quantize(model, ranges, float_blocks=float_blocks))
        return verdicts[float_blocks]

    found: tuple[str, ...] = ()
    affordable: tuple[str, ...] = ()
    costs: dict[str, float] = {}
    if not verdict_of(found).passed and any(share_of([name], macs) <= max_float_share for name in macs):
        costs = costs_alone(model, ranges, judge, macs)
        affordable = within_budget(list(costs), macs, max_float_share)
        found = fewest(affordable, lambda float_blocks: verdict_of(float_blocks).passed)
        if not verdict_of(found).passed:
            found = max(verdicts, key=lambda float_blocks: verdicts[float_blocks].parity.cosine_mean)
    return Int8Search(
        model=quantize(model, ranges, float_blocks=found),
        verdict=verdict_of(found),
        ranges=ranges,
        method=method,
        candidates=cosines,
        costs=costs,
        float_blocks=found,
        no_room=tuple(name for name in costs if name not in affordable),
        float_share=share_of(found, macs),
    )


def costs_alone(
    model: ModelProto, ranges: Mapping[str, float], judge: Judge, names: Mapping[str, int]
) -> dict[str, float]:
    """Mean cosine that is lost with one block alone in INT8, for every block, costliest first."""
    costs = {
        name: 1
        - judge.compare(quantize(model, ranges, float_blocks=[other for other in names if other != name])).cosine_mean
        for name in names
    }
    return dict(sorted(costs.items(), key=lambda item: item[1], reverse=True))


def within_budget(order: Sequence[str], macs: Mapping[str, int], max_share: float) -> tuple[str, ...]:
    """The first blocks that fit into a share of the multiply-adds, passing over those that alone would burst it."""
    taken: list[str] = []
    for name in order:
        if share_of([*taken, name], macs) <= max_share:
            taken.append(name)
    return tuple(taken)


def fewest(order: tuple[str, ...], passes: Callable[[tuple[str, ...]], bool]) -> tuple[str, ...]:
    """The shortest beginning of `order` that passes, without those of its blocks that need not be there.

    More blocks in float are taken to be no worse than fewer, which makes bisection right. On labels, where a query or
    two decide, that is not quite so: where all of `order` does not pass, its half may, or the half of that.

    Returns:
        All of `order` where none of these passes.
    """
    high = len(order)
    while high and not passes(order[:high]):
        high //= 2
    if not high:
        return order
    low = 0  # `high` passes; nothing shorter than `low` does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(order[:middle]) else (middle, high)
    kept = order[:high]
    for name in reversed(kept[:-1]):  # without the last one it does not pass, as bisection has shown
        rest = tuple(other for other in kept if other != name)
        if passes(rest):
            kept = rest
    return kept
