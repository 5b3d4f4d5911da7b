"""Activation ranges for INT8: streamed histograms of magnitudes, and four ways to take a range from one.

Memory is bounded: one histogram an activation, whatever the number of crops. A histogram widens by powers of two, so
that a later, larger value never makes the earlier counts wrong.
"""

# N = crops, H, W = input height and width, B = bins, C = candidate ranges

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import onnx
import onnxruntime

from reidge.edge.backends.onnxruntime import LOG_ERRORS
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

RangeMethod = Literal["max", "percentile", "mse", "entropy"]
METHODS: tuple[RangeMethod, ...] = get_args(RangeMethod)
BINS = 2048
PERCENTILE = 99.99
LEVELS = 128
"""Magnitudes that symmetric INT8 tells apart, zero included."""
CANDIDATES = 96
"""Ranges tried by `mse` and `entropy`, evenly spaced between a sixteenth and the whole of the histogram."""


class Histogram:
    """Counts of the magnitudes of one activation, in bins of equal width from 0."""

    def __init__(self) -> None:
        self.counts_B = np.zeros(BINS, dtype=np.float64)
        self.width = 0.0
        """Of one bin; 0 until the first value other than 0."""
        self.largest = 0.0
        self._zeros = 0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count values of any shape.

        Raises:
            InputError: A value is not finite.
        """
        magnitudes = np.abs(values).ravel()
        largest = float(magnitudes.max(initial=0))
        if not np.isfinite(largest):
            raise InputError("the encoder gives values that are not finite on the calibration crops. Train it again.")
        self.largest = max(self.largest, largest)
        if self.largest == 0:
            self._zeros += magnitudes.size
            return
        if self.width == 0:
            self.width = self.largest / BINS
            self.counts_B[0] = self._zeros
        while self.largest > self.width * BINS:
            self._widen()
        bins = np.minimum((magnitudes / self.width).astype(np.int64), BINS - 1)
        self.counts_B += np.bincount(bins, minlength=BINS)

    def _widen(self) -> None:
        self.counts_B = np.concatenate([self.counts_B.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2)])
        self.width *= 2

    def range(self, method: RangeMethod) -> float:
        """Largest magnitude that INT8 shall represent; what is above saturates."""
        if self.largest == 0 or method == "max":
            return self.largest
        if method == "percentile":
            cumulated_B = np.cumsum(self.counts_B)
            upper = int(np.searchsorted(cumulated_B, cumulated_B[-1] * PERCENTILE / 100))
            found = (upper + 1) * self.width
        else:
            costs_C = (squared_errors if method == "mse" else divergences)(self, edges := candidate_edges(self))
            found = float(edges[int(np.argmin(costs_C))]) * self.width
        return min(found, self.largest)


def candidate_edges(histogram: Histogram) -> NDArray[np.int64]:
    """Numbers of bins that a range may span, at least `LEVELS`; the last one holds every value."""
    used = int(np.flatnonzero(histogram.counts_B)[-1]) + 1
    edges = np.linspace(max(used / 16, LEVELS), max(used, LEVELS), CANDIDATES)
    return np.unique(edges.round().astype(np.int64))


def squared_errors(histogram: Histogram, edges_C: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum of squared rounding and saturation errors for each candidate range."""
    centres_B = (np.arange(BINS) + 0.5) * histogram.width
    costs = []
    for edge in edges_C:
        step = edge * histogram.width / (LEVELS - 1)
        rounded_B = np.minimum(np.round(centres_B / step), LEVELS - 1) * step
        costs.append(float(histogram.counts_B @ np.square(centres_B - rounded_B)))
    return np.array(costs)


def divergences(histogram: Histogram, edges_C: NDArray[np.int64]) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of the quantised from the clipped distribution, for each candidate range.

    After Migacz, "8-bit Inference with TensorRT", GTC 2017. The first bin, which after a ReLU holds most of the
    values, takes no part: zero is exact in every range.
    """
    costs = []
    for edge in edges_C:
        true_B = histogram.counts_B[:edge].copy()
        true_B[0] = 0
        present_B = true_B > 0
        levels_B = np.arange(edge) * LEVELS // edge
        mass = np.bincount(levels_B, weights=true_B, minlength=LEVELS)
        filled = np.bincount(levels_B, weights=present_B, minlength=LEVELS)
        spread_B = np.where(present_B, mass[levels_B] / np.maximum(filled[levels_B], 1), 0)
        true_B[-1] += histogram.counts_B[edge:].sum()  # what saturates
        total, spread_total = true_B.sum(), spread_B.sum()
        if spread_total == 0:
            costs.append(np.inf)
            continue
        p_B, q_B = true_B / total, np.maximum(spread_B / spread_total, 1e-12)
        costs.append(float(np.sum(p_B[p_B > 0] * np.log(p_B[p_B > 0] / q_B[p_B > 0]))))
    return np.array(costs)


def observe(
    model: onnx.ModelProto, tensors: Sequence[str], batches: Iterable[NDArray[np.uint8]], *, threads: int | None = None
) -> dict[str, Histogram]:
    """Run a float graph over calibration crops and count the magnitudes of some of its activations.

    Args:
        model: The graph; input uint8 `(N, H, W, 3)`.
        tensors: Names of the activations.
        batches: Crops, a few at a time: all the activations of one batch are in memory at once.
        threads: Processor threads; None takes all cores.

    Raises:
        InputError: A value is not finite.
    """
    histograms = {name: Histogram() for name in dict.fromkeys(tensors)}
    for activations in run_observed(model, list(histograms), batches, threads=threads):
        for name, values in activations.items():
            histograms[name].add(values)
    return histograms


def run_observed(
    model: onnx.ModelProto, tensors: Sequence[str], batches: Iterable[NDArray[np.uint8]], *, threads: int | None = None
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """The values of some tensors of a graph, inner ones too, a batch at a time; see `observe`."""
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    observed.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in tensors if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_ERRORS
    options.enable_cpu_mem_arena = False  # the arena would keep the largest batch's activations
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(observed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name
    for crops_NHW3 in batches:
        yield dict(zip(tensors, session.run(list(tensors), {source: crops_NHW3}), strict=True))


def ranges_from(histograms: Mapping[str, Histogram], method: RangeMethod) -> dict[str, float]:
    """Take the range of every activation in one way."""
    return {name: histogram.range(method) for name, histogram in histograms.items()}
