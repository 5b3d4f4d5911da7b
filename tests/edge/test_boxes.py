from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reidge.edge.detectors import open_detector
from reidge.edge.detectors.boxes import BoxesConfig
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.edge.detection import Detections
    from tests.edge.conftest import WriteDetector

CORNERS = np.array([[8.0, 8.0, 24.0, 56.0], [32.0, 8.0, 48.0, 56.0]])


def detect(path: Path, **settings: object) -> Detections:
    with open_detector(BoxesConfig.model_validate({"path": path, **settings})) as detector:
        return detector.detect("cam", np.zeros((64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("boxes", "settings"),
    [
        (CORNERS, {}),
        (CORNERS / 64, {"unit": "shares"}),
        (np.array([[8.0, 8.0, 16.0, 48.0], [32.0, 8.0, 16.0, 48.0]]), {"form": "corner-and-sides"}),
        (np.array([[16.0, 32.0, 16.0, 48.0], [40.0, 32.0, 16.0, 48.0]]), {"form": "centre-and-sides"}),
    ],
)
def test_boxes_come_in_several_forms(
    tmp_path: Path, write_detector: WriteDetector, boxes: NDArray[Any], settings: dict[str, str]
) -> None:
    path = write_detector(tmp_path / "d.onnx", {"boxes": boxes, "scores": np.array([0.9, 0.8])})
    np.testing.assert_allclose(detect(path, **settings).boxes_N4, CORNERS, atol=1e-4)


@pytest.mark.parametrize(
    ("outputs", "settings"),
    [
        ({"boxes": CORNERS, "scores": np.array([0.9, 0.05])}, {}),
        ({"boxes": CORNERS, "scores": np.array([[0.9], [0.05]])}, {}),
        ({"boxes": CORNERS, "scores": np.array([[0.05, 0.9], [0.9, 0.05]])}, {"person_class": 1}),
        ({"boxes": CORNERS, "scores": np.array([2.1972246, -9.0])}, {"logits": True}),
        ({"d": np.pad(CORNERS, ((0, 0), (0, 1)), constant_values=0.9) - [[0.0] * 5, [0, 0, 0, 0, 0.85]]},
         {"boxes": "d", "scores": "d", "score_column": 4}),
        ({"boxes": CORNERS, "scores": np.array([0.9, 0.8]), "labels": np.array([0, 7])}, {"labels": "labels"}),
        ({"boxes": CORNERS, "scores": np.array([0.9, 0.8]), "labels": np.array([[3, 0], [3, 7]])},
         {"labels": "labels", "label_column": 1}),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("runtime")
def test_the_person_is_told_from_the_others(
    tmp_path: Path, write_detector: WriteDetector, outputs: dict[str, NDArray[Any]], settings: dict[str, Any]
) -> None:
    found = detect(write_detector(tmp_path / "d.onnx", outputs), **settings)
    np.testing.assert_allclose(found.boxes_N4, CORNERS[:1], atol=1e-4)
    np.testing.assert_allclose(found.scores_N, [0.9], atol=1e-5)


@pytest.mark.parametrize(
    ("outputs", "settings", "message"),
    [
        ({"out": CORNERS, "scores": np.ones(2)}, {}, r"no output 'boxes' for the boxes: it gives out \(1, 2, 4\)"),
        ({"boxes": CORNERS, "conf": np.ones(2)}, {}, r"no output 'scores'.* Set detector\.scores to one of these"),
        ({"boxes": CORNERS[:, :3], "scores": np.ones(2)}, {}, r"gives boxes of shape \(1, 2, 3\)"),
        ({"boxes": CORNERS, "scores": np.ones(3)}, {}, "'scores' has no column 0 with a value for each box"),
        (
            {"boxes": CORNERS, "scores": np.ones((2, 2))},
            {"person_class": 2},
            r"no column 2.* Set detector\.score_column",
        ),
        ({"boxes": CORNERS, "scores": np.ones(2)}, {"labels": "labels"}, "no output 'labels' for the labels"),
    ],
)
def test_outputs_that_do_not_fit_the_settings_are_one_line(
    tmp_path: Path, write_detector: WriteDetector, outputs: dict[str, NDArray[Any]], settings: dict[str, Any],
    message: str,
) -> None:  # fmt: skip
    with pytest.raises(InputError, match=message) as caught:
        detect(write_detector(tmp_path / "d.onnx", outputs), **settings)
    assert "\n" not in str(caught.value)
