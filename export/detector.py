"""Foreign detector + frames -> detector bundle: fold, calibrate, check, and write a folder that appears whole."""

# N = frames, H, W = input height and width

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from pydantic import BaseModel, Field

from reidge.calibration.frames import FrameSets, read_frame_sets
from reidge.calibration.ranges import METHODS, RangeMethod, observe
from reidge.edge.agreement import SURE, Agreement, compare_detections
from reidge.edge.backends import Backend, Runner, installed_backends, load_runner
from reidge.edge.bundle import GOLDEN_NAME, MANIFEST_NAME, Precision, Quantisation, describe_file, sha256_file
from reidge.edge.detector_bundle import (
    DETECTOR_NAMES,
    DetectorManifest,
    DetectorOrigin,
    Family,
    FrameSpec,
    GoldenFrames,
)
from reidge.edge.detectors.bundle import BundleConfig, BundleDetector, people_of
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.folder import require_free, whole_folder
from reidge.edge.progress import Progress
from reidge.export.detector_graph import (
    PREPROCESSING,
    Anatomy,
    Preprocessing,
    examine,
    fold,
    read_detector,
)
from reidge.export.detector_search import search_detector
from reidge.export.provenance import tool_versions
from reidge.export.quantize import placements

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.edge.detection import Detections
    from reidge.export.detector_search import DetectorSearch

FRAMES = 192
GOLDEN_FRAMES = 8
GOLDEN_MARGIN = 0.15
"""Below the agreement at export: another processor rounds differently, and one box of ten is soon lost."""
FEW_BOXES = 50


class DetectorGate(BaseModel, frozen=True, extra="forbid"):
    """What INT8 must reach on held-out frames to be deployed; see `Agreement`."""

    min_recall: float = Field(0.95, ge=0, le=1)
    min_precision: float = Field(0.95, ge=0, le=1)
    min_mean_iou: float = Field(0.9, ge=0, le=1)

    def passes(self, agreement: Agreement) -> bool:
        """Whether the figures reach the gate."""
        return (
            agreement.recall >= self.min_recall
            and agreement.precision >= self.min_precision
            and agreement.mean_iou >= self.min_mean_iou
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorReport:
    """A detector bundle that was written."""

    path: Path
    manifest: DetectorManifest
    milliseconds: dict[Precision, float]
    """A frame takes here, median."""
    backend: Backend
    warnings: tuple[str, ...]

    @property
    def figures(self) -> dict[str, Any]:
        """What matters most, by name."""
        agreement, quantisation = self.manifest.agreement, self.manifest.quantisation
        return {
            "detector": str(self.path),
            "family": self.manifest.provenance.family,
            "input": f"{self.manifest.input.width}x{self.manifest.input.height}",
            "calibration_frames": self.manifest.provenance.calibration_frames,
            "held_out_frames": agreement.frames,
            "held_out_boxes": agreement.boxes,
            "recall_int8": agreement.recall,
            "precision_int8": agreement.precision,
            "mean_iou_int8": agreement.mean_iou,
            "score_shift_int8": agreement.score_shift,
            "range_method": quantisation.method,
            "float_blocks": len(quantisation.float_blocks),
            "forced": quantisation.forced,
            "backend": self.backend,
            **{f"milliseconds_{precision}": value for precision, value in self.milliseconds.items()},
        }


def export_detector(
    source: Path,
    frames: Sequence[str | Path],
    output: Path,
    *,
    family: Family | Literal["auto"] = "auto",
    person_class: int = 0,
    preprocessing: Preprocessing | None = None,
    frame_count: int = FRAMES,
    method: RangeMethod | Literal["auto"] = "auto",
    gate: DetectorGate | None = None,
    force: bool = False,
    threads: int | None = None,
) -> DetectorReport:
    """Export a detector to a folder that the edge runs.

    Args:
        source: YOLOX or RT-DETR as ONNX, without decoding or suppression of overlaps in the graph.
        frames: Recordings and pictures of the site, to calibrate and check on.
        output: The folder; must not exist or be an empty one.
        family: What `source` is; `auto` tells by its outputs.
        person_class: Column of the person among the classes.
        preprocessing: How the network wants its pictures; None takes what its family was trained with.
        frame_count: Most frames to use; a third of them is held out of calibration.
        method: How ranges are taken; `auto` chooses by agreement on held-out frames.
        gate: What INT8 must reach on held-out frames.
        force: Write the folder although INT8 misses the gate.
        threads: Processor threads of the runtimes; None takes all cores.

    Raises:
        InputError: The network, the frames or an option is unusable, or `output` is taken.
        ReidgeError: INT8 misses its gate without `force`.
    """
    require_free(output)
    if method not in ("auto", *METHODS):
        raise InputError(f"the range method {method!r} is unknown. Choose auto, {', '.join(METHODS)}.")
    gate = gate or DetectorGate()
    model = read_detector(source)
    anatomy = examine(model, source, family)
    preprocessing = preprocessing or PREPROCESSING[anatomy.family]
    fold(model, anatomy, preprocessing, person_class=person_class)
    sets = read_frame_sets(frames, size=anatomy.size, count=frame_count)
    with whole_folder(output) as folder, Progress("export detector", total=4, unit="steps") as progress:
        trial = Trial(folder=folder, backend=processor_backends()[0], threads=threads)
        onnx.save(model, trial.path("float"))
        reference = trial.detect("float", sets.held_out_NHW3)
        require_people(reference)
        progress.advance(note="people found in float")
        search = quantise(model, sets, reference, trial, gate=gate, method=method)
        if not (search.passed or force):
            raise missed(search.agreement, gate)
        onnx.save(search.model, trial.path("int8"))
        progress.advance(note=f"INT8 finds {search.agreement.recall:.1%} of the people")
        golden = choose_golden(sets.held_out_NHW3, reference)
        golden.write(folder / GOLDEN_NAME)
        manifest = DetectorManifest(
            files={path.name: describe_file(path) for path in sorted(folder.iterdir())},
            input=FrameSpec(height=anatomy.size[0], width=anatomy.size[1]),
            golden_min_agreement=golden_floors(trial, golden),
            agreement=search.agreement,
            quantisation=describe_search(search, gate),
            provenance=describe_source(source, sets, anatomy, preprocessing, person_class),
        )
        (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        progress.advance(note="written")
        check_starts(trial)
        milliseconds = time_graphs(trial, sets.held_out_NHW3)
        progress.advance(note="starts and finds the people of the golden frames")
    return DetectorReport(
        path=output,
        manifest=manifest,
        milliseconds=milliseconds,
        backend=trial.backend,
        warnings=find_warnings(manifest, milliseconds),
    )


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


def quantise(
    model: onnx.ModelProto,
    sets: FrameSets,
    reference: Sequence[Detections],
    trial: Trial,
    *,
    gate: DetectorGate,
    method: RangeMethod | Literal["auto"],
) -> DetectorSearch:
    """Take ranges on the calibration frames and search for an INT8 graph on those held out."""
    calibration = (frame_HW3[None] for frame_HW3 in sets.calibration_NHW3)
    tensors = [place.tensor for place in placements(model)]
    histograms = observe(model, tensors, calibration, threads=trial.threads)

    def evaluate(candidate: onnx.ModelProto) -> Agreement:
        onnx.save(candidate, trial.path("int8"))
        return compare_detections(reference, trial.detect("int8", sets.held_out_NHW3))

    return search_detector(model, histograms, evaluate, gate.passes, method=method)


def processor_backends() -> tuple[Backend, ...]:
    """The runtimes to try graphs on here: engines would take minutes to build for each of them.

    Raises:
        InputError: None is installed.
    """
    found = installed_backends(gpu=False)
    if not found:
        raise InputError("no backend for processors is installed here. Install one with: pip install 'reidge[cpu]'")
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


def missed(agreement: Agreement, gate: DetectorGate) -> ReidgeError:
    """Say by how much INT8 misses its gate."""
    return ReidgeError(
        f"INT8 misses its gate on {agreement.frames} held-out frames with {agreement.boxes} people: recall "
        f"{agreement.recall:.3f} (at least {gate.min_recall}), precision {agreement.precision:.3f} (at least "
        f"{gate.min_precision}), mean IoU {agreement.mean_iou:.3f} (at least {gate.min_mean_iou}). Give more frames of "
        "your own cameras, lower the gate with --gate, or accept the loss with --force."
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


def describe_search(search: DetectorSearch, gate: DetectorGate) -> Quantisation:
    """How INT8 came about, for the manifest."""
    return Quantisation(
        method=search.method,
        candidates=dict(search.candidates),
        float_blocks=search.float_blocks,
        gate=gate.model_dump(),
        forced=not search.passed,
    )


def describe_source(
    source: Path, sets: FrameSets, anatomy: Anatomy, preprocessing: Preprocessing, person_class: int
) -> DetectorOrigin:
    """Where a detector comes from, for the manifest."""
    return DetectorOrigin(
        source=source.name,
        source_sha256=sha256_file(source),
        family=anatomy.family,
        person_class=person_class,
        channels=preprocessing.channels,
        mean=preprocessing.mean,
        std=preprocessing.std,
        calibration_frames=len(sets.calibration_NHW3),
        calibration_sha256=sets.fingerprint,
        versions=tool_versions(),
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


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


def find_warnings(manifest: DetectorManifest, milliseconds: dict[Precision, float]) -> tuple[str, ...]:
    """What a user should know before deploying."""
    warnings = []
    if manifest.quantisation.forced:
        warnings.append("INT8 missed its gate and was written because of --force.")
    if manifest.agreement.boxes < FEW_BOXES:
        warnings.append(
            f"the held-out frames show {manifest.agreement.boxes} people, fewer than {FEW_BOXES}: the figures are "
            "rough. Give more footage or a larger --frame-count."
        )
    if milliseconds["int8"] > milliseconds["float"]:
        warnings.append(
            f"INT8 is slower than float on this machine ({milliseconds['int8']:.1f} and {milliseconds['float']:.1f} ms "
            "a frame); the edge measures both at its start and takes the faster one."
        )
    return tuple(warnings)
