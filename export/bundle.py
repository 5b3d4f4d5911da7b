"""Encoder + crops -> bundle: export, calibrate, check, and write a folder that appears whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from reidge.calibration.ranges import METHODS, RangeMethod
from reidge.calibration.select import read_crop_sets
from reidge.calibration.threshold import MIN_DIFFERENT_PAIRS, PairSimilarities, choose_threshold
from reidge.edge.backends import installed_backends, open_encoder
from reidge.edge.bundle import (
    MANIFEST_NAME,
    Bundle,
    FileEntry,
    InputSpec,
    Manifest,
    Parity,
    Precision,
    Provenance,
    Quantisation,
    describe_file,
)
from reidge.edge.errors import InputError
from reidge.edge.folder import require_free, whole_folder
from reidge.edge.progress import Progress
from reidge.export.parity import INT8_GATE, Gate
from reidge.export.provenance import describe_origin
from reidge.export.report import write_report
from reidge.export.steps import (
    ExportOptions,
    Job,
    compare_tracklets,
    embed_reference,
    evidence_of,
    write_float,
    write_golden,
    write_int8,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from reidge.export.sensitivity import Int8Search
    from reidge.train.encoders.encoder import Encoder

HELD_OUT_SIZE = 256
FEW_CROPS = 64
LOW_MATCH_RATE = 0.5
FLOAT_GOLDEN_MIN_COSINE = 0.99
"""On every golden crop; processors that compute in bfloat16 reach 0.998 on a deep, slim network."""
INT8_GOLDEN_MARGIN = 0.02
"""Below the worst golden cosine at export: processors without the same INT8 instructions round differently."""


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
        origin = describe_origin(encoder, sets, source=source, recipe=recipe, seed=seed)
        manifest = describe_bundle(job, origin, float_parity, int8, pairs, golden_cosine)
        warnings = find_warnings(manifest)
        write_report(folder, manifest, evidence_of(job, pairs), warnings)
        progress.advance(note="report written")
        manifest = manifest.model_copy(update={"files": describe_files(folder)})
        (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        check_starts(folder, threads)
        progress.advance(note="starts and reproduces the golden crops")
    return ExportReport(path=output, manifest=manifest, warnings=warnings)


def check_options(options: ExportOptions, output: Path) -> None:
    """Refuse what cannot work before any work is done.

    Raises:
        InputError: An option is out of range, or `output` is taken.
    """
    require_free(output)
    if options.calibration_size < 1:
        raise InputError(f"the calibration size must be at least 1, got {options.calibration_size}.")
    if not 0 < options.false_match_rate < 1:
        raise InputError(f"the false-match rate must be between 0 and 1, got {options.false_match_rate}.")
    if options.method not in ("auto", *METHODS):
        raise InputError(f"the range method {options.method!r} is unknown. Choose auto, {', '.join(METHODS)}.")


def describe_bundle(
    job: Job,
    origin: Provenance,
    float_parity: Parity,
    int8: Int8Search,
    pairs: Mapping[Precision, PairSimilarities],
    golden_cosine: float,
) -> Manifest:
    """Put together what the manifest says about the files that are there so far."""
    height, width = job.encoder.input_size
    rate = job.options.false_match_rate
    return Manifest(
        files=describe_files(job.folder),
        input=InputSpec(height=height, width=width, resize=job.encoder.resize),
        embedding_dim=job.encoder.embedding_dim,
        golden_min_cosine={"float": FLOAT_GOLDEN_MIN_COSINE, "int8": golden_cosine - INT8_GOLDEN_MARGIN},
        parity={"float": float_parity, "int8": int8.parity},
        threshold={precision: choose_threshold(found, false_match_rate=rate) for precision, found in pairs.items()},
        quantisation=Quantisation(
            method=int8.method,
            candidates=dict(int8.candidates),
            float_blocks=int8.float_blocks,
            forced=not int8.passed,
        ),
        provenance=origin,
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
