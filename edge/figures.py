"""The figures of a run: for whoever asks while it goes on, and at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reidge.edge.detectors.bundle import BundleDetector
from reidge.edge.errors import ReidgeError

if TYPE_CHECKING:
    from reidge.edge.metrics import Metrics
    from reidge.edge.pipeline import Pipeline
    from reidge.edge.stream import Cameras
    from reidge.edge.watchdog import Watchdog

STANDING = "SELECT count(DISTINCT global_id) FROM sightings WHERE sighting_id > ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Figures of a run."""

    cameras: int
    frames: int
    """Handled, over all cameras."""
    dropped: int
    """Offered to the loop but not handled, because a newer one had come."""
    frames_by_camera: dict[str, int]
    """Handled."""
    seconds: float
    """Wall time of the loop."""
    frames_per_second: float
    latency_ms_p50: float | None
    """From the arrival of a frame to its last event, over frames that caused events."""
    latency_ms_p95: float | None
    stage_seconds: dict[str, float]
    """Wall time of the loop by stage."""
    overhead: float | None
    """Share of the loop's time, that in which it waited for frames left out, outside the calls of detector and encoder.

    Choosing, cutting and resizing crops is overhead; what a detector does around its network to make pictures ready is
    not.
    """
    embeddings: int
    sightings: int
    undecided: int
    """Of these sightings, those that are nobody's at the end."""
    identities: int
    """Identities at the end that have sightings of this run: merges, splits and erasures are made."""
    events: int
    events_lost: int
    """Given up at the end because an output, a full disk say, did not take them."""
    backend: str
    """Of the encoder."""
    precision: str
    detector_backend: str | None
    """None where the detector is no exported one."""
    detector_precision: str | None


def readable(summary: RunSummary) -> dict[str, str]:
    """The same for people: each figure with its unit."""
    of_camera = ", ".join(f"{camid} {frames}" for camid, frames in summary.frames_by_camera.items())
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary.stage_seconds.items())
    half, most = summary.latency_ms_p50, summary.latency_ms_p95
    delay = "no frame caused one" if half is None or most is None else f"{half:.0f} ms as a rule, 95 % in {most:.0f} ms"
    share = "" if summary.overhead is None else f"; {summary.overhead:.0%} of the work outside detector and encoder"
    lines = {
        "frames": f"{summary.frames} handled ({of_camera}), {summary.dropped} left out",
        "speed": f"{summary.frames_per_second:.1f} frames a second over {summary.seconds:.1f} s",
        "time": f"{stages}{share}",
        "frame to event": delay,
        "people": f"{summary.identities} identities in {summary.sightings} sightings, {summary.undecided} undecided",
        "embeddings": str(summary.embeddings),
        "events": f"{summary.events}" + (f", {summary.events_lost} of them lost" if summary.events_lost else ""),
        "encoder": f"{summary.backend}, {summary.precision}",
    }
    if summary.detector_backend is not None:
        lines["detector"] = f"{summary.detector_backend}, {summary.detector_precision}"
    return lines


def publish(metrics: Metrics, cameras: Cameras, pipeline: Pipeline, watchdog: Watchdog) -> None:
    """Let the numbers that others keep be read when the metrics are."""
    encoder, gallery = pipeline.encoder, pipeline.book.gallery
    metrics.describe(backend=encoder.backend, precision=encoder.precision)

    def read(metrics: Metrics) -> None:
        metrics.gauge("loop_age_seconds", watchdog.silent_seconds)
        metrics.gauge("gallery_pending", gallery.pending)
        metrics.total("gallery_failures", gallery.failures)
        metrics.total("gallery_shed", gallery.shed)
        for camid, silence in cameras.silences().items():
            metrics.gauge("frame_age_seconds", silence, camid)
        for camid, counts in cameras.counts().items():
            metrics.total("frames_decoded", counts.decoded, camid)
            metrics.total("frames_offered", counts.offered, camid)
            metrics.total("frames_dropped", counts.dropped, camid)
            metrics.total("frames_corrupt", counts.corrupt, camid)
            metrics.total("camera_connections", counts.connections, camid)
            metrics.total("camera_failures", counts.failures, camid)
            metrics.total("camera_abandoned", counts.abandoned, camid)

    metrics.on_read(read)


def summarise(pipeline: Pipeline, cameras: Cameras, seconds: float) -> RunSummary:
    """Figures of the run that has just ended after `seconds`; which events are lost is known after the outputs' end."""
    detector = pipeline.detector if isinstance(pipeline.detector, BundleDetector) else None
    frames, worked = sum(pipeline.frames.values()), seconds - cameras.waited
    return RunSummary(
        cameras=len(cameras.cameras),
        frames=frames,
        dropped=cameras.dropped,
        frames_by_camera=dict(pipeline.frames),
        seconds=seconds,
        frames_per_second=frames / max(seconds, 1e-9),
        latency_ms_p50=pipeline.latency.quantile(0.5),
        latency_ms_p95=pipeline.latency.quantile(0.95),
        stage_seconds=dict(pipeline.spent),
        overhead=1 - pipeline.inferred / worked if frames else None,
        embeddings=pipeline.embeddings,
        sightings=pipeline.reporter.sightings,
        undecided=pipeline.reporter.undecided,
        identities=standing_identities(pipeline),
        events=pipeline.reporter.written,
        events_lost=0,
        backend=pipeline.encoder.backend,
        precision=pipeline.encoder.precision,
        detector_backend=None if detector is None else detector.backend,
        detector_precision=None if detector is None else detector.precision,
    )


def standing_identities(pipeline: Pipeline) -> int:
    """Count identities that have sightings of this run, as the file knows them; as they were told where it does not."""
    gallery = pipeline.book.gallery
    if gallery.pending == 0:
        try:
            ((standing,),) = gallery.store.read(STANDING, (pipeline.sightings_before,))
            return int(standing)
        except ReidgeError:  # whoever writes to the file tells of its trouble
            pass
    return pipeline.identities
