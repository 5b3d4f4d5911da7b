"""Foreign detector + frames -> detector bundle: fold, calibrate, check, and write a folder that appears whole."""

# N = frames, H, W = input height and width

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

import onnx
from pydantic import BaseModel, Field

from reidge.calibration.frames import FrameSets, read_frame_sets
from reidge.calibration.ranges import METHODS, RangeMethod, observe
from reidge.edge.agreement import Agreement, compare_detections
from reidge.edge.bundle import GOLDEN_NAME, MANIFEST_NAME, Precision, Quantisation, describe_file, sha256_file
from reidge.edge.detector_bundle import (
    DetectorManifest,
    DetectorOrigin,
    Family,
    FrameSpec,
)
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
from reidge.export.detector_trial import (
    Trial,
    check_starts,
    choose_golden,
    golden_floors,
    processor_backends,
    require_people,
    time_graphs,
)
from reidge.export.kept import REPORT_JSON, keep_report, remove_kept_report
from reidge.export.parity import Check
from reidge.export.provenance import tool_versions
from reidge.export.quantize import placements

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from reidge.edge.backends import Backend
    from reidge.edge.detection import Detections
    from reidge.export.detector_search import DetectorSearch

FRAMES = 192
FEW_BOXES = 50


class DetectorGate(BaseModel, frozen=True, extra="forbid"):
    """What INT8 must reach on held-out frames to be deployed; see `Agreement`."""

    min_recall: float = Field(0.95, ge=0, le=1)
    min_precision: float = Field(0.95, ge=0, le=1)
    min_mean_iou: float = Field(0.9, ge=0, le=1)

    def checks(self, agreement: Agreement) -> tuple[Check, ...]:
        """What was reached of each figure."""
        return (
            Check(name="recall", found=agreement.recall, limit=self.min_recall),
            Check(name="precision", found=agreement.precision, limit=self.min_precision),
            Check(name="mean IoU", found=agreement.mean_iou, limit=self.min_mean_iou),
        )

    def passes(self, agreement: Agreement) -> bool:
        """Whether the figures reach the gate."""
        return all(check.passed for check in self.checks(agreement))


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
        family: What `source` must be; which it is, is told by its outputs.
        person_class: Column of the person among the classes.
        preprocessing: How the network wants its pictures; None takes what its family was trained with.
        frame_count: Most frames to use; a third of them is held out of calibration.
        method: How ranges are taken; `auto` chooses by agreement on held-out frames.
        gate: What INT8 must reach on held-out frames.
        force: Write the folder although INT8 misses the gate.
        threads: Processor threads of the runtimes; None takes all cores.

    Raises:
        InputError: The network, the frames or an option is unusable, or `output` is taken.
        ReidgeError: INT8 misses its gate without `force`; then the report stays in `kept_report(output)`.
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
        origin = describe_source(source, sets, anatomy, preprocessing, person_class)
        write_report(trial.folder, search, gate, origin)
        if not (search.passed or force):
            raise missed(search.agreement, gate, keep_report(trial.folder, output))
        onnx.save(search.model, trial.path("int8"))
        progress.advance(note=f"INT8 finds {search.agreement.recall:.1%} of the people")
        manifest = write_manifest(trial, sets, reference, search, gate=gate, origin=origin)
        progress.advance(note="written")
        check_starts(trial)
        milliseconds = time_graphs(trial, sets.held_out_NHW3)
        progress.advance(note="starts and finds the people of the golden frames")
    remove_kept_report(output)
    return DetectorReport(
        path=output,
        manifest=manifest,
        milliseconds=milliseconds,
        backend=trial.backend,
        warnings=find_warnings(manifest, milliseconds),
    )


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


def write_manifest(
    trial: Trial,
    sets: FrameSets,
    reference: Sequence[Detections],
    search: DetectorSearch,
    *,
    gate: DetectorGate,
    origin: DetectorOrigin,
) -> DetectorManifest:
    """Write the golden frames, then the manifest of all files that are there."""
    golden = choose_golden(sets.held_out_NHW3, reference)
    golden.write(trial.folder / GOLDEN_NAME)
    height, width = sets.held_out_NHW3.shape[1:3]
    manifest = DetectorManifest(
        files={path.name: describe_file(path) for path in sorted(trial.folder.iterdir())},
        input=FrameSpec(height=height, width=width),
        golden_min_agreement=golden_floors(trial, golden),
        agreement=search.agreement,
        quantisation=describe_search(search, gate),
        provenance=origin,
    )
    (trial.folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def write_report(folder: Path, search: DetectorSearch, gate: DetectorGate, origin: DetectorOrigin) -> None:
    """Write what INT8 costs and how it came about, into a folder that is being made."""
    figures = {
        "passed": search.passed,
        "checks": [check.figures for check in gate.checks(search.agreement)],
        "agreement": search.agreement.model_dump(),
        "quantisation": describe_search(search, gate).model_dump(mode="json"),
        "provenance": origin.model_dump(mode="json"),
    }
    (folder / REPORT_JSON).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def missed(agreement: Agreement, gate: DetectorGate, report: Path) -> ReidgeError:
    """Say by how much INT8 misses its gate."""
    failed = ", ".join(str(check) for check in gate.checks(agreement) if not check.passed)
    return ReidgeError(
        f"INT8 misses its gate on {agreement.frames} held-out frames with {agreement.boxes} people: {failed}. See "
        f"{report}. Give more frames of your own cameras, lower the gate with --gate, or accept the loss with --force."
    )


def describe_search(search: DetectorSearch, gate: DetectorGate) -> Quantisation:
    """How INT8 came about, for the manifest."""
    return Quantisation(
        method=search.method,
        candidates=dict(search.candidates),
        float_blocks=search.float_blocks,
        gate=gate.model_dump(),
        missed=tuple(str(check) for check in gate.checks(search.agreement) if not check.passed),
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


def find_warnings(manifest: DetectorManifest, milliseconds: dict[Precision, float]) -> tuple[str, ...]:
    """What a user should know before deploying."""
    warnings = []
    if manifest.quantisation.forced:
        failed = ", ".join(manifest.quantisation.missed)
        warnings.append(f"INT8 missed its gate and was written because of --force: {failed}.")
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
