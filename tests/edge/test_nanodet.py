from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.detectors import open_detector
from reidge.edge.detectors.nanodet import NanodetConfig
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.edge.detection import Detections
    from tests.edge.conftest import WriteDetector

CELLS = 8 * 8 + 4 * 4 + 2 * 2
"""Of a 64x64 input at strides 8, 16 and 32; NanoDet-Plus has one more, at stride 64."""
ROW = 64 + 4 + 1
"""Stride 16, row 1, column 1."""


def rows(cells: int) -> NDArray[np.float64]:
    """Two classes and four distributions, the person in one cell only."""
    rows_AC = np.full((cells, 2 + 4 * 8), -20.0)
    rows_AC[:, :2] = 0.0
    rows_AC[ROW, 0] = 0.8
    left, top, right, bottom = (rows_AC[ROW, 2 + 8 * side : 10 + 8 * side] for side in range(4))
    left[1] = 20.0  # all weight on one cell
    top[0] = 20.0
    right[[0, 1]] = 20.0  # half on none, half on one
    bottom[[1, 2, 3]] = 20.0  # thirds: two on the mean
    return rows_AC


def detect(path: Path, **settings: object) -> Detections:
    with open_detector(NanodetConfig.model_validate({"path": path, **settings})) as detector:
        return detector.detect("cam", np.zeros((64, 128, 3), dtype=np.uint8))  # twice as wide as the network's input


@pytest.mark.usefixtures("runtime")
def test_each_side_is_the_mean_of_its_distribution_from_the_corner_of_the_cell(
    tmp_path: Path, write_detector: WriteDetector
) -> None:
    found = detect(write_detector(tmp_path / "plus.onnx", {"output": rows(CELLS + 1)}))
    # From (16, 16): 16 to the left, none up, 8 to the right, 32 down; the frame is twice as wide.
    np.testing.assert_allclose(found.boxes_N4, [[0, 16, 48, 48]], atol=1e-3)
    np.testing.assert_allclose(found.scores_N, [0.8], atol=1e-6)


def test_without_the_fourth_stride_it_is_measured_from_the_middle(
    tmp_path: Path, write_detector: WriteDetector
) -> None:
    found = detect(write_detector(tmp_path / "old.onnx", {"output": rows(CELLS)}))
    np.testing.assert_allclose(found.boxes_N4, [[16, 24, 64, 56]], atol=1e-3)


def test_cells_cut_off_by_the_edge_count_as_whole_ones(tmp_path: Path, write_detector: WriteDetector) -> None:
    # 72 rows and columns: 9, then 4.5, 2.25 and 1.125, rounded up as a padded convolution does.
    path = write_detector(tmp_path / "d.onnx", {"output": rows(9 * 9 + 5 * 5 + 3 * 3 + 2 * 2)}, shape=(1, 3, 72, 72))
    assert len(detect(path)) == 1


def test_another_network_is_refused_with_what_it_gives(tmp_path: Path, write_detector: WriteDetector) -> None:
    path = write_detector(tmp_path / "d.onnx", {"output": np.zeros((10, 34))})
    with pytest.raises(InputError, match=r"d\.onnx is not a NanoDet: it gives output \(1, 10, 34\), .* 85 or 84 rows"):
        detect(path)
    path = write_detector(tmp_path / "few.onnx", {"output": rows(CELLS)})
    with pytest.raises(InputError, match="of at least 65"):
        detect(path, bins=16)
