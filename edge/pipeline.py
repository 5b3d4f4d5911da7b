"""Cameras in, identities out: the loop that runs a site."""

# N = crops of one moment over all cameras, D = embedding

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reidge.edge.backends import open_encoder
from reidge.edge.bundle import Bundle
from reidge.edge.crops import resize_crops
from reidge.edge.detection import covered
from reidge.edge.detectors import open_detector
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.events import Event, iso_time
from reidge.edge.footage import count_frames
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.latency import LatencyHistogram
from reidge.edge.outputs import Outputs
from reidge.edge.progress import Progress
from reidge.edge.quality import cut_out, touches_border
from reidge.edge.region import inside_region
from reidge.edge.sightings import Sighting, SightingBook
from reidge.edge.stream import Cameras
from reidge.edge.tracker import Tracker
from reidge.edge.tracklog import TrackLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from reidge.edge.backends import EdgeEncoder
    from reidge.edge.detectors import Detector
    from reidge.edge.events import EventKind
    from reidge.edge.frame import Frame
    from reidge.edge.mailbox import CameraState
    from reidge.edge.sightings import Change
    from reidge.edge.site import Site
    from reidge.edge.tracker import TrackedBox


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Figures of a run."""

    cameras: int
    frames: int
    """Handled, over all cameras."""
    dropped: int
    """Decoded but not handled, because a newer one had come."""
    seconds: float
    """Wall time of the loop."""
    frames_per_second: float
    latency_ms_p50: float | None
    """From the end of decoding to the last event of a frame, over frames that caused events."""
    latency_ms_p95: float | None
    embeddings: int
    sightings: int
    undecided: int
    """Sightings that ended without enough good pictures for an identity."""
    identities: int
    """Different identities seen in this run."""
    events: int
    backend: str
    precision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """A crop worth embedding, and whose it is."""

    sighting: Sighting
    crop: NDArray[np.uint8]
    weight: float


class Pipeline:
    """State of a running site; `run_site` feeds it."""

    def __init__(
        self, site: Site, *, detector: Detector, encoder: EdgeEncoder, gallery: Gallery, events: Outputs,
        tracks: TrackLog,
    ) -> None:  # fmt: skip
        self.site = site
        self.detector = detector
        self.encoder = encoder
        self.events = events
        self.tracks = tracks
        self.book = SightingBook(site.identity, gallery, {c.name: c.overlaps for c in site.cameras})
        self.latency = LatencyHistogram()
        self.frames = self.embeddings = self.sightings = self.undecided = 0
        self._trackers = {camera.name: Tracker(site.tracking) for camera in site.cameras}
        self._regions = {camera.name: camera.region for camera in site.cameras}
        self._known: set[int] = set()
        self._logged: dict[tuple[str, int], int | None] = {}
        self._clock = 0.0

    def handle(self, frames: Sequence[Frame]) -> None:
        """Take in the frames of one moment, at most one of each camera."""
        events_before = self.events.written
        pictures = [picture for frame in frames for picture in self._watch(frame)]
        embeddings_ND = self._embed(pictures)
        for picture, embedding_D in zip(pictures, embeddings_ND, strict=True):
            picture.sighting.add_evidence(embedding_D, picture.weight)
            self._report(picture.sighting, self.book.decide(picture.sighting, self._clock))
        for sighting in self.book.live.values():
            self._tell(sighting)
        if frames and self.events.written > events_before:
            now = time.monotonic()
            for frame in frames:
                self.latency.add(now - frame.decoded_at)

    def camera_changed(self, state: CameraState) -> None:
        """Say that a camera came up or went down; its tracks end with it."""
        self.events.write(
            Event(
                event="camera.up" if state.up else "camera.down",
                captured_at=iso_time(state.at),
                camid=state.camid,
                reason=state.reason or None,
            )
        )
        if not state.up:
            self._end(state.camid, self._trackers[state.camid].finish())

    def finish(self) -> None:
        """End all tracks and write the final table of identities."""
        for camid, tracker in self._trackers.items():
            self._end(camid, tracker.finish())
        self.tracks.write_identities((*key, self._final(global_id)) for key, global_id in sorted(self._logged.items()))

    @property
    def identities(self) -> int:
        """Different identities seen so far."""
        live = {sighting.global_id for sighting in self.book.live.values()}
        return len(self._known) + len(live - self._known - {None})

    def _watch(self, frame: Frame) -> list[_Picture]:
        """Detect and track; returns the pictures of this frame that are to be embedded."""
        self.frames += 1
        self._clock = max(self._clock, frame.captured_at)
        detections = self.detector.detect(frame.camid, frame.image)
        region = self._regions[frame.camid]
        if region is not None:
            detections = detections.select(inside_region(detections.boxes_N4, region, frame.image.shape))
        covered_N = covered(detections.boxes_N4)
        update = self._trackers[frame.camid].update(detections, frame.captured_at)
        self.tracks.write(frame, update.live)
        self._end(frame.camid, update.ended)
        pictures = []
        for box in update.live:
            sighting = self._see(frame, box)
            if self.book.wants(sighting, frame.captured_at) and self._good(frame, box, covered_N[box.detection]):
                sighting.last_embedded = frame.captured_at
                crop = cut_out(frame.image, box.box_4, padding=self.site.quality.padding)
                weight = box.score * (1.0 - float(covered_N[box.detection]))
                pictures.append(_Picture(sighting=sighting, crop=crop, weight=max(weight, 1e-3)))
        return pictures

    def _good(self, frame: Frame, box: TrackedBox, covered_share: float) -> bool:
        quality = self.site.quality
        tall = box.box_4[3] - box.box_4[1] >= quality.min_height
        whole = not touches_border(box.box_4, frame.image.shape, margin=quality.border)
        whole = whole and box.surprise <= quality.max_surprise
        return bool(tall and whole and box.score >= quality.min_score and covered_share <= quality.max_covered)

    def _embed(self, pictures: Sequence[_Picture]) -> NDArray[np.float32]:
        spec = self.encoder.bundle.manifest.input
        crops = resize_crops((picture.crop for picture in pictures), size=spec.size, method=spec.resize)
        self.embeddings += len(pictures)
        return self.encoder.embed(crops)

    def _see(self, frame: Frame, box: TrackedBox) -> Sighting:
        x1, y1, x2, y2 = (round(float(value), 1) for value in box.box_4)
        key = (frame.camid, box.track_id)
        sighting = self.book.live.get(key)
        if sighting is None:
            sighting = Sighting(
                camid=frame.camid,
                track_id=box.track_id,
                started_at=box.first_seen,
                last_seen=frame.captured_at,
                box=(x1, y1, x2, y2),
            )
            self.book.live[key] = sighting
            self.sightings += 1
            self._write("sighting.started", sighting)
        sighting.last_seen, sighting.box = frame.captured_at, (x1, y1, x2, y2)
        return sighting

    def _end(self, camid: str, track_ids: Sequence[int]) -> None:
        for track_id in track_ids:
            sighting = self.book.live[camid, track_id]
            self._report(sighting, self.book.end(sighting, self._clock))
            self.undecided += sighting.global_id is None
            if sighting.global_id is not None:
                self._known.add(sighting.global_id)
            if self.tracks.folder is not None:  # only then does memory grow with every track
                self._logged[camid, track_id] = sighting.global_id
            self.tracks.forget(camid, track_id)
            self._write("sighting.ended", sighting)

    def _report(self, sighting: Sighting, changes: Sequence[Change]) -> None:
        """Write what a decision changed."""
        for change in changes:
            if change.kind == "created":
                self._write("identity.created", sighting, global_id=change.global_id)
            elif change.kind == "merged":
                assert change.merged_from is not None
                if change.merged_from in self._known:
                    self._known.remove(change.merged_from)
                    self._known.add(change.global_id)
                self._write(
                    "identity.merged",
                    sighting,
                    global_id=change.global_id,
                    merged_from=change.merged_from,
                    similarity=change.similarity,
                )
        if changes:
            sighting.last_told = -1.0  # say at once who it is

    def _tell(self, sighting: Sighting) -> None:
        """Repeat where a person is, every so often and whenever the answer changed."""
        due = sighting.last_seen - sighting.last_told >= self.site.identity.updates_every
        if due:
            self._write("sighting.updated", sighting)

    def _write(self, kind: EventKind, sighting: Sighting, **other: object) -> None:
        known = {"global_id": sighting.global_id, "similarity": sighting.similarity} | other
        self.events.write(
            Event.model_validate(
                {
                    "event": kind,
                    "captured_at": iso_time(sighting.last_seen),
                    "camid": sighting.camid,
                    "track_id": sighting.track_id,
                    "box": sighting.box,
                    **known,
                }
            )
        )
        sighting.last_told = sighting.last_seen

    def _final(self, global_id: int | None) -> int | None:
        while global_id in self.book.merged:
            global_id = self.book.merged[global_id]
        return global_id


def run_site(
    site: Site, *, seconds: float | None = None, stop: threading.Event | None = None, progress: bool = True
) -> RunSummary:
    """Run a site until its cameras end, `seconds` have passed or `stop` is set; then end all tracks.

    Args:
        site: What to run.
        seconds: Wall time to run at most; live streams never end by themselves.
        stop: Set it from a signal handler or another thread.
        progress: Whether to say how far it is.

    Raises:
        InputError: Bundle, footage, detector or gallery are missing, damaged or do not fit each other.
        ReidgeError: No camera gave a single frame, and nobody asked to stop.
    """
    stop = stop or threading.Event()
    bundle = Bundle.load(site.bundle)
    with ExitStack() as stack:
        cameras = Cameras(site.cameras)
        detector = stack.enter_context(open_detector(site.detector))
        encoder = stack.enter_context(
            open_encoder(bundle, site.encoder.backend, site.encoder.precision, site.encoder.threads)
        )
        gallery = stack.enter_context(open_gallery(site, bundle, encoder))
        events = stack.enter_context(Outputs(site.outputs))
        tracks = stack.enter_context(TrackLog(site.outputs.tracks, [camera.name for camera in site.cameras]))
        pipeline = Pipeline(site, detector=detector, encoder=encoder, gallery=gallery, events=events, tracks=tracks)
        bar = stack.enter_context(Progress("run", total=_total_frames(site), unit="frames")) if progress else None
        stack.enter_context(cameras)
        began = time.monotonic()
        for frames in cameras.moments(stop):
            for state in cameras.states():
                pipeline.camera_changed(state)
            pipeline.handle(frames)
            if bar is not None:
                bar.advance(len(frames), note=f"{pipeline.identities} identities")
            if seconds is not None and time.monotonic() - began >= seconds:
                break
        pipeline.finish()
        for state in cameras.states():
            pipeline.camera_changed(state)
        if not pipeline.frames and not stop.is_set():
            raise ReidgeError("no camera gave a single frame. See the camera.down events for the reasons.")
        return _summary(pipeline, cameras, time.monotonic() - began)


def open_gallery(site: Site, bundle: Bundle, encoder: EdgeEncoder) -> Gallery:
    """Open the site's gallery with the threshold of the site or of the bundle.

    Raises:
        InputError: Neither says from which similarity on two tracks are one person.
    """
    min_similarity = site.identity.min_similarity
    if min_similarity is None:
        report = bundle.manifest.threshold.get(encoder.precision)
        min_similarity = None if report is None else report.min_similarity
    if min_similarity is None:
        raise InputError(
            f"{bundle.path} has no calibrated match threshold. Set identity.min_similarity in the site file "
            "(0.7 is a start) or export the bundle with crops of people seen together."
        )
    config = GalleryConfig(
        min_similarity=min_similarity,
        min_margin=site.identity.min_margin,
        max_exemplars=site.identity.max_exemplars,
    )
    return Gallery(
        site.storage.gallery,
        encoder_hash=bundle.encoder_hash,
        embedding_dim=bundle.manifest.embedding_dim,
        config=config,
    )


def _total_frames(site: Site) -> int | None:
    counts = [None if camera.live else count_frames(camera.source, camera.span) for camera in site.cameras]
    return None if None in counts else sum(count for count in counts if count is not None)


def _summary(pipeline: Pipeline, cameras: Cameras, seconds: float) -> RunSummary:
    return RunSummary(
        cameras=len(cameras.cameras),
        frames=pipeline.frames,
        dropped=cameras.dropped,
        seconds=seconds,
        frames_per_second=pipeline.frames / max(seconds, 1e-9),
        latency_ms_p50=pipeline.latency.quantile(0.5),
        latency_ms_p95=pipeline.latency.quantile(0.95),
        embeddings=pipeline.embeddings,
        sightings=pipeline.sightings,
        undecided=pipeline.undecided,
        identities=pipeline.identities,
        events=pipeline.events.written,
        backend=pipeline.encoder.backend,
        precision=pipeline.encoder.precision,
    )
