"""People found by a detector that `reidge export detector` made, on any runtime that runs encoders."""

# N = frames, H, W = height and width, A = candidate boxes, 5 = x1, y1, x2, y2, score

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from pydantic import BaseModel, Field

from reidge.edge.agreement import compare_detections
from reidge.edge.backends import INT8_PAYS, Backend, GoldenMismatch, Runner, installed_backends, load_runner
from reidge.edge.backends.presence import GPU_BACKENDS, REMEDY, absence
from reidge.edge.bundle import BundleError, Precision
from reidge.edge.detection import Detections
from reidge.edge.detector_bundle import DetectorBundle
from reidge.edge.detectors.foreign import MAX_BATCH
from reidge.edge.detectors.letterbox import letterbox, restore, suppress_overlaps
from reidge.edge.errors import InputError, ReidgeError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from reidge.edge.frame import Frame

log = logging.getLogger(__name__)

MAX_IOU = 0.6
GOLDEN_MIN_SCORE = 0.1


class BundleConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings of a detector that was exported."""

    kind: Literal["bundle"] = "bundle"
    path: Path
    """The folder that `reidge export detector` wrote."""
    backend: Literal["auto"] | Backend = "auto"
    precision: Literal["auto"] | Precision = "auto"
    """`auto` takes INT8 on TensorRT, and on a processor the graph that takes less time for the golden frames."""
    min_score: float = Field(0.1, ge=0, le=1)
    """Smallest score; the tracker makes use of unsure boxes too."""
    max_iou: float = Field(MAX_IOU, ge=0, le=1)
    """Overlap from which the less sure of two boxes is taken for the same person."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of the network; None leaves it to the runtime."""


class BundleDetector:
    """Checks itself with the golden frames before it looks at the first frame of a camera.

    Raises:
        InputError: The folder is no exported detector, is damaged, or the backend is not installed here.
        GoldenMismatch: This machine does not find the people of the golden frames.
    """

    def __init__(self, config: BundleConfig) -> None:
        self.config = config
        self.bundle = DetectorBundle.load(config.path)
        self.golden_f1: dict[Precision, float] = {}
        """What came of the golden check of each graph that was opened."""
        self._runner, self.backend, self.precision = self._open()
        # ONNX Runtime would build another engine, for minutes, to find out.
        self._batches = self.backend != "onnxruntime-tensorrt" and self._takes_two()

    def __enter__(self) -> BundleDetector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()

    def detect(self, camid: str, image_HW3: NDArray[np.uint8]) -> Detections:
        """Find the people in a frame; the camera makes no difference."""
        return self._detect([image_HW3])[0]

    def detect_many(self, frames: Sequence[Frame]) -> list[Detections]:
        """Find the people in the frames of one moment, in batches where the graphs were exported for any number."""
        return self.detect_images([frame.image for frame in frames])

    def detect_images(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Likewise in pictures that are no camera's."""
        size = self.max_batch
        batches = (images[start : start + size] for start in range(0, len(images), size))
        return [found for batch in batches for found in self._detect(batch)]

    def forget(self, camid: str) -> None:
        """Nothing is learnt about a camera."""

    @property
    def max_batch(self) -> int:
        """Frames in one inference; more are split."""
        return MAX_BATCH if self._batches else 1

    def _detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        boxed = [letterbox(image_HW3, self.bundle.manifest.input.size) for image_HW3 in images]
        people_NA5 = self._runner.run(np.stack([picture_HW3 for picture_HW3, _ in boxed]))
        return [
            self._people(people_A5, image_HW3, scale)
            for people_A5, image_HW3, (_, scale) in zip(people_NA5, images, boxed, strict=True)
        ]

    def _people(self, people_A5: NDArray[np.float32], image_HW3: NDArray[np.uint8], scale: float) -> Detections:
        sure_N5 = people_A5[people_A5[:, 4] >= self.config.min_score]
        found = restore(sure_N5[:, :4], sure_N5[:, 4], image_HW3=image_HW3, scale=scale)
        return found.select(suppress_overlaps(found, max_iou=self.config.max_iou))

    def _takes_two(self) -> bool:
        """Whether the graph takes several frames, tried out: not every runtime says so before."""
        two_NHW3 = self.bundle.golden.frames_NHW3[:2]
        try:
            return len(two_NHW3) == 2 and len(self._runner.run(two_NHW3)) == 2
        except Exception:  # each runtime has its own kinds for a graph of one frame
            return False

    def _open(self) -> tuple[Runner, Backend, Precision]:
        """Open a graph on the first backend whose runtime starts."""
        left = list(choose_backends(self.config.backend))
        while True:
            self.backend = left.pop(0)
            try:
                return self._open_fastest(precisions_for(self.backend, self.config.precision))
            except (InputError, GoldenMismatch):  # the folder's fault, or a machine that must not go live
                raise
            except ReidgeError as error:
                if not left:
                    raise
                log.warning("%s does not start: %s Taking %s instead.", self.backend, error, left[0])

    def _open_fastest(self, precisions: Sequence[Precision]) -> tuple[Runner, Backend, Precision]:
        """Open a graph; of several the one that is faster here, each only once it has passed the golden check."""
        opened: list[tuple[float, Precision, Runner]] = []
        try:
            for precision in precisions:
                path = self.bundle.onnx_path(precision)
                opened.append((0.0, precision, load_runner(path, self.backend, threads=self.config.threads)))
                opened[-1] = (self._check_golden(opened[-1][2], precision), *opened[-1][1:])
        except BaseException:
            for _, _, runner in opened:
                runner.close()
            raise
        opened.sort(key=lambda each: each[0])
        for _, _, runner in opened[1:]:
            runner.close()
        _, precision, runner = opened[0]
        return runner, self.backend, precision

    def _check_golden(self, runner: Runner, precision: Precision) -> float:
        """Hold a graph against the golden frames; return its seconds a frame, at the best of them."""
        manifest, golden = self.bundle.manifest, self.bundle.golden
        where = f"{self.bundle.onnx_path(precision)} on {self.backend}"
        found = []
        seconds = []
        for frame_HW3 in golden.frames_NHW3:
            started = time.perf_counter()
            people_1A5 = runner.run(frame_HW3[None])
            seconds.append(time.perf_counter() - started)
            if people_1A5.ndim != 3 or people_1A5.shape[2] != 5:
                raise BundleError(f"{where} gives {people_1A5.shape}, not (N, A, 5). Export the detector again.")
            found.append(people_of(people_1A5[0]))
        agreement = compare_detections(golden.people, found)
        self.golden_f1[precision] = agreement.f1
        least = manifest.golden_min_agreement.get(precision, 1.0)
        if not agreement.f1 >= least:
            raise GoldenMismatch(
                f"{where} does not find the people of the golden frames: F1 {agreement.f1:.3f}, at least {least:.3f} "
                "is needed. Use another backend or precision, or update the runtime."
            )
        return min(seconds)


def people_of(people_A5: NDArray[np.float32], *, min_score: float = GOLDEN_MIN_SCORE) -> Detections:
    """What a graph says about one frame, in pixels of the letterbox, overlaps suppressed."""
    sure_N5 = people_A5[people_A5[:, 4] >= min_score]
    found = Detections.from_arrays(sure_N5[:, :4], sure_N5[:, 4])
    return found.select(suppress_overlaps(found, max_iou=MAX_IOU))


def precisions_for(backend: Backend, precision: Precision | Literal["auto"]) -> tuple[Precision, ...]:
    """The graphs to choose from: on a GPU only one, since its engine takes minutes to build."""
    if precision != "auto":
        return (precision,)
    if backend in GPU_BACKENDS:
        return ("int8",) if backend in INT8_PAYS else ("float",)
    return get_args(Precision)


def choose_backends(backend: Backend | Literal["auto"]) -> tuple[Backend, ...]:
    """The backend asked for, or all that are here, the preferred one first.

    Raises:
        InputError: It, or any, cannot be used here.
    """
    if backend != "auto":
        reason = absence(backend)
        if reason is not None:
            raise InputError(f"the backend {backend} cannot be used here: {reason}")
        return (backend,)
    installed = installed_backends()
    if not installed:
        raise InputError(f"no backend is installed here. {REMEDY}")
    return installed
