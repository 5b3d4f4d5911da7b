from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.calibration.ranges import METHODS, Histogram, observe
from reidge.edge.bundle import Parity
from reidge.export.onnx import export_onnx
from reidge.export.parity import Gate, compare
from reidge.export.quantize import blocks, placements
from reidge.export.sensitivity import search_int8
from reidge.train.extract import embed_crops

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import onnx

    from reidge.train.encoders.encoder import Encoder


@pytest.fixture(scope="module")
def setup(
    tmp_path_factory: pytest.TempPathFactory, small_encoder: Encoder
) -> tuple[onnx.ModelProto, dict[str, Histogram]]:
    model = export_onnx(small_encoder, tmp_path_factory.mktemp("graph") / "encoder.onnx")
    crops_NHW3 = np.random.default_rng(0).integers(0, 256, (8, 64, 32, 3), dtype=np.uint8)
    return model, observe(model, [place.tensor for place in placements(model)], [crops_NHW3], threads=1)


def judge(cost: dict[str, float]) -> Callable[[onnx.ModelProto], Parity]:
    """A judge that charges each quantised block its cost, so that the search's choices are known."""

    def evaluate(candidate: onnx.ModelProto) -> Parity:
        quantised = {
            name.strip("/").split("/")[1:3][0 if "stem" in name else 1]
            for node in candidate.graph.node
            if node.op_type == "Conv" and node.input[0].endswith("_dequantized")
            for name in [node.name]
        }
        cosine = 1 - sum(cost[block] for block in quantised)
        return Parity(crops=1, cosine_mean=cosine, cosine_p1=cosine, max_abs_diff=0, neighbour_overlap=1)

    return evaluate


def test_a_graph_that_passes_keeps_every_block_in_int8(setup: tuple[onnx.ModelProto, dict[str, Histogram]]) -> None:
    found = search_int8(*setup, judge({"stem": 0.001, "blocks.0": 0, "blocks.1": 0, "blocks.2": 0}))
    assert found.passed
    assert found.float_blocks == ()
    assert tuple(found.candidates) == METHODS


def test_the_costliest_block_goes_back_to_float_first(setup: tuple[onnx.ModelProto, dict[str, Histogram]]) -> None:
    costs = {"stem": 0.004, "blocks.0": 0.001, "blocks.1": 0.02, "blocks.2": 0.003}
    found = search_int8(*setup, judge(costs), method="max")
    assert found.passed
    assert found.float_blocks == ("blocks.1",)
    assert found.parity.cosine_mean == pytest.approx(0.992)


def test_at_most_half_of_the_blocks_go_back(setup: tuple[onnx.ModelProto, dict[str, Histogram]]) -> None:
    costs = {"stem": 0.2, "blocks.0": 0.1, "blocks.1": 0.2, "blocks.2": 0.3}
    found = search_int8(*setup, judge(costs), method="max")
    assert not found.passed
    assert found.float_blocks == ("blocks.2", "stem")
    assert len(blocks(setup[0])) == 4


def test_auto_takes_the_method_of_best_cosine_on_real_embeddings(
    setup: tuple[onnx.ModelProto, dict[str, Histogram]], small_encoder: Encoder, tmp_path: Path
) -> None:
    import onnx

    from reidge.export.parity import embed_with

    crops_NHW3 = np.random.default_rng(1).integers(0, 256, (8, 64, 32, 3), dtype=np.uint8)
    reference_ND = embed_crops(small_encoder, crops_NHW3)

    def evaluate(candidate: onnx.ModelProto) -> Parity:
        onnx.save(candidate, tmp_path / "candidate.onnx")
        return compare(reference_ND, embed_with(tmp_path / "candidate.onnx", crops_NHW3, backend="onnxruntime"))

    found = search_int8(*setup, evaluate, gate=Gate(min_cosine_mean=0.9, min_cosine_p1=0.9))
    assert found.candidates[found.method] == max(found.candidates.values())
    assert found.parity.cosine_mean == pytest.approx(evaluate(found.model).cosine_mean)
