"""Graphs of a detector that are tried out while it is exported: what they find, how they start, how long they take."""

# N = frames, H, W = input height and width

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reidge.edge.agreement import SURE, compare_detections
from reidge.edge.backends import Backend, Runner, installed_backends, load_runner
from reidge.edge.backends.presence import REMEDY
from reidge.edge.detector_bundle import DETECTOR_NAMES, GoldenFrames
from reidge.edge.detectors.bundle import BundleConfig, BundleDetector, people_of
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.edge.bundle import Precision
    from reidge.edge.detection import Detections

GOLDEN_FRAMES = 8
GOLDEN_MARGIN = 0.15
"""Below the agreement at export: another processor rounds differently, and one box of ten is soon lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Graphs of one detector in a folder, and what they are tried on."""

    folder: Path
    backend: Backend
    threads: int | None

    def path(self, precision: Precision) -> Path:
        """Where the graph of that precision is."""
        return self.folder / DETECTOR_NAMES[precision]

    def open(self, precision: Precision, backend: Backend | None = None) -> Runner:
        """Load a graph; whoever does closes it."""
        return load_runner(self.path(precision), backend or self.backend, threads=self.threads)

    def detect(
        self, precision: Precision, frames_NHW3: NDArray[np.uint8], backend: Backend | None = None
    ) -> list[Detections]:
        """The people of each frame, in pixels of the letterbox."""
        runner = self.open(precision, backend)
        try:
            return [people_of(runner.run(frame_HW3[None])[0]) for frame_HW3 in frames_NHW3]
        finally:
            runner.close()


def processor_backends() -> tuple[Backend, ...]:
    """The runtimes to try graphs on here: engines would take minutes to build for each of them.

    Raises:
        InputError: None is installed.
    """
    found = installed_backends(gpu=False)
    if not found:
        raise InputError(f"no backend for processors is installed here. {REMEDY}")
    return found


def require_people(reference: Sequence[Detections]) -> None:
    """Refuse footage of nobody: there would be nothing to judge INT8 by.

    Raises:
        InputError: No frame shows a sure person.
    """
    if not any((found.scores_N >= SURE).any() for found in reference):
        raise InputError(
            f"the detector finds nobody (score {SURE} or more) in {len(reference)} held-out frames. Give footage with "
            "people in it, and check --person-class, --channels, --mean and --std."
        )


def choose_golden(frames_NHW3: NDArray[np.uint8], reference: Sequence[Detections]) -> GoldenFrames:
    """The frames with most sure people, at most `GOLDEN_FRAMES`."""
    counts_N = np.array([(found.scores_N >= SURE).sum() for found in reference])
    chosen = [int(index) for index in np.argsort(-counts_N, kind="stable")[:GOLDEN_FRAMES] if counts_N[index]]
    return GoldenFrames(frames_NHW3=frames_NHW3[chosen], people=tuple(reference[index] for index in chosen))


def golden_floors(trial: Trial, golden: GoldenFrames) -> dict[Precision, float]:
    """What a device must reach on the golden frames: a margin below the worst processor runtime here."""
    floors: dict[Precision, float] = {}
    for precision in DETECTOR_NAMES:
        found = (trial.detect(precision, golden.frames_NHW3, backend) for backend in processor_backends())
        reached = [compare_detections(golden.people, people).f1 for people in found]
        floors[precision] = max(0.0, min(reached) - GOLDEN_MARGIN)
    return floors


def check_starts(trial: Trial) -> None:
    """Open the folder in both precisions as the edge does, golden check and all.

    Raises:
        GoldenMismatch: A graph does not find the people of the golden frames.
    """
    for precision in DETECTOR_NAMES:
        config = BundleConfig(path=trial.folder, backend=trial.backend, precision=precision, threads=trial.threads)
        with BundleDetector(config):
            pass


def time_graphs(trial: Trial, frames_NHW3: NDArray[np.uint8]) -> dict[Precision, float]:
    """Median milliseconds of a frame for each graph, the graphs taking turns."""
    runners = {precision: trial.open(precision) for precision in DETECTOR_NAMES}
    taken: dict[Precision, list[float]] = {precision: [] for precision in runners}
    for frame_HW3 in frames_NHW3:
        for precision, runner in runners.items():
            started = time.perf_counter()
            runner.run(frame_HW3[None])
            taken[precision].append(time.perf_counter() - started)
    for runner in runners.values():
        runner.close()
    return {precision: 1000 * float(np.median(seconds)) for precision, seconds in taken.items()}
