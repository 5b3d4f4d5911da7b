"""Encoder + crops -> bundle: export, calibrate, check, and write a folder that appears whole or not at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from reidge.calibration.ranges import METHODS, RangeMethod
from reidge.calibration.select import read_crop_sets, weaknesses
from reidge.calibration.threshold import FALSE_MATCH_RATE, MIN_DIFFERENT_PAIRS, choose_threshold
from reidge.edge.backends import installed_backends, open_encoder
from reidge.edge.bundle import (
    MANIFEST_NAME,
    Bundle,
    Coverage,
    FileEntry,
    InputSpec,
    Manifest,
    Precision,
    Provenance,
    Quantisation,
    ThresholdReport,
    describe_file,
)
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.folder import require_free, whole_folder
from reidge.edge.progress import Progress
from reidge.export.judge import LabelledSplit
from reidge.export.kept import keep_report, remove_kept_report
from reidge.export.parity import INT8_GATE, Gate
from reidge.export.provenance import describe_origin, hash_weights, with_scales
from reidge.export.report import write_report
from reidge.export.scales import scales_file
from reidge.export.sensitivity import MAX_FLOAT_SHARE, Int8Search
from reidge.export.steps import (
    ExportOptions,
    Job,
    compare_tracklets,
    embed_reference,
    evidence_of,
    golden_cosine,
    score_float,
    score_int8,
    write_float,
    write_golden,
    write_int8,
)
from reidge.train.datasets import open_benchmark
from reidge.train.extract import embed_crops

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from reidge.calibration.pairs import PairSimilarities
    from reidge.train.encoders.encoder import Encoder

HELD_OUT_SIZE = 256
LOW_MATCH_RATE = 0.5
LABEL_LIMITS = {"max_map_loss", "max_rank1_loss"}
"""Of the gate."""
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
            "float_share": quantisation.float_share,
            **{
                f"{name}_{precision}": getattr(accuracy, field)
                for precision, accuracy in self.manifest.accuracy.items()
                for name, field in (("map", "mAP"), ("rank1", "rank1"))
            },
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
    false_match_rate: float = FALSE_MATCH_RATE,
    separate_views: bool = False,
    gate: Gate = INT8_GATE,
    max_float_share: float = MAX_FLOAT_SHARE,
    scales: Path | None = None,
    labels: Path | None = None,
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
        max_float_share: Most of the multiply-adds that may stay in float to reach it.
        scales: `scales.json` of an earlier export of this very encoder, or its bundle, to take in place of calibrating.
        labels: Labelled data set, on which the gate is held too.
        force: Write the bundle although the INT8 graph misses the gate.
        seed: Of the choice of crops.
        threads: Processor threads of the runtimes; None takes all cores.

    Raises:
        InputError: The crop folder, a crop or an option is unusable, or `output` is taken.
        ReidgeError: The float graph differs from the encoder, or the INT8 graph misses its gate without `force`; then
            the report stays in `kept_report(output)`.
    """
    options = ExportOptions(
        calibration_size=calibration_size,
        method=method,
        false_match_rate=false_match_rate,
        separate_views=separate_views,
        gate=gate,
        max_float_share=max_float_share,
        scales=scales,
        labels=labels,
        force=force,
        seed=seed,
        threads=threads,
    )
    check_options(options, output)
    split = read_split(encoder, options)
    sets = read_crop_sets(
        crops,
        size=encoder.input_size,
        resize=encoder.resize,
        calibration_size=calibration_size,
        held_out_size=HELD_OUT_SIZE,
        seed=seed,
        embed=partial(embed_crops, encoder),
    )
    with whole_folder(output) as folder, Progress("export", total=5, unit="steps") as progress:
        job = Job(
            encoder=encoder,
            sets=sets,
            reference_ND=embed_reference(encoder, sets),
            folder=folder,
            options=options,
            weights_sha256=hash_weights(encoder),
            split=split,
        )
        report = fill_bundle(
            job, output, describe_origin(encoder, sets, source=source, recipe=recipe, seed=seed), progress
        )
    remove_kept_report(output)
    return report


def fill_bundle(job: Job, output: Path, origin: Provenance, progress: Progress) -> ExportReport:
    """Write every file of the bundle that is being made, the manifest last.

    Raises:
        ReidgeError: The float graph differs from the encoder, or the INT8 graph misses its gate without `force`.
    """
    model, float_parity = write_float(job)
    progress.advance(note="the float graph equals the encoder")
    float_accuracy = score_float(job)
    int8 = write_int8(job, model, float_accuracy)
    progress.advance(note=f"INT8 cosine {int8.verdict.parity.cosine_mean:.4f}")
    pairs = compare_tracklets(job)
    progress.advance(note="tracklets compared")
    write_golden(job)
    accuracies = {"float": float_accuracy, "int8": score_int8(job, int8)}
    manifest = Manifest(
        files=describe_files(job.folder),
        input=InputSpec(height=job.encoder.input_size[0], width=job.encoder.input_size[1], resize=job.encoder.resize),
        embedding_dim=job.encoder.embedding_dim,
        golden_min_cosine={"float": FLOAT_GOLDEN_MIN_COSINE, "int8": golden_cosine(job) - INT8_GOLDEN_MARGIN},
        parity={"float": float_parity, "int8": int8.verdict.parity},
        accuracy={precision: found for precision, found in accuracies.items() if found is not None},
        threshold=choose_thresholds(job, pairs),
        quantisation=describe_quantisation(job, int8),
        provenance=origin if job.options.scales is None else with_scales(origin, scales_file(job.options.scales)),
    )
    warnings = find_warnings(manifest, job.sets.coverage)
    write_report(job.folder, manifest, evidence_of(job, int8, pairs), warnings)
    progress.advance(note="report written")
    if not int8.verdict.passed and not job.options.force:
        raise ReidgeError(
            f"the INT8 graph misses its gate on {int8.verdict.parity.crops} held-out crops: "
            f"{', '.join(int8.verdict.missed)}, with {int8.float_share:.0%} of the multiply-adds in float. See "
            f"{keep_report(job.folder, output)}. Give more crops of your own cameras or a larger --max-float-share, or "
            f"accept the loss with --force.{suspicion(job)}"
        )
    manifest = manifest.model_copy(update={"files": describe_files(job.folder)})
    (job.folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    check_starts(job.folder, job.options.threads)
    progress.advance(note="starts and reproduces the golden crops")
    return ExportReport(path=output, manifest=manifest, warnings=warnings)


def read_split(encoder: Encoder, options: ExportOptions) -> LabelledSplit | None:
    """Find the labelled data set that the gate shall be held on; None where none was named.

    Raises:
        InputError: The folder is of no known layout.
    """
    if options.labels is None:
        return None
    return LabelledSplit(
        benchmark=open_benchmark(options.labels),
        resize=encoder.resize,
        size=encoder.input_size,
        threads=options.threads,
    )


def check_options(options: ExportOptions, output: Path) -> None:
    """Refuse what cannot work before any work is done.

    Raises:
        InputError: An option is out of range, or `output` is taken.
    """
    require_free(output)
    if options.calibration_size < 1:
        raise InputError(f"the calibration size must be at least 1, got {options.calibration_size}.")
    if options.seed < 0:
        raise InputError(f"the seed must be 0 or more, got {options.seed}.")
    if not 0 < options.false_match_rate < 1:
        raise InputError(f"the false-match rate must be between 0 and 1, got {options.false_match_rate}.")
    if not 0 <= options.max_float_share <= 1:
        raise InputError(f"the largest share in float must be between 0 and 1, got {options.max_float_share}.")
    if options.labels is None and LABEL_LIMITS & options.gate.model_fields_set:
        raise InputError("the gate asks for a loss of mAP or rank-1, which only labels show. Give --labels too.")
    if options.scales is not None and options.method != "auto":
        raise InputError(
            "the scales that are given were taken in one way already. Give --scales or --method, not both."
        )
    if options.method not in ("auto", *METHODS):
        raise InputError(f"the range method {options.method!r} is unknown. Choose auto, {', '.join(METHODS)}.")


def choose_thresholds(job: Job, pairs: Mapping[Precision, PairSimilarities]) -> dict[Precision, ThresholdReport]:
    """The match threshold of each precision."""
    rate, seed = job.options.false_match_rate, job.options.seed
    return {precision: choose_threshold(found, false_match_rate=rate, seed=seed) for precision, found in pairs.items()}


def describe_quantisation(job: Job, int8: Int8Search) -> Quantisation:
    """What the manifest says about how the INT8 graph came about."""
    return Quantisation(
        method=int8.method,
        candidates=dict(int8.candidates),
        float_blocks=int8.float_blocks,
        float_share=int8.float_share,
        gate=job.options.gate.model_dump(),
        missed=int8.verdict.missed,
        forced=not int8.verdict.passed,
    )


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """Hash and size of every file of a bundle but the manifest."""
    return {path.name: describe_file(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST_NAME}


def find_warnings(manifest: Manifest, coverage: Coverage) -> tuple[str, ...]:
    """What the user should know although the bundle works, one line each."""
    warnings = list(weaknesses(coverage, held_out=manifest.provenance.held_out_crops))
    threshold, quantisation = manifest.threshold["int8"], manifest.quantisation
    if quantisation is not None and quantisation.missed:
        warnings.append(f"the INT8 graph misses its gate: {', '.join(quantisation.missed)}.")
    warnings += weigh_queries(manifest)
    if threshold.min_similarity is None or threshold.different_pairs < MIN_DIFFERENT_PAIRS:
        warnings.append(f"the match threshold is no measurement: {threshold.method}.")
    if threshold.same_match_rate is not None and threshold.same_match_rate < LOW_MATCH_RATE:
        warnings.append(
            f"only {threshold.same_match_rate:.0%} of same-person pairs reach the match threshold: the encoder hardly "
            "tells people apart. Train longer or on more footage."
        )
    return tuple(warnings)


def weigh_queries(manifest: Manifest) -> Iterator[str]:
    """Whether a single query of the labelled split decides over the gate."""
    if manifest.quantisation is None or "float" not in manifest.accuracy:
        return
    queries, gate = manifest.accuracy["float"].queries, manifest.quantisation.gate
    allowed = min(gate["max_map_loss"], gate["max_rank1_loss"])
    if 0 < allowed < 1 / queries:
        yield (
            f"one query of {queries} is {1 / queries:.4f} of rank-1, and the gate allows a loss of {allowed:g}: a "
            f"single one decides. Give labels with {math.ceil(1 / allowed)} queries or more, or allow more."
        )


def suspicion(job: Job) -> str:
    """What of the crops may have made the gate fail, to be said behind the failure; empty for nothing."""
    found = weaknesses(job.sets.coverage, held_out=len(job.sets.held_out_NHW3))
    return f" What may be the cause: {' '.join(found)}" if found else ""


def check_starts(folder: Path, threads: int | None) -> None:
    """Start the bundle as the edge would, on every backend that needs no GPU, so that it never leaves here broken."""
    bundle = Bundle.load(folder)
    for backend in installed_backends(gpu=False):
        for precision in bundle.manifest.precisions:
            with open_encoder(bundle, backend, precision, threads):
                pass
