from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reidge.edge.detectors.boxes import BoxesConfig, BoxesDetector
from reidge.edge.detectors.foreign import MAX_BATCH, ForeignConfig
from reidge.edge.detectors.yolox import YoloxConfig, YoloxDetector
from reidge.edge.errors import InputError
from reidge.edge.footage import Span, read_footage
from reidge.edge.frame import Frame
from tests.servers.fragile import write_fragile_detector

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.edge.conftest import WriteDetector

BOXES = np.array([[8.0, 8.0, 24.0, 56.0], [32.0, 8.0, 48.0, 56.0]])
SCORES = np.array([0.9, 0.8])


def grey_frames(*levels: int) -> list[Frame]:
    return [
        Frame(
            camid=f"cam{number}",
            index=number,
            captured_at=0.0,
            decoded_at=0.0,
            image=np.full((64, 64, 3), level, dtype=np.uint8),
        )
        for number, level in enumerate(levels)
    ]


@pytest.mark.parametrize("batch", [1, "N"])
@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.usefixtures("runtime")
def test_many_frames_give_what_each_gives_alone(
    tmp_path: Path, write_detector: WriteDetector, batch: int | str, at_once: int
) -> None:
    path = write_detector(
        tmp_path / "d.onnx", {"boxes": BOXES, "scores": SCORES}, mean_of="boxes", shape=(batch, 3, 64, 64)
    )
    # More frames than one batch takes, the mean of each in its boxes: none may be mixed up with another.
    frames = grey_frames(*range(MAX_BATCH + 3))
    with BoxesDetector(BoxesConfig(path=path, threads=at_once), at_once=at_once) as detector:
        together = detector.detect_many(frames)
        alone = [detector.detect(frame.camid, frame.image) for frame in frames]
    for number, (many, one) in enumerate(zip(together, alone, strict=True)):
        np.testing.assert_array_equal(many.boxes_N4, one.boxes_N4)
        np.testing.assert_allclose(many.boxes_N4[0], np.clip(BOXES[0] + number, 0, 64))


def test_no_frames_are_no_detections(tmp_path: Path, write_detector: WriteDetector) -> None:
    path = write_detector(tmp_path / "d.onnx", {"boxes": BOXES, "scores": SCORES})
    with BoxesDetector(BoxesConfig(path=path)) as detector:
        assert detector.detect_many([]) == []


@pytest.mark.usefixtures("runtime")
def test_a_frame_at_which_the_network_fails_costs_later_ones_nothing(tmp_path: Path) -> None:
    config = BoxesConfig(path=write_fragile_detector(tmp_path / "d.onnx"), boxes="found", resize="stretch", threads=8)
    with BoxesDetector(config, at_once=4) as detector:
        with pytest.raises(Exception, match=r"[Rr]eshape"):  # of each runtime's own kind
            detector.detect_many(grey_frames(0, 255, 1, 255))
        assert [len(found) for found in detector.detect_many(grey_frames(*range(8)))] == [1] * 8


@pytest.mark.usefixtures("runtime")
def test_a_one_left_in_a_graph_that_promises_batches_is_found_out(tmp_path: Path) -> None:
    rows = np.zeros((1, 84, 6), dtype=np.float32)
    rows[0, 0] = [1.0, 1.0, 0.0, 0.0, 0.9, 1.0]
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[0, 1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["rows", "nothing"], ["output"]),
    ]
    constants = [numpy_helper.from_array(rows, "rows"), numpy_helper.from_array(np.array(0, np.float32), "zero")]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 64, 64])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 84, 6])
    graph = helper.make_graph(nodes, "one", [images], [output], constants)
    path = tmp_path / "d.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with YoloxDetector(YoloxConfig(path=path)) as detector:
        assert [len(found) for found in detector.detect_many(grey_frames(0, 1, 2))] == [1, 1, 1]


def first_box(path: Path, image_HW3: NDArray[np.uint8], **settings: object) -> NDArray[np.float32]:
    config = BoxesConfig.model_validate({"path": path, **settings})
    with BoxesDetector(config) as detector:
        return np.asarray(detector.detect("cam", image_HW3).boxes_N4[0])


def test_pictures_reach_the_network_as_it_wants_them(tmp_path: Path, write_detector: WriteDetector) -> None:
    path = write_detector(
        tmp_path / "d.onnx", {"boxes": BOXES[:1], "scores": SCORES[:1]}, mean_of="boxes", shape=(1, 3, 64, 64)
    )
    blue = np.zeros((64, 64, 3), dtype=np.uint8)
    blue[..., 0] = 30
    # The network adds the mean of what it sees to its boxes.
    assert first_box(path, blue)[0] == 8 + 30 / 3
    assert first_box(path, blue, mean=[15, 0, 0], std=[5, 1, 1])[0] == 8 + (30 - 15) / 5 / 3
    # In RGB blue comes last.
    assert first_box(path, blue, channels="rgb", mean=[0, 0, 15], std=[1, 1, 5])[0] == 8 + (30 - 15) / 5 / 3


def test_a_stretched_frame_gets_its_boxes_back_in_its_own_proportions(
    tmp_path: Path, write_detector: WriteDetector
) -> None:
    path = write_detector(tmp_path / "d.onnx", {"boxes": BOXES, "scores": SCORES})
    wide = np.zeros((32, 128, 3), dtype=np.uint8)  # twice as wide, half as high as the network's input
    np.testing.assert_allclose(first_box(path, wide, resize="stretch"), [16, 4, 48, 28])
    np.testing.assert_allclose(first_box(path, wide, resize="letterbox"), [16, 16, 48, 32])  # scaled by 1/2, cut at 32


def test_a_box_in_the_grey_beside_the_picture_is_nobody(tmp_path: Path, write_detector: WriteDetector) -> None:
    boxes = np.array([[8.0, 40.0, 24.0, 56.0], [32.0, 8.0, 48.0, 30.0]])
    path = write_detector(tmp_path / "d.onnx", {"boxes": boxes, "scores": SCORES})
    with BoxesDetector(BoxesConfig(path=path)) as detector:  # 64x32: the lower half of the letterbox is grey
        found = detector.detect("cam", np.zeros((32, 64, 3), dtype=np.uint8))
    np.testing.assert_allclose(found.boxes_N4, boxes[1:])


def test_numbers_that_are_none_never_reach_the_tracker(tmp_path: Path, write_detector: WriteDetector) -> None:
    boxes = np.array([[np.nan, 8, 24, 56], [8, 8, np.inf, 56], [32.0, 8.0, 48.0, 56.0]])
    scores = np.array([0.9, 0.8, np.nan])
    path = write_detector(tmp_path / "d.onnx", {"boxes": boxes, "scores": scores})
    with BoxesDetector(BoxesConfig(path=path)) as detector:
        found = detector.detect("cam", np.zeros((64, 64, 3), dtype=np.uint8))
    np.testing.assert_allclose(found.boxes_N4, [[8, 8, 64, 56]])  # endless, so cut at the frame


def test_of_two_boxes_of_one_person_the_surer_stays(tmp_path: Path, write_detector: WriteDetector) -> None:
    boxes = np.array([[8.0, 8.0, 24.0, 56.0], [9.0, 8.0, 25.0, 56.0]])
    path = write_detector(tmp_path / "d.onnx", {"boxes": boxes, "scores": SCORES})
    with BoxesDetector(BoxesConfig(path=path)) as detector:
        found = detector.detect("cam", np.zeros((64, 64, 3), dtype=np.uint8))
    np.testing.assert_allclose(found.scores_N, [0.9])


def test_a_network_without_a_picture_is_refused(tmp_path: Path, write_detector: WriteDetector) -> None:
    path = write_detector(tmp_path / "d.onnx", {"boxes": BOXES, "scores": SCORES}, shape=(1, 8, 64, 64))
    with pytest.raises(
        InputError, match=r"d\.onnx is not a detector: it takes images float32 \(1, 8, 64, 64\)"
    ) as caught:
        BoxesDetector(BoxesConfig(path=path))
    assert "\n" not in str(caught.value)


def test_a_std_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        ForeignConfig.model_validate({"path": "d.onnx", "std": [1, 0, 1]})


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.usefixtures("runtime")
def test_yolox_finds_the_same_people_in_many_frames_as_in_each(shared: Path, at_once: int) -> None:
    footage = shared / "media" / "one-by-one-person-detection.mp4"
    frames = list(read_footage(str(footage), camid="hall", span=Span(since=32.0, until=34.0, max_fps=2)))
    config = YoloxConfig(path=shared / "weights" / "yolox_nano.onnx", threads=at_once)
    with YoloxDetector(config, at_once=at_once) as detector:
        together = detector.detect_many(frames)
        for frame, many in zip(frames, together, strict=True):
            one = detector.detect(frame.camid, frame.image)
            np.testing.assert_array_equal(many.boxes_N4, one.boxes_N4)
            np.testing.assert_array_equal(many.scores_N, one.scores_N)
    assert [len(found) for found in together].count(0) == 0
