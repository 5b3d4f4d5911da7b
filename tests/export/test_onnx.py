from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch

from reidge.edge.backends import load_runner
from reidge.edge.errors import ReidgeError
from reidge.export.onnx import check_contract, export_onnx
from reidge.train.extract import embed_crops

if TYPE_CHECKING:
    from pathlib import Path

    from reidge.train.encoders.encoder import Encoder


def test_blue_is_not_red(tmp_path: Path, small_encoder: Encoder) -> None:
    export_onnx(small_encoder, tmp_path / "encoder.onnx")
    crops_NHW3 = np.zeros((2, 64, 32, 3), dtype=np.uint8)
    crops_NHW3[0, 20:40, :, 0] = crops_NHW3[1, 20:40, :, 2] = 255
    found_ND = load_runner(tmp_path / "encoder.onnx", "onnxruntime", threads=1).run(crops_NHW3)
    expected_ND = embed_crops(small_encoder, crops_NHW3)
    np.testing.assert_allclose(found_ND, expected_ND, atol=1e-5)
    assert not np.allclose(expected_ND[0], expected_ND[1], atol=1e-3)


def test_the_graph_keeps_the_contract_in_one_file(tmp_path: Path, small_encoder: Encoder) -> None:
    model = export_onnx(small_encoder, tmp_path / "encoder.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]
    assert model.opset_import[0].version == 17
    assert model.graph.node[0].op_type == "Cast"
    source, target = model.graph.input[0].type.tensor_type, model.graph.output[0].type.tensor_type
    assert source.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_param or dim.dim_value for dim in source.shape.dim] == ["N", 64, 32, 3]
    assert [dim.dim_param or dim.dim_value for dim in target.shape.dim] == ["N", 512]
    # Shapes known at export keep engine builders from a host round trip; folded norms and constants cost nothing.
    assert not {"Shape", "Expand", "Gather", "Identity"} & {node.op_type for node in model.graph.node}
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == 1  # the neck


def test_exporting_leaves_the_encoder_as_it_was(tmp_path: Path, small_encoder: Encoder) -> None:
    before = {name: tensor.clone() for name, tensor in small_encoder.state_dict().items()}
    export_onnx(small_encoder, tmp_path / "encoder.onnx")
    after = small_encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_graph_with_another_input_size_breaks_the_contract(tmp_path: Path, small_encoder: Encoder) -> None:
    model = export_onnx(small_encoder, tmp_path / "encoder.onnx")
    with pytest.raises(ReidgeError, match="the bundle asks for"):
        check_contract(model, (128, 64, 3), 512)
