"""People found by any YOLOX network in ONNX."""

# A = anchors over all strides; C = 4 box numbers, objectness, classes; N = boxes; 4 = x1, y1, x2, y2

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from reidge.edge.detectors.letterbox import GREY, letterbox, restore, suppress_overlaps
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from reidge.edge.detection import Detections
    from reidge.edge.frame import Frame

STRIDES = (8, 16, 32)


class YoloxConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings of a YOLOX detector."""

    kind: Literal["yolox"] = "yolox"
    path: Path
    """The ONNX file."""
    person_class: int = Field(0, ge=0)
    """Column of the person among the classes; 0 in COCO."""
    min_score: float = Field(0.1, ge=0, le=1)
    """Smallest objectness times class score; the tracker makes use of unsure boxes too."""
    max_iou: float = Field(0.6, ge=0, le=1)
    """Overlap from which the less sure of two boxes is taken for the same person."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of the network; None leaves it to the runtime."""


class YoloxDetector:
    """Runs on OpenVINO where it is installed, else on ONNX Runtime.

    Raises:
        InputError: The file is missing, damaged, or no YOLOX.
    """

    def __init__(self, config: YoloxConfig) -> None:
        self.config = config
        if config.path.exists() and not config.path.is_file():
            raise InputError(f"{config.path} is not a file. Give the path of a YOLOX ONNX file.")
        if not config.path.is_file():
            raise InputError(f"{config.path} does not exist. Give the path of a YOLOX ONNX file.")
        try:
            self._run, self.size = _open_network(config.path, config.threads)
        except (ModuleNotFoundError, InputError):
            raise
        except Exception as error:  # each runtime has its own many kinds
            raise InputError(
                f"{config.path} is not a readable ONNX file ({config.path.stat().st_size} bytes). "
                "Copy or export it again."
            ) from error
        self._grid_A2, self._stride_A1 = make_grid(self.size)
        self._check()

    def __enter__(self) -> YoloxDetector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._run  # frees the runtime's memory

    def detect(self, camid: str, image_HW3: NDArray[np.uint8]) -> Detections:
        """Find the people in a frame; the camera makes no difference."""
        picture_HW3, scale = letterbox(image_HW3, self.size)
        raw_AC = self._run(np.ascontiguousarray(picture_HW3.transpose(2, 0, 1)[None], dtype=np.float32))
        scores_A = raw_AC[:, 4] * raw_AC[:, 5 + self.config.person_class]
        keep_A = scores_A >= self.config.min_score
        boxes_N4 = self._decode(raw_AC[keep_A, :4], keep_A)
        found = restore(boxes_N4, scores_A[keep_A], image_HW3=image_HW3, scale=scale)
        return found.select(suppress_overlaps(found, max_iou=self.config.max_iou))

    def detect_many(self, frames: Sequence[Frame]) -> list[Detections]:
        """Find the people in the frames of one moment, one after the other."""
        return [self.detect(frame.camid, frame.image) for frame in frames]

    def _decode(self, raw_N4: NDArray[np.float32], keep_A: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Offsets in a cell and logarithms of sides to x1, y1, x2, y2 in pixels of the network's input."""
        centres_N2 = (raw_N4[:, :2] + self._grid_A2[keep_A]) * self._stride_A1[keep_A]
        sides_N2 = np.exp(raw_N4[:, 2:]) * self._stride_A1[keep_A]
        return np.concatenate([centres_N2 - sides_N2 / 2, centres_N2 + sides_N2 / 2], axis=1)

    def _check(self) -> None:
        """Run once on grey, so that a wrong network is refused at the start and not at the first frame."""
        height, width = self.size
        try:
            raw_AC = self._run(np.full((1, 3, height, width), GREY, dtype=np.float32))
        except Exception as error:  # each runtime has its own many kinds
            raise InputError(
                f"{self.config.path} is not a YOLOX: it does not take a float picture (1, 3, {height}, {width}). "
                "Give the path of a YOLOX ONNX file."
            ) from error
        expected = (len(self._grid_A2), 6 + self.config.person_class)
        if raw_AC.ndim != 2 or raw_AC.shape[0] != expected[0] or raw_AC.shape[1] < expected[1]:
            raise InputError(
                f"{self.config.path} is not a YOLOX: its output is {raw_AC.shape}, expected {expected[0]} rows of "
                f"at least {expected[1]}. Export it with raw outputs (no decode in the graph)."
            )


def make_grid(size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row of each anchor's cell, `(A, 2)`, and its stride, `(A, 1)`, stride by stride, row by row."""
    cells, strides = [], []
    for stride in STRIDES:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _open_network(
    path: Path, threads: int | None
) -> tuple[Callable[[NDArray[np.float32]], NDArray[np.float32]], tuple[int, int]]:
    """Load the network; returns what runs it, input `(1, 3, H, W)` to output `(A, C)`, and its (H, W)."""
    if importlib.util.find_spec("openvino") is not None:
        return _open_openvino(path, threads)
    return _open_onnxruntime(path, threads)


def _open_openvino(
    path: Path, threads: int | None
) -> tuple[Callable[[NDArray[np.float32]], NDArray[np.float32]], tuple[int, int]]:
    import openvino

    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    _, _, height, width = (side.get_length() if side.is_static else None for side in compiled.input(0).partial_shape)

    def run(picture_13HW: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(compiled(picture_13HW)[0][0])

    return run, _fixed_size(path, height, width)


def _open_onnxruntime(
    path: Path, threads: int | None
) -> tuple[Callable[[NDArray[np.float32]], NDArray[np.float32]], tuple[int, int]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    _, _, height, width = (side if isinstance(side, int) else None for side in session.get_inputs()[0].shape)

    def run(picture_13HW: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(session.run(None, {name: picture_13HW})[0][0])

    return run, _fixed_size(path, height, width)


def _fixed_size(path: Path, height: int | None, width: int | None) -> tuple[int, int]:
    """Refuse a network whose input may have any size; the number of pictures may vary."""
    if height is None or width is None:
        raise InputError(f"{path} takes pictures of any size. Export it with a fixed one, e.g. 416 x 416.")
    return height, width
