from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from reidge.calibration.ranges import BINS, METHODS, Histogram, RangeMethod, observe, ranges_from
from reidge.edge.errors import InputError


def histogram_of(*batches: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


def test_max_is_the_largest_magnitude_of_all_batches() -> None:
    histogram = histogram_of(np.array([1, -3], dtype=np.float32), np.array([2.5], dtype=np.float32))
    assert histogram.range("max") == 3


def test_no_value_is_lost_when_a_later_batch_is_larger() -> None:
    histogram = histogram_of(np.full(100, 0.01, np.float32), np.full(10, 7, np.float32), np.full(1, -90, np.float32))
    assert histogram.counts_B.sum() == 111
    assert histogram.width * BINS >= 90
    assert histogram.counts_B[int(7 / histogram.width)] == 10
    assert histogram.counts_B[int(90 / histogram.width)] == 1


def test_batches_and_their_union_give_the_same_counts() -> None:
    values = np.random.default_rng(0).exponential(size=10_000).astype(np.float32)
    values[0] = 20  # so that both start at the same width
    together, apart = histogram_of(values), histogram_of(*np.split(values, 10))
    np.testing.assert_array_equal(together.counts_B, apart.counts_B)


def test_the_percentile_leaves_out_a_single_outlier_in_twenty_thousand() -> None:
    values = np.linspace(0, 1, 20_000, dtype=np.float32)
    values[-1] = 40
    assert histogram_of(values).range("percentile") == pytest.approx(1, abs=0.05)
    assert histogram_of(values).range("max") == 40


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_rare_outliers_are_clipped_and_a_flat_distribution_is_not(method: RangeMethod) -> None:
    rng = np.random.default_rng(0)
    flat = rng.uniform(0, 1, 100_000).astype(np.float32)
    peaked = np.append(rng.uniform(0, 1, 100_000), [16, 16]).astype(np.float32)
    assert histogram_of(flat).range(method) > 0.9
    assert 0.8 < histogram_of(peaked).range(method) < 15


def test_mse_takes_the_range_whose_rounding_error_is_least() -> None:
    # As slow and literal as can be: quantise the values themselves with every range.
    values = np.abs(np.random.default_rng(1).normal(size=20_000)).astype(np.float32)

    def error(largest: float) -> float:
        step = largest / 127
        rounded = np.minimum(np.round(values / step), 127) * step
        return float(np.square(values - rounded).sum())

    found = histogram_of(values).range("mse")
    assert error(found) <= 1.02 * min(error(largest) for largest in np.linspace(0.3, values.max(), 200))


@pytest.mark.parametrize("method", METHODS)
def test_an_activation_that_is_always_zero_has_range_zero(method: RangeMethod) -> None:
    assert histogram_of(np.zeros(10, np.float32)).range(method) == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_range_never_exceeds_the_largest_value(method: RangeMethod) -> None:
    assert 0 < histogram_of(np.zeros(5, np.float32), np.full(5, 0.3, np.float32)).range(method) <= np.float32(0.3)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="not finite"):
        histogram_of(np.array([1, np.nan], dtype=np.float32))


def test_observing_streams_the_activations_of_a_real_graph() -> None:
    nodes = [
        helper.make_node("Cast", ["crops"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Neg", ["floats"], ["negative"]),
        helper.make_node("ReduceMean", ["negative"], ["out"], axes=[1, 2, 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "neg",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["N", 2, 1, 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    before = model.SerializeToString()
    batches = [np.full((2, 2, 1, 3), value, dtype=np.uint8) for value in (10, 200)]
    histograms = observe(model, ["negative", "floats", "negative", "out"], batches, threads=1)
    assert ranges_from(histograms, "max") == {"negative": 200, "floats": 200, "out": 200}
    assert histograms["negative"].counts_B.sum() == 24
    assert onnx.ModelProto.FromString(before) == model
