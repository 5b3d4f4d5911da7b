"""The steps of an export, each of which writes its files into the bundle that is being made."""

# N = crops, H, W = input height and width, D = embedding

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx

from reidge.calibration.pairs import PairSimilarities, collect_pairs, sample_records
from reidge.calibration.ranges import METHODS, RangeMethod, observe, ranges_from
from reidge.calibration.snapshot import CALIBRATION_NAME, describe_calibration
from reidge.edge.backends import installed_backends, load_runner
from reidge.edge.bundle import GOLDEN_NAME, ONNX_NAMES, Accuracy, Parity, Precision
from reidge.edge.crops import read_image, resize_crops
from reidge.edge.errors import ReidgeError
from reidge.export.judge import LabelledSplit, RuntimeJudge, host_backend
from reidge.export.onnx import export_onnx
from reidge.export.parity import FLOAT_GATE, Gate, compare, cosines, embed_with
from reidge.export.quantize import placements
from reidge.export.report import Evidence, GraphFigures
from reidge.export.scales import SCALES_NAME, check_plausible, describe_scales, read_scales, write_scales
from reidge.export.sensitivity import Int8Search, search_int8
from reidge.train.extract import embed_crops

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.calibration.select import CropSets
    from reidge.edge.backends.presence import Backend
    from reidge.train.encoders.encoder import Encoder

GOLDEN_SIZE = 16
OBSERVE_BATCH = 8
"""Crops whose activations are in memory at once while ranges are measured."""
PLAUSIBLE_SIZE = 64
"""Calibration crops that given scales are held against."""
EMBED_BATCH = 64
SPEED_BATCH = 8
SPEED_ROUNDS = 5
THRESHOLD_TRACKLETS = 600
CROPS_PER_TRACKLET = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What an export may be told; see `export_bundle`."""

    calibration_size: int
    method: RangeMethod | Literal["auto"]
    false_match_rate: float
    separate_views: bool
    gate: Gate
    max_float_share: float
    scales: Path | None
    labels: Path | None
    force: bool
    seed: int
    threads: int | None


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
    weights_sha256: str
    split: LabelledSplit | None = None
    """Where labels were given."""

    def path(self, precision: Precision) -> Path:
        """Where the graph of that precision is."""
        return self.folder / ONNX_NAMES[precision]


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


def choose_ranges(job: Job, model: onnx.ModelProto) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Ranges by the way they were taken, and the largest magnitude of each activation on the calibration crops.

    Raises:
        InputError: The scales that were given are of another encoder, incomplete, or absurd.
    """
    options, crops_NHW3 = job.options, job.sets.calibration_NHW3
    given = None
    if options.scales is not None:
        given = read_scales(options.scales, model, weights_sha256=job.weights_sha256)
        crops_NHW3 = crops_NHW3[:PLAUSIBLE_SIZE]
    batches = (crops_NHW3[start : start + OBSERVE_BATCH] for start in range(0, len(crops_NHW3), OBSERVE_BATCH))
    histograms = observe(model, [place.tensor for place in placements(model)], batches, threads=options.threads)
    if options.scales is not None and given is not None:
        check_plausible(given.ranges, histograms, options.scales)
        largest = {name: given.activations[name].largest for name in histograms}
        return {given.method: {name: given.ranges[name] for name in histograms}}, largest
    methods = METHODS if options.method == "auto" else (options.method,)
    ranges = {str(name): ranges_from(histograms, name) for name in methods}
    return ranges, {name: histogram.largest for name, histogram in histograms.items()}


def score_float(job: Job) -> Accuracy | None:
    """Score the float graph on the labelled split; None without one."""
    return None if job.split is None else job.split.score(job.path("float"), "onnxruntime")


def write_int8(job: Job, model: onnx.ModelProto, float_accuracy: Accuracy | None) -> Int8Search:
    """Calibrate and write the INT8 graph, `scales.json` and `calibration.npz`, whether or not it passes the gate.

    Raises:
        InputError: The scales that were given are of another encoder, incomplete, or absurd.
    """
    choices, largest = choose_ranges(job, model)
    path = job.path("int8")
    judge = RuntimeJudge(
        crops_NHW3=job.sets.held_out_NHW3,
        reference_ND=job.reference_ND,
        path=path,
        gate=job.options.gate,
        threads=job.options.threads,
        split=job.split,
        float_accuracy=float_accuracy,
    )
    found = search_int8(model, choices, judge, max_float_share=job.options.max_float_share)
    onnx.save(found.model, path)
    scales = describe_scales(
        found.ranges,
        largest,
        weights_sha256=job.weights_sha256,
        method=found.method,
        float_blocks=found.float_blocks,
    )
    write_scales(job.folder / SCALES_NAME, scales)
    used = {place.tensor for place in placements(model) if place.block not in found.float_blocks}
    describe_calibration(
        job.folder / CALIBRATION_NAME,
        job.path("float"),
        job.sets.folder,
        {name: largest for name, largest in found.ranges.items() if name in used},
        size=job.encoder.input_size,
        resize=job.encoder.resize,
        weights_sha256=job.weights_sha256,
        seed=job.options.seed,
        threads=job.options.threads,
    )
    return found


def score_int8(job: Job, found: Int8Search) -> Accuracy | None:
    """Score the INT8 graph likewise, unless the search did."""
    if job.split is None or found.verdict.accuracy is not None:
        return found.verdict.accuracy
    return job.split.score(job.path("int8"), host_backend())


def measure_graphs(job: Job) -> tuple[GraphFigures, ...]:
    """Run both graphs on every backend here that needs no GPU."""
    return tuple(
        measure_graph(job, precision, backend) for precision in ONNX_NAMES for backend in installed_backends(gpu=False)
    )


def measure_graph(job: Job, precision: Precision, backend: Backend) -> GraphFigures:
    """Embed the held-out crops with one graph on one backend, and take the time of a batch."""
    crops_NHW3, path = job.sets.held_out_NHW3, job.path(precision)
    parity = compare(job.reference_ND, embed_with(path, crops_NHW3, backend=backend, threads=job.options.threads))
    runner = load_runner(path, backend, threads=job.options.threads)
    batch_NHW3 = crops_NHW3[np.resize(np.arange(len(crops_NHW3)), SPEED_BATCH)]
    seconds = []
    for _ in range(1 + SPEED_ROUNDS):
        started = time.perf_counter()
        runner.run(batch_NHW3)
        seconds.append(time.perf_counter() - started)
    runner.close()
    return GraphFigures(
        precision=precision,
        backend=backend,
        parity=parity,
        crops_per_second=SPEED_BATCH / float(np.median(seconds[1:])),  # the first one fills caches
        size=path.stat().st_size,
    )


def compare_tracklets(job: Job) -> dict[Precision, PairSimilarities]:
    """Embed some crops of many tracklets in both precisions, a batch at a time, and compare the tracklets."""
    folder = job.sets.folder
    chosen = sample_records(
        folder.records, max_tracklets=THRESHOLD_TRACKLETS, max_crops=CROPS_PER_TRACKLET, seed=job.options.seed
    )
    records = [folder.records[index] for index in chosen]
    runners = {
        precision: load_runner(job.path(precision), host_backend(), threads=job.options.threads)
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


def write_golden(job: Job) -> None:
    """Write golden crops, repeated where few are held out."""
    crops_NHW3, embeddings_ND = golden_crops(job)
    np.savez(job.folder / GOLDEN_NAME, crops=crops_NHW3, embeddings=embeddings_ND)


def golden_crops(job: Job) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Crops by which a device checks itself, and their embeddings by the trained encoder."""
    chosen = np.resize(np.arange(len(job.sets.held_out_NHW3)), GOLDEN_SIZE)
    return job.sets.held_out_NHW3[chosen], job.reference_ND[chosen]


def golden_cosine(job: Job) -> float:
    """Worst cosine of the INT8 graph on the golden crops, on the backends here that need no GPU."""
    crops_NHW3, embeddings_ND = golden_crops(job)
    found = (
        embed_with(job.path("int8"), crops_NHW3, backend=backend, threads=job.options.threads)
        for backend in installed_backends(gpu=False)
    )
    return min(float(cosines(embeddings_ND, found_ND).min()) for found_ND in found)


def evidence_of(job: Job, found: Int8Search, pairs: Mapping[Precision, PairSimilarities]) -> Evidence:
    """What the report shows beside the manifest's figures."""
    crops_NHW3 = job.sets.held_out_NHW3
    found_ND = embed_with(job.path("int8"), crops_NHW3, backend=host_backend(), threads=job.options.threads)
    return Evidence(
        crops_NHW3=crops_NHW3,
        cosines_N=cosines(job.reference_ND, found_ND),
        pairs=pairs["int8"],
        gate=job.options.gate,
        checks=found.verdict.checks,
        backend=host_backend(),
        costs=found.costs,
        no_room=found.no_room,
        graphs=measure_graphs(job),
    )
