"""The steps of an export, each of which writes its files into the bundle that is being made."""

# N = crops, H, W = input height and width, D = embedding

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx

from reidge.calibration.ranges import Histogram, RangeMethod, observe
from reidge.calibration.threshold import PairSimilarities, collect_pairs, sample_records
from reidge.edge.backends import Backend, installed_backends, load_runner
from reidge.edge.bundle import GOLDEN_NAME, ONNX_NAMES, Parity, Precision
from reidge.edge.crops import read_image, resize_crops
from reidge.edge.errors import ReidgeError
from reidge.export.onnx import export_onnx
from reidge.export.parity import FLOAT_GATE, Gate, compare, cosines, embed_with
from reidge.export.quantize import placements, scale_of
from reidge.export.report import Evidence
from reidge.export.sensitivity import Int8Search, search_int8
from reidge.train.extract import embed_crops

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.calibration.select import CropSets
    from reidge.train.encoders.encoder import Encoder

SCALES_NAME = "scales.json"
GOLDEN_SIZE = 16
OBSERVE_BATCH = 8
"""Crops whose activations are in memory at once while ranges are measured."""
EMBED_BATCH = 64
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
        found_ND = embed_with(path, job.sets.held_out_NHW3, backend=edge_backend(), threads=threads)
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
        precision: load_runner(job.path(precision), edge_backend(), threads=job.options.threads)
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
    """Write golden crops, repeated where few are held out; return their worst INT8 cosine on the backends here."""
    held_out_NHW3 = job.sets.held_out_NHW3
    chosen = np.resize(np.arange(len(held_out_NHW3)), GOLDEN_SIZE)
    crops_NHW3, embeddings_ND = held_out_NHW3[chosen], job.reference_ND[chosen]
    np.savez(job.folder / GOLDEN_NAME, crops=crops_NHW3, embeddings=embeddings_ND)
    found = (
        embed_with(job.path("int8"), crops_NHW3, backend=backend, threads=job.options.threads)
        for backend in installed_backends()
    )
    return min(float(cosines(embeddings_ND, found_ND).min()) for found_ND in found)


def edge_backend() -> Backend:
    """The backend that an edge would choose here."""
    return installed_backends()[0]


def evidence_of(job: Job, pairs: Mapping[Precision, PairSimilarities]) -> Evidence:
    """What the report shows beside the manifest's figures."""
    crops_NHW3 = job.sets.held_out_NHW3
    found_ND = embed_with(job.path("int8"), crops_NHW3, backend=edge_backend(), threads=job.options.threads)
    return Evidence(
        crops_NHW3=crops_NHW3,
        cosines_N=cosines(job.reference_ND, found_ND),
        pairs=pairs["int8"],
        gate=job.options.gate,
    )
