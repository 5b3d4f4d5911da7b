"""Whether a running site is still the one that a bundle was calibrated on, and if not, what has changed.

Four things are looked at, without labels: whether the crops look different to the encoder, whether activations leave
the range that INT8 has for them, whether INT8 is still near float, and whether the match threshold still keeps
different people apart.
"""

# N = crops, D = embedding

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, Field

from reidge.calibration.appearance import NOVEL_QUANTILE, Appearance, compare_appearance
from reidge.calibration.pairs import collect_pairs, sample_records
from reidge.calibration.select import leave_out_unreadable
from reidge.calibration.snapshot import CALIBRATION_NAME, draw, read_batches, read_snapshot, take_snapshot
from reidge.calibration.threshold import Rates, judge_rates
from reidge.edge.backends import open_encoder
from reidge.edge.bundle import Bundle, ThresholdReport
from reidge.edge.crops import read_crop_folder
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.calibration.pairs import PairSimilarities
    from reidge.calibration.snapshot import Snapshot
    from reidge.edge.bundle import Manifest, Precision
    from reidge.edge.crops import CropFolder

Verdict = Literal["fine", "look", "recalibrate"]
SEVERITY: dict[Verdict, int] = {"fine": 0, "look": 1, "recalibrate": 2}
THRESHOLD_TRACKLETS = 300
"""Fewer than the export compares: this runs every day."""
EMBED_BATCH = 64


class DriftLimits(BaseModel, frozen=True, extra="forbid"):
    """From where on something is worth a look, and from where on the bundle should be calibrated again."""

    max_p_value: float = Field(0.01, gt=0, lt=1)
    """Chance of such a difference where nothing has changed, below which a difference of looks counts."""
    look_inhomogeneity: float = Field(0.02, gt=0, lt=1)
    """Energy distance from the calibration, as a share of the mean distance between then and now."""
    recalibrate_inhomogeneity: float = Field(0.08, gt=0, lt=1)
    look_novel_share: float = Field(0.3, gt=0, lt=1)
    """Of crops that resemble no calibration crop, however likely that is by chance."""
    recalibrate_novel_share: float = Field(0.6, gt=0, lt=1)
    max_saturation_ratio: float = Field(10.0, gt=1)
    """Of the share of values beyond the range, now to then."""
    min_saturation: float = Field(0.001, gt=0, lt=1)
    """A smaller share of an activation's values is harmless whatever it was."""
    look_cosine_loss: float = Field(0.003, gt=0)
    """Of the mean cosine of INT8 and float, from what it was at the export."""
    recalibrate_cosine_loss: float = Field(0.01, gt=0)
    false_match_ratio: float = Field(2.0, ge=1)
    """Of the low end of the share of different people that match, to the share that was wanted."""
    same_match_loss: float = Field(0.1, gt=0, lt=1)
    """Of the share of people that match themselves."""
    min_crops: int = Field(64, ge=1)
    min_tracklets: int = Field(16, ge=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """How much of an activation is beyond its range."""

    activation: str
    then: float
    """Share of its values."""
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that has changed."""

    level: Verdict
    reason: str
    """In plain words, with figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """What has changed since the calibration."""

    verdict: Verdict
    reasons: tuple[str, ...]
    crops_then: int
    crops_now: int
    tracklets_now: int
    enough: bool
    """Whether these are enough to go by."""
    appearance: Appearance
    saturation: tuple[Saturation, ...]
    """Of every activation in INT8, the one that gained most first."""
    precision: Precision
    """Of what follows: INT8 where the bundle has it."""
    cosine_then: float | None
    """Mean cosine with the float embeddings, on held-out crops at the export."""
    cosine_now: float
    """A crop whose embedding is not finite counts as 0."""
    pairs_now: int
    """Pairs of tracklets in view at the same time."""
    rates_now: Rates | None
    """What the bundle's threshold lets pass today; None where it has none."""


def find_drift(
    bundle: Bundle,
    crops: Path,
    *,
    limits: DriftLimits | None = None,
    separate_views: bool = False,
    seed: int = 0,
    threads: int | None = None,
) -> DriftReport:
    """Compare crops of a running site with those that a bundle was calibrated on.

    Args:
        bundle: As it runs at the site.
        crops: Crop folder of the site today.
        limits: When to be alarmed.
        separate_views: Cameras never see the same spot; see `calibrate_threshold`.
        seed: Of the crops that are looked at, and of permutations and resamples.
        threads: Processor threads of the runtimes; None takes all cores.

    Raises:
        InputError: The crop folder or the seed is unusable, or the bundle's calibration is missing or of other weights.
    """
    if seed < 0:
        raise InputError(f"the seed must be 0 or more, got {seed}.")
    manifest = bundle.manifest
    then = read_snapshot(bundle.path / CALIBRATION_NAME, weights_sha256=manifest.provenance.weights_sha256)
    folder = leave_out_unreadable(read_crop_folder(crops))
    size, resize = manifest.input.size, manifest.input.resize
    graph = bundle.onnx_path("float")
    now = take_snapshot(graph, folder, then.ranges, size=size, resize=resize, seed=seed, threads=threads)
    precision: Precision = "int8" if "int8" in manifest.precisions else "float"
    threshold = manifest.threshold.get(precision, ThresholdReport())
    found_ND, pairs, broken = run_as_deployed(
        bundle, precision, folder, separate_views=separate_views, seed=seed, threads=threads
    )
    least = threshold.min_similarity
    rates = None if least is None else judge_rates(pairs, least, seed=seed)
    appearance = compare_appearance(then, now, min_similarity=least, seed=seed)
    saturation = compare_saturation(then, now)
    parity = manifest.parity.get(precision)
    cosine_then = None if parity is None else parity.cosine_mean
    cosine_now = float(np.einsum("nd,nd->n", found_ND, now.embeddings_ND, dtype=np.float64).mean())
    limits = limits or DriftLimits()
    too_few = tuple(judge_numbers(now, limits))
    findings = [
        *too_few,
        *judge_cameras(then, now),
        *judge_finite(broken, precision),
        *judge_appearance(appearance, limits),
        *judge_int8(cosine_then, cosine_now, saturation, limits, gate=gate_of(manifest)),
        *judge_threshold(threshold, rates, limits),
    ]
    return DriftReport(
        verdict=max((finding.level for finding in findings), key=SEVERITY.__getitem__, default="fine"),
        reasons=tuple(finding.reason for finding in findings),
        crops_then=len(then.embeddings_ND),
        crops_now=len(now.embeddings_ND),
        tracklets_now=len(np.unique(now.tracklets_N)),
        enough=not too_few,
        appearance=appearance,
        saturation=saturation,
        precision=precision,
        cosine_then=cosine_then,
        cosine_now=cosine_now,
        pairs_now=len(pairs.different_P),
        rates_now=rates,
    )


def run_as_deployed(
    bundle: Bundle, precision: Precision, folder: CropFolder, *, separate_views: bool, seed: int, threads: int | None
) -> tuple[NDArray[np.float32], PairSimilarities, float]:
    """The embeddings of the snapshot's crops, and pairs of tracklets, by the graph that runs at the site.

    Embeddings that are not finite are given as 0, near to nobody; the last value is their share.
    """
    paired = sample_records(folder.records, max_tracklets=THRESHOLD_TRACKLETS, seed=seed)
    size, resize = bundle.manifest.input.size, bundle.manifest.input.resize
    with open_encoder(bundle, precision=precision, threads=threads) as encoder:

        def embed(indices: Sequence[int]) -> NDArray[np.float32]:
            records = [folder.records[index] for index in indices]
            batches = read_batches(folder, records, size=size, resize=resize, batch_size=EMBED_BATCH)
            return np.concatenate([encoder.embed(batch) for batch in batches])

        found_ND, paired_ND = embed(draw(folder.records, seed)), embed(paired)
    broken = [~np.isfinite(part_ND).all(axis=1) for part_ND in (found_ND, paired_ND)]
    found_ND[broken[0]], paired_ND[broken[1]] = 0, 0
    pairs = collect_pairs(paired_ND, [folder.records[at] for at in paired], separate_views=separate_views)
    return found_ND, pairs, float(np.concatenate(broken).mean())


def compare_saturation(then: Snapshot, now: Snapshot) -> tuple[Saturation, ...]:
    """Of every activation, the one that gained most first."""
    found = [Saturation(activation=name, then=then.saturation[name], now=now.saturation[name]) for name in then.ranges]
    return tuple(sorted(found, key=lambda one: one.then - one.now))


def judge_numbers(now: Snapshot, limits: DriftLimits) -> Iterator[Finding]:
    """Whether there is enough to go by."""
    counts = (
        ("crops", len(now.embeddings_ND), limits.min_crops),
        ("tracklets", len(np.unique(now.tracklets_N)), limits.min_tracklets),
    )
    if short := [f"{name} {count}, better {least} or more" for name, count, least in counts if count < least]:
        yield Finding(
            level="look", reason=f"little to go by: {'; '.join(short)}. Harvest longer before you trust this."
        )


def judge_cameras(then: Snapshot, now: Snapshot) -> Iterator[Finding]:
    """Whether there are cameras that the calibration never saw."""
    if new := sorted(set(now.camids_N.tolist()) - set(then.camids_N.tolist())):
        yield Finding(level="look", reason=f"the calibration saw no camera named {', '.join(new)}.")


def judge_finite(broken: float, precision: Precision) -> Iterator[Finding]:
    """Whether every crop has an embedding at all; one that is not finite matches nobody, and no mean shows it."""
    if broken > 0:
        yield Finding(
            level="recalibrate",
            reason=f"{'INT8' if precision == 'int8' else 'the float graph'} gives {broken:.1%} of the crops "
            "embeddings that are not finite.",
        )


def judge_appearance(found: Appearance, limits: DriftLimits) -> Iterator[Finding]:
    """Whether crops look different to the encoder."""
    moved = found.inhomogeneity if found.p_value <= limits.max_p_value else 0.0
    if moved < limits.look_inhomogeneity and found.novel_share < limits.look_novel_share:
        return
    far = moved >= limits.recalibrate_inhomogeneity or found.novel_share >= limits.recalibrate_novel_share
    worst = max(found.novel_by_camera, key=lambda camid: found.novel_by_camera[camid])
    spread = found.spread_now / max(found.spread_then, 1e-9)
    yield Finding(
        level="recalibrate" if far else "look",
        reason=f"people look different to the encoder: {found.novel_share:.0%} of the crops resemble no calibration "
        f"crop ({NOVEL_QUANTILE:.0%} would be usual), most in {worst} ({found.novel_by_camera[worst]:.0%}); energy "
        f"distance {found.inhomogeneity:.3f} of the mean distance (p {found.p_value:.3f}), spread {spread:.2f} times "
        "what it was.",
    )


def gate_of(manifest: Manifest) -> float | None:
    """Least mean cosine that the INT8 graph had to reach at the export; None where that was not asked."""
    return None if manifest.quantisation is None else manifest.quantisation.gate.get("min_cosine_mean")


def judge_int8(
    cosine_then: float | None,
    cosine_now: float,
    saturation: Sequence[Saturation],
    limits: DriftLimits,
    *,
    gate: float | None = None,
) -> Iterator[Finding]:
    """Whether INT8 is still near float, also near enough to be exported today, and whether activations fit."""
    if cosine_then is not None and cosine_then - cosine_now > limits.look_cosine_loss:
        missed = gate is not None and cosine_now < gate <= cosine_then
        far = cosine_then - cosine_now > limits.recalibrate_cosine_loss or missed
        yield Finding(
            level="recalibrate" if far else "look",
            reason=f"INT8 is farther from float than at the export: mean cosine {cosine_now:.4f}, it was "
            f"{cosine_then:.4f}{f' and had to reach {gate:g}' if missed else ''}.",
        )
    beyond = [
        one
        for one in saturation
        if one.now > limits.min_saturation and one.now > limits.max_saturation_ratio * one.then
    ]
    if beyond:
        worst = beyond[0]
        yield Finding(
            level="look",
            reason=f"{len(beyond)} of {len(saturation)} activations leave their INT8 range: {worst.now:.2%} of "
            f"{worst.activation}, {worst.then:.3%} at the calibration.",
        )


def judge_threshold(threshold: ThresholdReport, rates: Rates | None, limits: DriftLimits) -> Iterator[Finding]:
    """Whether the match threshold still keeps different people apart and lets the same ones match."""
    wanted = threshold.false_match_rate
    if rates is None:
        return
    if wanted is not None and rates.different is not None and rates.different_interval is not None:
        low, high = rates.different_interval
        if low > limits.false_match_ratio * wanted:
            yield Finding(
                level="recalibrate",
                reason=f"different people match too often: {rates.different:.1%} of those in view together ({low:.1%} "
                f"to {high:.1%}), {wanted:.1%} was wanted.",
            )
    before = threshold.same_match_rate
    if before is None or rates.same is None or rates.same_interval is None:
        return
    if rates.same_interval[1] < before - limits.same_match_loss:
        yield Finding(
            level="recalibrate",
            reason=f"people match themselves less often: {rates.same:.0%} ({rates.same_interval[0]:.0%} to "
            f"{rates.same_interval[1]:.0%}) of tracklets agree with themselves, {before:.0%} at the calibration.",
        )
