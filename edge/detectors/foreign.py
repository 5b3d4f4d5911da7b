"""What all detectors of ONNX files that come as they are have in common: pictures in, batches, people out.

A kind of network says how it wants its pictures by the defaults of its settings, and what its numbers mean in
`_examine`, once, and `_decode`, for each picture.
"""

# N = boxes, F = frames of a moment, A = candidate boxes; H, W = height and width; 4 = x1, y1, x2, y2

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import cv2
import numpy as np
from pydantic import BaseModel, Field, field_validator

from reidge.edge.detectors.letterbox import GREY, letterbox, restore, stretch, suppress_overlaps
from reidge.edge.detectors.network import Found, Port, open_network
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from reidge.edge.detection import Detections
    from reidge.edge.frame import Frame

MAX_BATCH = 8
"""Frames in one inference; more are split, so that a burst does not grow memory for good."""
MAX_CANDIDATES = 300
"""Boxes that are compared with each other; the pairs of thousands, at a `min_score` of 0, would take seconds."""


class ForeignConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings of a detector in an ONNX file."""

    path: Path
    """The ONNX file."""
    person_class: int = Field(0, ge=0)
    """Number of the person among the classes; 0 in COCO."""
    min_score: float = Field(0.1, ge=0, le=1)
    """Smallest score; the tracker makes use of unsure boxes too."""
    max_iou: float = Field(0.6, ge=0, le=1)
    """Overlap from which the less sure of two boxes is taken for the same person."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of the network; None leaves it to the runtime."""
    resize: Literal["letterbox", "stretch"] = "letterbox"
    """How a frame becomes a picture of the network's size: with grey beside it, or by changing its proportions."""
    channels: Literal["bgr", "rgb"] = "bgr"
    """Order in which the network sees colours."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Subtracted of values from 0 to 255, in that order of channels."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Divided by after that."""

    @field_validator("std")
    @classmethod
    def _check_std(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError("each must be greater than 0")
        return std


Config = TypeVar("Config", bound=ForeignConfig)


class ForeignDetector(ABC, Generic[Config]):
    """Runs on OpenVINO where it is installed, else on ONNX Runtime.

    Args:
        config: What to run.
        at_once: Frames of a moment, at most; they are detected side by side.

    Raises:
        InputError: The file is missing, damaged, or not of this kind.
    """

    what: ClassVar[str]
    """The kind, as in "is not a YOLOX"."""

    def __init__(self, config: Config, *, at_once: int = 1) -> None:
        self.config = config
        self._network = open_network(config.path, what=self.what, threads=config.threads, at_once=at_once)
        try:
            self._picture = self._find_picture()
            height, width = self._picture.shape[2:]
            if height is None or width is None:
                raise self._refusal("takes pictures of any size", "Export it with a fixed one, e.g. 416 x 416.")
            self.size = height, width
            self._check()
        except BaseException:
            self._network.close()
            raise

    def __enter__(self) -> ForeignDetector[Config]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._network.close()

    def detect(self, camid: str, image_HW3: NDArray[np.uint8]) -> Detections:
        """Find the people in a frame; the camera makes no difference."""
        return self._detect([image_HW3])[0]

    def detect_many(self, frames: Sequence[Frame]) -> list[Detections]:
        """Find the people in the frames of one moment, in batches where the network takes them, else side by side."""
        return self._detect([frame.image for frame in frames])

    def forget(self, camid: str) -> None:
        """Nothing is learnt about a camera."""

    @abstractmethod
    def _examine(self, found: Found) -> None:
        """Look at what the network gives for a grey picture, and keep what `_decode` needs to know.

        Raises:
            InputError: It is not what this kind of network gives.
        """

    @abstractmethod
    def _decode(self, found: Found) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes in pixels of the network's input, `(N, 4)`, and their scores, `(N,)`, of at least `min_score`.

        Args:
            found: Outputs for one picture; the first axis, of length 1, is that of the batch.
        """

    def _detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        prepared = [self._prepare(image_HW3) for image_HW3 in images]
        outputs = self._run([picture_3HW for picture_3HW, _ in prepared])
        return [
            self._people(found, image_HW3, scale)
            for found, image_HW3, (_, scale) in zip(outputs, images, prepared, strict=True)
        ]

    def _prepare(self, image_HW3: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float | tuple[float, float]]:
        """A frame as the network wants it, `(3, H, W)`, and by what it was scaled."""
        resize = letterbox if self.config.resize == "letterbox" else stretch
        picture_HW3, scale = resize(image_HW3, self.size)
        planes = cv2.split(picture_HW3)
        picture_3HW = np.empty((3, *self.size), dtype=np.float32)
        ordered = planes[::-1] if self.config.channels == "rgb" else planes
        for target_HW, plane_HW, mean, std in zip(picture_3HW, ordered, self.config.mean, self.config.std, strict=True):
            np.subtract(plane_HW, np.float32(mean), out=target_HW)
            target_HW /= np.float32(std)
        return picture_3HW, scale

    def _run(self, pictures: Sequence[NDArray[np.float32]]) -> list[Found]:
        """Outputs for each picture, with an axis for the batch in front."""
        size = MAX_BATCH if self._batches else 1
        groups = [pictures[start : start + size] for start in range(0, len(pictures), size)]
        batches = [np.stack(group) if len(group) > 1 else group[0][None] for group in groups]
        outputs = self._network.run([self._feed(batch_F3HW) for batch_F3HW in batches])
        if not self._batches:
            return outputs
        return [
            {name: value[row : row + 1] for name, value in found.items()}
            for found, batch_F3HW in zip(outputs, batches, strict=True)
            for row in range(len(batch_F3HW))
        ]

    def _feed(self, batch_F3HW: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return {self._picture.name: batch_F3HW.astype(self._picture.dtype, copy=False)}

    def _people(self, found: Found, image_HW3: NDArray[np.uint8], scale: float | tuple[float, float]) -> Detections:
        boxes_N4, scores_N = self._decode(found)
        known_N = np.isfinite(scores_N) & ~np.isnan(boxes_N4).any(axis=1)  # a broken number must not reach the tracker
        people = restore(boxes_N4[known_N], scores_N[known_N], image_HW3=image_HW3, scale=scale)
        if len(people) > MAX_CANDIDATES:
            people = people.select(np.argsort(-people.scores_N, kind="stable")[:MAX_CANDIDATES])
        return people.select(suppress_overlaps(people, max_iou=self.config.max_iou))

    def _find_picture(self) -> Port:
        """The input that takes the picture."""
        for port in self._network.inputs:
            if len(port.shape) == 4 and port.shape[1] in (3, None) and port.dtype.startswith("float"):
                return port
        inputs = ", ".join(f"{port.name} {port.dtype} {port.shape}" for port in self._network.inputs)
        raise self._refusal(
            f"is not {self.what}: it takes {inputs} and no float picture (N, 3, H, W)",
            f"Give the path of {self.what} ONNX file.",
        )

    def _check(self) -> None:
        """Run on grey, so that a wrong network is refused at the start and not at the first frame."""
        self._batches = False
        grey_3HW = np.full((3, *self.size), GREY, dtype=np.float32)
        try:
            (found,) = self._run([grey_3HW])
        except Exception as error:  # each runtime has its own many kinds
            raise self._refusal(
                f"is not {self.what}: it does not run on a float picture (1, 3, {self.size[0]}, {self.size[1]})",
                f"Give the path of {self.what} ONNX file.",
            ) from error
        self._examine(found)
        self._batches = self._picture.shape[0] is None and self._takes_two(grey_3HW, found)

    def _takes_two(self, grey_3HW: NDArray[np.float32], one: Found) -> bool:
        """Whether the network, which says so, really takes batches: many have a 1 left in the middle of the graph."""
        try:
            (two,) = self._network.run([self._feed(np.stack([grey_3HW, grey_3HW]))])
        except Exception:  # each runtime has its own many kinds
            return False
        return all(value.ndim > 1 and value.shape == (2, *one[name].shape[1:]) for name, value in two.items())

    def _refusal(self, problem: str, advice: str) -> InputError:
        return InputError(f"{self.config.path} {problem}. {advice}")


def shapes_of(found: Found) -> str:
    """What a network gives, for an error message."""
    return ", ".join(f"{name} {value.shape}" for name, value in found.items())


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits to probabilities."""
    with np.errstate(over="ignore"):  # exp of a large number is infinite, and the probability 0
        return np.asarray(1 / (1 + np.exp(-logits)))
