"""Ways to find people in a frame: motion against a learnt background, or a network, exported here or as it comes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import Field

from reidge.edge.detectors.boxes import BoxesConfig, BoxesDetector
from reidge.edge.detectors.bundle import BundleConfig, BundleDetector
from reidge.edge.detectors.motion import MotionConfig, MotionDetector
from reidge.edge.detectors.nanodet import NanodetConfig, NanodetDetector
from reidge.edge.detectors.rtdetr import RtdetrConfig, RtdetrDetector
from reidge.edge.detectors.yolox import YoloxConfig, YoloxDetector

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from reidge.edge.detection import Detections
    from reidge.edge.frame import Frame

DetectorConfig = Annotated[
    MotionConfig | YoloxConfig | RtdetrConfig | NanodetConfig | BoxesConfig | BundleConfig,
    Field(discriminator="kind"),
]


class Detector(AbstractContextManager["Detector"], Protocol):
    """Finds people; one instance serves all cameras of a site."""

    def detect(self, camid: str, image_HW3: NDArray[np.uint8]) -> Detections:
        """Find the people in the next frame of a camera, `(H, W, 3)` BGR."""

    def detect_many(self, frames: Sequence[Frame]) -> list[Detections]:
        """Find the people in the frames of one moment, in their order: what `detect` says of each, in less time."""

    def forget(self, camid: str) -> None:
        """Forget what was learnt about a camera that is gone or may see something else by now."""


def open_detector(config: DetectorConfig, *, at_once: int = 1) -> Detector:
    """Start the detector that `config` describes; use it in a `with`.

    Args:
        config: What to start.
        at_once: Frames that `detect_many` will be given, at most: the cameras of a site.

    Raises:
        InputError: The network cannot be read or is not what `config` says.
        ReidgeError: An exported detector does not pass its golden check here.
    """
    match config:
        case MotionConfig():
            return MotionDetector(config)
        case BundleConfig():
            return BundleDetector(config)
        case YoloxConfig():
            return YoloxDetector(config, at_once=at_once)
        case RtdetrConfig():
            return RtdetrDetector(config, at_once=at_once)
        case NanodetConfig():
            return NanodetDetector(config, at_once=at_once)
        case BoxesConfig():
            return BoxesDetector(config, at_once=at_once)
