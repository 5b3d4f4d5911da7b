from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reidge.edge.detectors import open_detector
from reidge.edge.detectors.yolox import YoloxConfig, YoloxDetector, make_grid
from reidge.edge.errors import InputError
from reidge.edge.footage import Span, read_footage

if TYPE_CHECKING:
    from pathlib import Path

ANCHORS = 8 * 8 + 4 * 4 + 2 * 2
"""Of a 64x64 input at strides 8, 16 and 32."""


def write_network(
    path: Path,
    rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    shape: tuple[int | str, ...] = (1, 3, 64, 64),
) -> Path:
    """A YOLOX of 64x64 that answers the same to every picture."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["rows", "nothing"], ["output"]),
    ]
    constants = [numpy_helper.from_array(rows[None], "rows"), numpy_helper.from_array(np.array(0, np.float32), "zero")]
    graph = helper.make_graph(
        nodes,
        "fixed",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, *rows.shape])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.usefixtures("runtime")
def test_raw_rows_become_boxes_in_pixels_of_the_frame(tmp_path: Path) -> None:
    rows = np.zeros((ANCHORS, 7), dtype=np.float32)
    # Anchor 64 + 5: stride 16, row 1, column 1. Centre (1.5 * 16, 1.25 * 16), sides 16 and 32.
    rows[64 + 5] = [0.5, 0.25, 0.0, np.log(2.0), 0.9, 0.8, 0.1]
    rows[64 + 6] = [0.5, 0.25, 0.0, np.log(2.0), 0.9, 0.1, 0.8]  # of another class
    path = write_network(tmp_path / "yolox.onnx", rows)
    with open_detector(YoloxConfig(path=path)) as detector:
        # 128 wide: scaled by 0.5 into the network, so by 2 back
        found = detector.detect("cam1", np.zeros((96, 128, 3), dtype=np.uint8))
    np.testing.assert_allclose(found.boxes_N4, [[32, 8, 64, 72]], atol=1e-4)
    np.testing.assert_allclose(found.scores_N, [0.72], atol=1e-6)


def test_boxes_end_at_the_frame(tmp_path: Path) -> None:
    rows = np.zeros((ANCHORS, 6), dtype=np.float32)
    rows[0] = [0.0, 0.0, 5.0, 5.0, 1.0, 1.0]  # e^5 cells wide
    with YoloxDetector(YoloxConfig(path=write_network(tmp_path / "yolox.onnx", rows))) as detector:
        found = detector.detect("cam1", np.zeros((48, 64, 3), dtype=np.uint8))
    np.testing.assert_allclose(found.boxes_N4, [[0, 0, 64, 48]])


def test_the_grid_goes_stride_by_stride_and_row_by_row() -> None:
    grid_A2, stride_A1 = make_grid((64, 64))
    assert len(grid_A2) == ANCHORS
    assert grid_A2[9].tolist() == [1, 1]
    assert grid_A2[64 + 4].tolist() == [0, 1]
    assert [stride_A1[row, 0] for row in (0, 63, 64, 79, 80, 83)] == [8, 8, 16, 16, 32, 32]


@pytest.mark.usefixtures("runtime")
def test_a_truncated_network_is_one_line(tmp_path: Path) -> None:
    path = write_network(tmp_path / "yolox.onnx", np.zeros((ANCHORS, 6), dtype=np.float32))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"yolox\.onnx is not a readable ONNX file \(1000 bytes\)") as caught:
        YoloxDetector(YoloxConfig(path=path))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("runtime")
def test_a_network_may_take_any_number_of_pictures_but_of_one_size(tmp_path: Path) -> None:
    rows = np.zeros((ANCHORS, 6), dtype=np.float32)
    any_number = write_network(tmp_path / "number.onnx", rows, ("N", 3, 64, 64))
    assert YoloxDetector(YoloxConfig(path=any_number)).size == (64, 64)
    any_size = write_network(tmp_path / "size.onnx", rows, (1, 3, "H", "W"))
    with pytest.raises(InputError, match="takes pictures of any size"):
        YoloxDetector(YoloxConfig(path=any_size))


def test_another_network_is_refused_at_the_start(tmp_path: Path) -> None:
    path = write_network(tmp_path / "other.onnx", np.zeros((10, 6), dtype=np.float32))
    with pytest.raises(InputError, match="is not a YOLOX"):
        YoloxDetector(YoloxConfig(path=path))


@pytest.mark.usefixtures("runtime")
def test_a_network_of_another_input_is_refused_at_the_start(tmp_path: Path) -> None:
    rows = np.zeros((ANCHORS, 6), dtype=np.float32)
    path = write_network(tmp_path / "encoder.onnx", rows, ("N", 256, 128, 3))  # an encoder's layout
    with pytest.raises(InputError, match=r"encoder\.onnx is not a YOLOX") as caught:
        YoloxDetector(YoloxConfig(path=path))
    assert "\n" not in str(caught.value)


def test_a_folder_in_place_of_a_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a file"):
        YoloxDetector(YoloxConfig(path=tmp_path))


def test_a_missing_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"yolox\.onnx does not exist"):
        YoloxDetector(YoloxConfig(path=tmp_path / "yolox.onnx"))


@pytest.mark.usefixtures("runtime")
def test_the_person_of_real_footage_is_found(shared: Path) -> None:
    footage = shared / "media" / "one-by-one-person-detection.mp4"
    (frame,) = read_footage(str(footage), camid="hall", span=Span(since=32.0, until=32.1))
    with YoloxDetector(YoloxConfig(path=shared / "weights" / "yolox_nano.onnx", min_score=0.5)) as detector:
        found = detector.detect("hall", frame.image)
    # One man, seen from behind, left of the middle, nearly as tall as the picture of 768x432.
    assert len(found) == 1
    assert found.boxes_N4[0] == pytest.approx([382, 2, 543, 374], abs=12)
    assert found.scores_N[0] > 0.85
