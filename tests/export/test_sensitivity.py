from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import numpy_helper

from reidge.edge.bundle import Parity
from reidge.export.cost import multiply_adds
from reidge.export.onnx import export_onnx
from reidge.export.parity import Gate, Verdict
from reidge.export.quantize import block_of, placements
from reidge.export.sensitivity import fewest, search_int8, within_budget

if TYPE_CHECKING:
    import onnx

    from reidge.train.encoders.encoder import Encoder

NAMES = ("stem", "blocks.0", "blocks.1", "blocks.2")
GATE = Gate(min_cosine_mean=0.99, min_cosine_p1=0.97)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, small_encoder: Encoder) -> onnx.ModelProto:
    return export_onnx(small_encoder, tmp_path_factory.mktemp("graph") / "encoder.onnx")


@pytest.fixture(scope="module")
def choices(model: onnx.ModelProto) -> dict[str, dict[str, float]]:
    return {"max": {place.tensor: 1.0 for place in placements(model)}}


class Charge:
    """Charges each block in INT8 its cost, so that what the search should do is known."""

    def __init__(self, *costs: float) -> None:
        self.costs = dict(zip(NAMES, costs, strict=True))
        self.compared = 0

    def compare(self, candidate: onnx.ModelProto) -> Parity:
        self.compared += 1
        quantised = {
            block_of(node.name)
            for node in candidate.graph.node
            if node.op_type == "Conv" and node.input[0].endswith("_dequantized")
        }
        cosine = 1 - sum(self.costs[block] for block in quantised)
        return Parity(crops=1, cosine_mean=cosine, cosine_p1=cosine, max_abs_diff=0, neighbour_overlap=1)

    def judge(self, candidate: onnx.ModelProto) -> Verdict:
        parity = self.compare(candidate)
        return Verdict(parity=parity, checks=GATE.checks(parity))


def test_a_graph_that_passes_keeps_every_block_in_int8(
    model: onnx.ModelProto, choices: dict[str, dict[str, float]]
) -> None:
    found = search_int8(model, choices, Charge(0.001, 0, 0, 0))
    assert found.verdict.passed
    assert (found.float_blocks, found.float_share, dict(found.costs)) == ((), 0, {})


class OfTwoWays(Charge):
    """Finds `wide` ranges a little worse than others, which alone miss something else, as on labels."""

    def compare(self, candidate: onnx.ModelProto) -> Parity:
        parity = super().compare(candidate)
        return parity.model_copy(update={"cosine_mean": parity.cosine_mean - 0.001 * self.is_wide(candidate)})

    def judge(self, candidate: onnx.ModelProto) -> Verdict:
        parity = self.compare(candidate)
        misses = parity if self.is_wide(candidate) else parity.model_copy(update={"cosine_p1": 0.9})
        return Verdict(parity=parity, checks=GATE.checks(misses))

    def is_wide(self, candidate: onnx.ModelProto) -> bool:
        values = (numpy_helper.to_array(tensor) for tensor in candidate.graph.initializer)
        return any(value.shape == () and value == np.float32(2 / 127) for value in values)


def test_a_way_that_passes_as_it_is_beats_a_better_one_that_needs_blocks_in_float(model: onnx.ModelProto) -> None:
    choices = {name: {place.tensor: largest for place in placements(model)} for name, largest in (("a", 1), ("b", 2))}
    found = search_int8(model, choices, OfTwoWays(0, 0, 0, 0))
    assert found.candidates["a"] > found.candidates["b"]
    assert found.method == "b"
    assert found.verdict.passed
    assert found.float_blocks == ()


def test_the_costliest_block_goes_back_to_float_first(
    model: onnx.ModelProto, choices: dict[str, dict[str, float]]
) -> None:
    found = search_int8(model, choices, Charge(0.004, 0.001, 0.02, 0.003), max_float_share=1)
    assert found.verdict.passed
    assert found.float_blocks == ("blocks.1",)
    assert found.verdict.parity.cosine_mean == pytest.approx(0.992)
    assert list(found.costs) == ["blocks.1", "stem", "blocks.2", "blocks.0"]
    assert found.no_room == ()


def test_blocks_go_back_only_within_the_budget_of_multiply_adds(
    model: onnx.ModelProto, choices: dict[str, dict[str, float]]
) -> None:
    macs = multiply_adds(model)
    budget = (macs["stem"] + macs["blocks.0"]) / sum(macs.values())
    found = search_int8(model, choices, Charge(0.1, 0.05, 0.3, 0.2), max_float_share=budget)
    assert not found.verdict.passed
    assert set(found.float_blocks) <= {"stem", "blocks.0"} or found.float_share <= budget
    assert found.float_blocks  # better than nothing, though not good enough
    assert found.no_room
    assert not set(found.no_room) & set(found.float_blocks)
    assert found.verdict.missed == (
        f"mean cosine {found.verdict.parity.cosine_mean:.4f} (at least 0.99)",
        f"first percentile {found.verdict.parity.cosine_p1:.4f} (at least 0.97)",
    )


def test_the_way_of_best_mean_cosine_is_kept(model: onnx.ModelProto, choices: dict[str, dict[str, float]]) -> None:
    class ByScale(Charge):
        def compare(self, candidate: onnx.ModelProto) -> Parity:
            scale = next(
                numpy_helper.to_array(tensor)
                for tensor in candidate.graph.initializer
                if tensor.name.endswith("_scale") and not tensor.dims
            )
            cosine = 1 - abs(float(scale) * 127 - 2)  # as if 2 were the best range
            return Parity(crops=1, cosine_mean=cosine, cosine_p1=cosine, max_abs_diff=0, neighbour_overlap=1)

    wide = {name: dict.fromkeys(choices["max"], value) for name, value in (("a", 1.5), ("b", 2.001), ("c", 2.2))}
    found = search_int8(model, wide, ByScale(0, 0, 0, 0))
    assert found.method == "b"
    assert found.candidates == pytest.approx({"a": 0.5, "b": 0.999, "c": 0.8}, abs=1e-5)


@pytest.mark.parametrize("needed", [set("c"), set("ac"), set("abcdef"), set("f"), set("adf")])
def test_the_fewest_blocks_are_kept_in_few_tries(needed: set[str]) -> None:
    tries = []

    def passes(float_blocks: tuple[str, ...]) -> bool:
        tries.append(float_blocks)
        return needed <= set(float_blocks)

    assert set(fewest(tuple("abcdef"), passes)) == needed
    assert len(tries) <= 1 + 3 + 5


def test_where_all_does_not_pass_its_halves_are_tried() -> None:
    assert fewest(tuple("abcdef"), lambda float_blocks: float_blocks in (("a", "b"), ("a", "b", "c"))) == ("a", "b")


def test_where_nothing_passes_the_answer_is_all_that_is_affordable() -> None:
    tries = []

    def passes(float_blocks: tuple[str, ...]) -> bool:
        tries.append(float_blocks)
        return False

    assert fewest(("a", "b"), passes) == ("a", "b")
    assert tries == [("a", "b"), ("a",)]


def test_a_block_that_bursts_the_budget_is_passed_over() -> None:
    macs = {"a": 60, "b": 30, "c": 10}
    assert within_budget(["a", "b", "c"], macs, 0.4) == ("b", "c")
    assert within_budget(["a", "b", "c"], macs, 0.0) == ()
