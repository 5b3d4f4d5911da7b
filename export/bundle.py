"""Encoder + crops -> bundle: export, calibrate, check, and write a folder that appears whole or not at all."""

# N = crops, H, W = input height and width, D = embedding

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx

from reidge.calibration.ranges import METHODS, Histogram, RangeMethod, observe
from reidge.calibration.select import CropSets, read_crop_sets
from reidge.calibration.threshold import (
    MIN_DIFFERENT_PAIRS,
    PairSimilarities,
    choose_threshold,
    collect_pairs,
    sample_records,
)
from reidge.edge.backends import Backend, installed_backends, load_runner, open_encoder
from reidge.edge.bundle import (
    GOLDEN_NAME,
    MANIFEST_NAME,
    ONNX_NAMES,
    Bundle,
    FileEntry,
    InputSpec,
    Manifest,
    Parity,
    Precision,
    Quantisation,
    describe_file,
)
from reidge.edge.crops import read_image, resize_crops
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.progress import Progress
from reidge.export.onnx import export_onnx
from reidge.export.parity import FLOAT_GATE, INT8_GATE, Gate, compare, cosines, embed_with
from reidge.export.provenance import describe_origin
from reidge.export.quantize import placements, scale_of
from reidge.export.report import Evidence, write_report
from reidge.export.sensitivity import Int8Search, search_int8
from reidge.train.extract import embed_crops

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.train.encoders.encoder import Encoder

SCALES_NAME = "scales.json"
HELD_OUT_SIZE = 256
FEW_CROPS = 64
GOLDEN_SIZE = 16
OBSERVE_BATCH = 8
"""Crops whose activations are in memory at once while ranges are measured."""
EMBED_BATCH = 64
THRESHOLD_TRACKLETS = 600
CROPS_PER_TRACKLET = 8
LOW_MATCH_RATE = 0.5
FLOAT_GOLDEN_MIN_COSINE = 0.99
"""bfloat16 processors reach 0.998 on deep, slim networks; a wrong colour order or scale stays far below."""
INT8_GOLDEN_MARGIN = 0.02
"""Below the worst golden cosine at export: processors without the same INT8 instructions round differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What an export may be told; see `export_bundle`."""

    calibration_size: int
    method: RangeMethod | Literal["auto"]
    false_match_rate: float
    separate_views: bool
    gate: Gate
    force: bool
    seed: int
    threads: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """A bundle that was written."""

    path: Path
    manifest: Manifest
    warnings: tuple[str, ...]

    @property
    def figures(self) -> dict[str, Any]:
        """What matters most, by name."""
        parity, threshold = self.manifest.parity, self.manifest.threshold
        quantisation = self.manifest.quantisation
        assert quantisation is not None
        return {
            "bundle": str(self.path),
            "embedding_dim": self.manifest.embedding_dim,
            "calibration_crops": self.manifest.provenance.calibration_crops,
            "held_out_crops": self.manifest.provenance.held_out_crops,
            "cosine_float_mean": parity["float"].cosine_mean,
            "cosine_int8_mean": parity["int8"].cosine_mean,
            "cosine_int8_p1": parity["int8"].cosine_p1,
            "neighbour_overlap_int8": parity["int8"].neighbour_overlap,
            "range_method": quantisation.method,
            "float_blocks": list(quantisation.float_blocks),
            "forced": quantisation.forced,
            "min_similarity_float": threshold["float"].min_similarity,
            "min_similarity_int8": threshold["int8"].min_similarity,
            "threshold_method": threshold["int8"].method,
            "same_match_rate_int8": threshold["int8"].same_match_rate,
        }


def export_bundle(
    encoder: Encoder,
    crops: Path,
    output: Path,
    *,
    source: str = "unknown",
    recipe: Mapping[str, Any] | None = None,
    calibration_size: int = 512,
    method: RangeMethod | Literal["auto"] = "auto",
    false_match_rate: float = 0.01,
    separate_views: bool = False,
    gate: Gate = INT8_GATE,
    force: bool = False,
    seed: int = 0,
    threads: int | None = None,
) -> ExportReport:
    """Export a trained encoder to a bundle.

    Args:
        encoder: On any device; it is left as it was.
        crops: Crop folder to calibrate, check and find the match threshold on.
        output: The bundle; must not exist or be an empty folder.
        source: Name of the run folder or weights file, for the manifest.
        recipe: Everything that shaped the training run, for the manifest.
        calibration_size: Most crops to take activation ranges from.
        method: How ranges are taken; `auto` chooses by cosine on held-out crops.
        false_match_rate: Share of pairs of different people allowed to match.
        separate_views: Cameras never see the same spot; see `calibrate_threshold`.
        gate: What the INT8 graph must reach on held-out crops.
        force: Write the bundle although the INT8 graph misses the gate.
        seed: Of the choice of crops.
        threads: Processor threads of the runtimes; None takes all cores.

    Raises:
        InputError: The crop folder, a crop or an option is unusable, or `output` is taken.
        ReidgeError: The float graph differs from the encoder, or the INT8 graph misses its gate without `force`.
    """
    options = ExportOptions(
        calibration_size=calibration_size,
        method=method,
        false_match_rate=false_match_rate,
        separate_views=separate_views,
        gate=gate,
        force=force,
        seed=seed,
        threads=threads,
    )
    check_options(options, output)
    sets = read_crop_sets(
        crops,
        size=encoder.input_size,
        resize=encoder.resize,
        calibration_size=calibration_size,
        held_out_size=HELD_OUT_SIZE,
        seed=seed,
    )
    with whole_folder(output) as folder, Progress("export", total=5, unit="steps") as progress:
        job = Job(
            encoder=encoder,
            sets=sets,
            reference_ND=embed_reference(encoder, sets),
            folder=folder,
            options=options,
        )
        model, float_parity = write_float(job)
        progress.advance(note="the float graph equals the encoder")
        int8 = write_int8(job, model)
        progress.advance(note=f"INT8 cosine {int8.parity.cosine_mean:.4f}")
        pairs = compare_tracklets(job)
        progress.advance(note="tracklets compared")
        golden_cosine = write_golden(job)
        manifest = Manifest(
            files=describe_files(folder),
            input=InputSpec(height=encoder.input_size[0], width=encoder.input_size[1], resize=encoder.resize),
            embedding_dim=encoder.embedding_dim,
            golden_min_cosine={"float": FLOAT_GOLDEN_MIN_COSINE, "int8": golden_cosine - INT8_GOLDEN_MARGIN},
            parity={"float": float_parity, "int8": int8.parity},
            threshold={
                precision: choose_threshold(found, false_match_rate=false_match_rate)
                for precision, found in pairs.items()
            },
            quantisation=describe_quantisation(int8),
            provenance=describe_origin(encoder, sets, source=source, recipe=recipe, seed=seed),
        )
        warnings = find_warnings(manifest)
        write_report(folder, manifest, evidence_of(job, pairs), warnings)
        progress.advance(note="report written")
        manifest = manifest.model_copy(update={"files": describe_files(folder)})
        (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        check_starts(folder, threads)
        progress.advance(note="starts and reproduces the golden crops")
    return ExportReport(path=output, manifest=manifest, warnings=warnings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every step of an export works on."""

    encoder: Encoder
    sets: CropSets
    reference_ND: NDArray[np.float32]
    """Embeddings of the held-out crops by the trained encoder."""
    folder: Path
    """Where the bundle is being written; it takes its final name at the end."""
    options: ExportOptions

    def path(self, precision: Precision) -> Path:
        """Where the graph of that precision is."""
        return self.folder / ONNX_NAMES[precision]


def check_options(options: ExportOptions, output: Path) -> None:
    """Refuse what cannot work before any work is done.

    Raises:
        InputError: An option is out of range, or `output` is taken.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} already exists and is not an empty folder. Choose another output or remove it.")
    if options.calibration_size < 1:
        raise InputError(f"the calibration size must be at least 1, got {options.calibration_size}.")
    if not 0 < options.false_match_rate < 1:
        raise InputError(f"the false-match rate must be between 0 and 1, got {options.false_match_rate}.")
    if options.method not in ("auto", *METHODS):
        raise InputError(f"the range method {options.method!r} is unknown. Choose auto, {', '.join(METHODS)}.")


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a sibling folder to write to, which takes the name `target` when all went well and vanishes otherwise."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            target.rmdir()
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def embed_reference(encoder: Encoder, sets: CropSets) -> NDArray[np.float32]:
    """Embed the held-out crops with the trained encoder.

    Raises:
        ReidgeError: Its embeddings are not finite.
    """
    embeddings_ND = embed_crops(encoder, sets.held_out_NHW3)
    if not np.isfinite(embeddings_ND).all():
        raise ReidgeError(f"{encoder.architecture} gives embeddings that are not finite. Train it again.")
    return embeddings_ND


def write_float(job: Job) -> tuple[onnx.ModelProto, Parity]:
    """Write the float graph and hold it against the encoder.

    Raises:
        ReidgeError: They differ, which is a fault of the export and never acceptable.
    """
    path = job.path("float")
    model = export_onnx(job.encoder, path)
    found_ND = embed_with(path, job.sets.held_out_NHW3, backend="onnxruntime", threads=job.options.threads)
    parity = compare(job.reference_ND, found_ND)
    if not FLOAT_GATE.passes(parity):
        raise ReidgeError(
            f"the float graph differs from the encoder: mean cosine {parity.cosine_mean:.5f}, first percentile "
            f"{parity.cosine_p1:.5f}, at least {FLOAT_GATE.min_cosine_p1} is needed. Report this as a bug."
        )
    return model, parity


def write_int8(job: Job, model: onnx.ModelProto) -> Int8Search:
    """Calibrate and write the INT8 graph and `scales.json`.

    Raises:
        ReidgeError: The graph misses its gate and `force` is off.
    """
    crops_NHW3, threads, gate = job.sets.calibration_NHW3, job.options.threads, job.options.gate
    batches = (crops_NHW3[start : start + OBSERVE_BATCH] for start in range(0, len(crops_NHW3), OBSERVE_BATCH))
    histograms = observe(model, [place.tensor for place in placements(model)], batches, threads=threads)
    path = job.path("int8")

    def evaluate(candidate: onnx.ModelProto) -> Parity:
        onnx.save(candidate, path)
        found_ND = embed_with(path, job.sets.held_out_NHW3, backend=int8_backend(), threads=threads)
        return compare(job.reference_ND, found_ND)

    found = search_int8(model, histograms, evaluate, method=job.options.method, gate=gate)
    if not found.passed and not job.options.force:
        raise ReidgeError(
            f"the INT8 graph misses its gate on {found.parity.crops} held-out crops: mean cosine "
            f"{found.parity.cosine_mean:.4f} (at least {gate.min_cosine_mean}), first percentile "
            f"{found.parity.cosine_p1:.4f} (at least {gate.min_cosine_p1}), with {len(found.float_blocks)} blocks "
            "in float. Give more calibration crops from your own cameras, or accept the loss with --force."
        )
    onnx.save(found.model, path)
    used = [place.tensor for place in placements(model) if place.block not in found.float_blocks]
    write_scales(job.folder / SCALES_NAME, found, {name: histograms[name] for name in used})
    return found


def write_scales(path: Path, found: Int8Search, histograms: Mapping[str, Histogram]) -> None:
    """Write the range of each activation in INT8, beside the largest magnitude that was seen."""
    activations = {
        name: {
            "range": found.ranges[name],
            "scale": scale_of(name, found.ranges),
            "largest": histogram.largest,
        }
        for name, histogram in histograms.items()
    }
    content = {"method": found.method, "float_blocks": list(found.float_blocks), "activations": activations}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def compare_tracklets(job: Job) -> dict[Precision, PairSimilarities]:
    """Embed some crops of many tracklets in both precisions, a batch at a time, and compare the tracklets."""
    folder = job.sets.folder
    chosen = sample_records(
        folder.records, max_tracklets=THRESHOLD_TRACKLETS, max_crops=CROPS_PER_TRACKLET, seed=job.options.seed
    )
    records = [folder.records[index] for index in chosen]
    runners = {
        precision: load_runner(job.path(precision), int8_backend(), threads=job.options.threads)
        for precision in ONNX_NAMES
    }
    parts: dict[Precision, list[NDArray[np.float32]]] = {precision: [] for precision in ONNX_NAMES}
    for start in range(0, len(records), EMBED_BATCH):
        images = (read_image(folder.root / record.path) for record in records[start : start + EMBED_BATCH])
        crops_NHW3 = resize_crops(images, size=job.encoder.input_size, method=job.encoder.resize)
        for precision, runner in runners.items():
            parts[precision].append(runner.run(crops_NHW3))
    for runner in runners.values():
        runner.close()
    return {
        precision: collect_pairs(np.concatenate(part), records, separate_views=job.options.separate_views)
        for precision, part in parts.items()
    }


def write_golden(job: Job) -> float:
    """Write golden crops, repeated where few are held out, and return the worst INT8 cosine on them."""
    held_out_NHW3 = job.sets.held_out_NHW3
    chosen = np.resize(np.arange(len(held_out_NHW3)), GOLDEN_SIZE)
    np.savez(job.folder / GOLDEN_NAME, crops=held_out_NHW3[chosen], embeddings=job.reference_ND[chosen])
    return float(cosines(job.reference_ND[chosen], embed_int8(job, held_out_NHW3[chosen])).min())


def embed_int8(job: Job, crops_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embed with the INT8 graph as this machine's edge would."""
    return embed_with(job.path("int8"), crops_NHW3, backend=int8_backend(), threads=job.options.threads)


def int8_backend() -> Backend:
    """The backend that an edge would choose here."""
    return installed_backends()[0]


def describe_quantisation(found: Int8Search) -> Quantisation:
    """What the manifest says about the search."""
    return Quantisation(
        method=found.method,
        candidates=dict(found.candidates),
        float_blocks=found.float_blocks,
        forced=not found.passed,
    )


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """Hash and size of every file of a bundle but the manifest."""
    return {path.name: describe_file(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST_NAME}


def find_warnings(manifest: Manifest) -> tuple[str, ...]:
    """What the user should know although the bundle works, one line each."""
    warnings = []
    crops, int8, threshold = manifest.provenance.calibration_crops, manifest.parity["int8"], manifest.threshold["int8"]
    if crops < FEW_CROPS:
        warnings.append(f"only {crops} calibration crops, better {FEW_CROPS} or more: harvest more footage.")
    if manifest.quantisation is not None and manifest.quantisation.forced:
        warnings.append(f"the INT8 graph misses its gate: cosine {int8.cosine_mean:.4f}, p1 {int8.cosine_p1:.4f}.")
    if threshold.min_similarity is None or threshold.different_pairs < MIN_DIFFERENT_PAIRS:
        warnings.append(f"the match threshold is no measurement: {threshold.method}.")
    if threshold.same_match_rate is not None and threshold.same_match_rate < LOW_MATCH_RATE:
        warnings.append(
            f"only {threshold.same_match_rate:.0%} of same-person pairs reach the match threshold: the encoder hardly "
            "tells people apart. Train longer or on more footage."
        )
    return tuple(warnings)


def check_starts(folder: Path, threads: int | None) -> None:
    """Start the bundle as the edge would, on every backend here, so that it never leaves this machine broken."""
    bundle = Bundle.load(folder)
    for backend in installed_backends():
        for precision in bundle.manifest.precisions:
            with open_encoder(bundle, backend, precision, threads):
                pass


def evidence_of(job: Job, pairs: Mapping[Precision, PairSimilarities]) -> Evidence:
    """What the report shows beside the manifest's figures."""
    crops_NHW3 = job.sets.held_out_NHW3
    return Evidence(
        crops_NHW3=crops_NHW3,
        cosines_N=cosines(job.reference_ND, embed_int8(job, crops_NHW3)),
        pairs=pairs["int8"],
        gate=job.options.gate,
    )
