from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.detectors import open_detector
from reidge.edge.detectors.rtdetr import RtdetrConfig
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from reidge.edge.detection import Detections
    from tests.edge.conftest import WriteDetector

FRAME = np.zeros((128, 256, 3), dtype=np.uint8)
# Centre and sides, as shares of the picture.
SHARES = np.array([[0.25, 0.5, 0.125, 0.75], [0.75, 0.5, 0.25, 0.5], [0.5, 0.5, 0.1, 0.1]])
# Classes are person, car; 2.197 is the logit of 0.9, 0 that of 0.5.
LOGITS = np.array([[2.1972246, -5.0], [-5.0, 2.1972246], [0.0, -5.0]])
PEOPLE = np.array([[48, 16, 80, 112], [115.2, 57.6, 140.8, 70.4]])


def detect(path: Path, **settings: object) -> Detections:
    with open_detector(RtdetrConfig.model_validate({"path": path, **settings})) as detector:
        return detector.detect("cam", FRAME)


@pytest.mark.usefixtures("runtime")
def test_raw_boxes_and_logits_become_people_in_pixels_of_the_frame(
    tmp_path: Path, write_detector: WriteDetector
) -> None:
    found = detect(write_detector(tmp_path / "d.onnx", {"logits": LOGITS, "pred_boxes": SHARES}))
    np.testing.assert_allclose(found.boxes_N4, PEOPLE, rtol=1e-5)
    np.testing.assert_allclose(found.scores_N, [0.9, 0.5], atol=1e-6)


def test_boxes_joined_with_logits_are_the_same(tmp_path: Path, write_detector: WriteDetector) -> None:
    joined = np.concatenate([SHARES, LOGITS], axis=1)
    found = detect(write_detector(tmp_path / "d.onnx", {"output0": joined}))
    np.testing.assert_allclose(found.boxes_N4, PEOPLE, rtol=1e-5)
    np.testing.assert_allclose(found.scores_N, [0.9, 0.5], atol=1e-6)


def test_probabilities_are_taken_as_they_are(tmp_path: Path, write_detector: WriteDetector) -> None:
    classes = np.array([[0.7, 0.1], [0.05, 0.9], [0.3, 0.1]])
    path = write_detector(tmp_path / "d.onnx", {"pred_boxes": SHARES, "scores_of_classes": classes})
    np.testing.assert_allclose(detect(path).scores_N, [0.7, 0.3], atol=1e-6)
    np.testing.assert_allclose(detect(path, person_class=1).scores_N, [0.9, 0.1, 0.1], atol=1e-6)
    as_logits = detect(path, scores="logits").scores_N
    np.testing.assert_allclose(as_logits, 1 / (1 + np.exp([-0.7, -0.3, -0.05])), atol=1e-6)


def test_four_classes_are_not_taken_for_boxes(tmp_path: Path, write_detector: WriteDetector) -> None:
    four = np.pad(LOGITS, ((0, 0), (0, 2)), constant_values=-5.0)
    found = detect(write_detector(tmp_path / "d.onnx", {"labels": four, "dets": SHARES}))  # the names of RF-DETR
    np.testing.assert_allclose(found.boxes_N4, PEOPLE, rtol=1e-5)


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("batch", [1, "N"])
def test_a_finished_export_is_told_the_size_its_boxes_are_for(
    tmp_path: Path, write_detector: WriteDetector, batch: int | str
) -> None:
    outputs = {
        "labels": np.array([0, 1, 0]),
        "boxes": np.array([[0.1875, 0.125, 0.3125, 0.875], [0.6, 0.2, 0.9, 0.8], [0.45, 0.45, 0.55, 0.55]]),
        "scores": np.array([0.9, 0.8, 0.5]),
    }
    # Twice as wide as high, so that width and height cannot be taken for each other.
    path = write_detector(tmp_path / "d.onnx", outputs, shape=(batch, 3, 32, 64), scaled_by="orig_target_sizes")
    found = detect(path)
    np.testing.assert_allclose(found.boxes_N4, PEOPLE, rtol=1e-5)
    np.testing.assert_allclose(found.scores_N, [0.9, 0.5], atol=1e-6)


def test_a_picture_is_stretched_and_red_comes_first(tmp_path: Path) -> None:
    config = RtdetrConfig(path=tmp_path)
    assert (config.resize, config.channels, config.mean, config.std) == ("stretch", "rgb", (0, 0, 0), (255, 255, 255))


@pytest.mark.parametrize(
    "outputs",
    [
        {"output": np.zeros((3, 4))},
        {"boxes": np.zeros((3, 4)), "classes": np.zeros((5, 2))},
        {"boxes": np.zeros((3, 4)), "scores": np.zeros(3)},
        {"boxes": np.zeros((3, 5)), "scores": np.zeros((3, 2))},
    ],
)
def test_another_network_is_refused_with_what_it_gives(
    tmp_path: Path, write_detector: WriteDetector, outputs: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]
) -> None:
    with pytest.raises(InputError, match=r"d\.onnx is not an RT-DETR: it gives ") as caught:
        detect(write_detector(tmp_path / "d.onnx", outputs))
    assert "\n" not in str(caught.value)


def test_a_person_beyond_the_classes_is_refused(tmp_path: Path, write_detector: WriteDetector) -> None:
    path = write_detector(tmp_path / "d.onnx", {"logits": LOGITS, "pred_boxes": SHARES})
    with pytest.raises(InputError, match="knows 2 classes, the person is to be number 2"):
        detect(path, person_class=2)
