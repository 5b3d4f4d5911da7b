"""Frames in, identities out: the loop over the stages, for all cameras of a moment at once."""

# N = crops of one moment over all cameras, D = embedding; 4 = x1, y1, x2, y2

from __future__ import annotations

import logging
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reidge.edge.byhand import take_over
from reidge.edge.crops import resize_crops
from reidge.edge.holdback import Holdback
from reidge.edge.latency import LatencyHistogram
from reidge.edge.quality import comparable_sharpness, cut_out, find_flaw
from reidge.edge.reporter import Reporter
from reidge.edge.sightings import Sighting, SightingBook
from reidge.edge.transit import Transits
from reidge.edge.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from reidge.edge.backends import EdgeEncoder
    from reidge.edge.detection import Detections
    from reidge.edge.detectors import Detector
    from reidge.edge.frame import Frame
    from reidge.edge.gallery import Gallery
    from reidge.edge.mailbox import CameraState
    from reidge.edge.metrics import Metrics, Stage
    from reidge.edge.reporter import Sink
    from reidge.edge.requests import Answer, Request
    from reidge.edge.ruling import Change
    from reidge.edge.site import Site
    from reidge.edge.tracker import TrackedBox
    from reidge.edge.tracklog import TrackLog
    from reidge.edge.view import Glance

log = logging.getLogger(__name__)

USUAL_SHARPNESS_MEMORY = 0.9
"""Weight of what was seen before in the usual sharpness of a track."""
FINAL_SECONDS = 2.0
"""For the gallery's file to say what the last events say."""
AWAY = 60.0
"""Seconds without a camera after which the detector learns anew what it looks at: light and furniture change."""


def open_book(site: Site, gallery: Gallery) -> SightingBook:
    """Begin to decide who is who, by what the gallery and the site say."""
    overlapping = {camera.name: camera.overlaps for camera in site.cameras}
    return SightingBook(site.identity, gallery, overlapping, transits=Transits(walking_times(site)))


def walking_times(site: Site) -> dict[tuple[str, str], tuple[float, float]]:
    """Least and most seconds between cameras, as far as the site says them."""
    return {way.between: way.seconds for way in site.transit}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A crop worth embedding, and whose it is."""

    sighting: Sighting
    crop: NDArray[np.uint8]
    weight: float


class Pipeline:
    """State of a running site; one thread feeds it.

    Args:
        site: Cameras, tracking, quality and identity are read from it.
        detector: Open.
        encoder: Open.
        gallery: Open.
        sink: Where events go.
        tracks: Where the boxes of every frame go.
        metrics: Where latencies and failures are counted.
        beat: Called with the name of each stage when it begins.
    """

    def __init__(
        self,
        site: Site,
        *,
        detector: Detector,
        encoder: EdgeEncoder,
        gallery: Gallery,
        sink: Sink,
        tracks: TrackLog,
        metrics: Metrics,
        beat: Callable[[str], None] = lambda stage: None,
    ) -> None:
        self.site = site
        self.book = open_book(site, gallery)
        self.sightings_before = gallery.store.last_numbers()["sightings"]
        """The last sighting_id before this run."""
        self.reporter = Reporter(Holdback(sink, gallery, metrics), updates_every=site.identity.updates_every)
        self.latency = LatencyHistogram()
        """From the arrival of a frame to its last event, over frames that caused events."""
        self.frames: defaultdict[str, int] = defaultdict(int)
        """Taken in, by camera."""
        self.embeddings = 0
        self.spent: defaultdict[str, float] = defaultdict(float)
        """Seconds of the loop by stage."""
        self.inferred = 0.0
        """Seconds of the loop in calls of the detector and the encoder."""
        self.encoder = encoder
        self.detector, self._tracks, self._metrics, self._beat = detector, tracks, metrics, beat
        self._views = {camera.name: View(camera, site.tracking) for camera in site.cameras}
        self._logged: dict[tuple[str, int], int | None] = {}
        self._failing_since: dict[str, float] = {}
        self._failed_at: dict[str, float] = {}
        self._down_since: dict[str, float] = {}

    def handle(self, frames: Sequence[Frame]) -> None:
        """Take in the frames of one moment, at most one of each camera."""
        frames = self._arrived(frames)
        with self._stage("detect", frames):
            found = self._detect(frames)
        with self._stage("track", frames):
            glances = self._track(found)
        with self._stage("embed", frames):
            pictures, embeddings_ND = self._embed(self._choose(glances))
        with self._stage("match", frames):
            self._match(glances, pictures, embeddings_ND)
        with self._stage("emit", frames):
            told = self.reporter.emit()
        now = time.monotonic()
        for frame in frames:
            self.frames[frame.camid] += 1
            if frame.camid in told:
                self.latency.add(now - frame.arrived_at)
                self._metrics.observe("event", frame.camid, now - frame.arrived_at)

    def camera_changed(self, state: CameraState) -> None:
        """Take in that a camera came up or went down; its tracks end with it."""
        self.reporter.camera(state)
        view = self._views.get(state.camid)
        if view is None:  # it was removed, and this is its last word
            return
        self._metrics.gauge("camera_up", state.up, state.camid)
        if not state.up:
            self._down_since.setdefault(state.camid, state.at)
            self._end(state.camid, view.finish())
        elif state.at - self._down_since.pop(state.camid, state.at) > AWAY:
            self.detector.forget(state.camid)

    def reconfigure(self, site: Site) -> None:
        """Go on with other cameras and settings; tracks of cameras that stay go on."""
        self.site = site
        for camid in self._views.keys() - {camera.name for camera in site.cameras}:
            self._end(camid, self._views.pop(camid).finish())
            self._down_since.pop(camid, None)
            self.detector.forget(camid)
        for camera in site.cameras:
            view = self._views.setdefault(camera.name, View(camera, site.tracking))
            if (view.config.source, view.config.masks) != (camera.source, camera.masks):
                self.detector.forget(camera.name)  # another picture from now on
            view.config = camera
            self._tracks.add(camera.name)
        self.book.overlapping = {camera.name: camera.overlaps for camera in site.cameras}
        self.book.window.transits.limit(walking_times(site))

    def changed_by_hand(self, request: Request, answer: Answer) -> None:
        """Go on from what a user, or the retention, changed in the gallery."""
        self._tell(take_over(self.book, self.reporter, request, answer))

    def finish(self) -> None:
        """End all tracks, tell it, and write the final table of identities."""
        for camid, view in self._views.items():
            self._end(camid, view.finish())
        self.book.gallery.flush(FINAL_SECONDS)
        self.reporter.emit(at_once=True)
        self._tracks.write_identities(
            (*key, self.book.final(global_id)) for key, global_id in sorted(self._logged.items())
        )

    def abandon(self) -> None:
        """Tell that all tracks are over, from another thread, because the loop hangs and the process must end."""
        for sighting in list(self.book.live.values()):
            self.reporter.ended(sighting)
        self.reporter.emit(at_once=True)

    @property
    def busy(self) -> float:
        """Seconds that the loop has worked."""
        return sum(self.spent.values())

    @property
    def identities(self) -> int:
        """Different identities seen so far."""
        return self.reporter.identities(self.book.live.values())

    def failing(self) -> dict[str, float]:
        """Seconds over which detector, tracker or encoder have failed at everything, from the first to the last time.

        Time in which nothing was asked of them shows nothing: after one failure nobody may come by for an hour.
        """
        return {what: self._failed_at[what] - since for what, since in tuple(self._failing_since.items())}

    def _arrived(self, frames: Sequence[Frame]) -> list[Frame]:
        """Leave out frames of cameras that are no longer part of the site, and note how old the others are."""
        now = time.monotonic()
        known = [frame for frame in frames if frame.camid in self._views]
        for frame in known:
            self._metrics.observe("decode", frame.camid, frame.decoded_at - frame.arrived_at)
            self._metrics.observe("wait", frame.camid, now - frame.decoded_at)
        return known

    @contextmanager
    def _stage(self, name: Stage, frames: Sequence[Frame]) -> Iterator[None]:
        """Time a stage. It counts in full for every camera: each frame waits until the whole batch is done."""
        self._beat(name)
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self.spent[name] += seconds
        for frame in frames:
            self._metrics.observe(name, frame.camid, seconds)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Time a call of a network."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.inferred += time.monotonic() - began

    def _detect(self, frames: Sequence[Frame]) -> list[tuple[Frame, Detections]]:
        """Find the people; a frame at which the detector fails is left out and costs no other one its answer."""
        if not frames:
            return []
        try:
            with self._inference():
                detections = self.detector.detect_many(frames)
            found = list(zip(frames, detections, strict=True))
            self._failing_since.pop("detector", None)
            return found
        except Exception as error:  # of the detector's and the runtime's many kinds
            if len(frames) > 1:
                return [pair for frame in frames for pair in self._detect([frame])]
            self._failed("frames_failed", "detector", frames[0].camid, error)
            return []

    def _track(self, found: Iterable[tuple[Frame, Detections]]) -> list[Glance]:
        """Follow everybody from frame to frame."""
        glances = []
        for frame, detections in found:
            view = self._views[frame.camid]
            try:
                glance = view.take(frame, detections)
            except Exception as error:  # what nobody thought of may cost this camera its tracks, and no other one
                self._failed("frames_failed", "tracker", frame.camid, error)
                view.finish()
                # It may have failed after it ended some and before it told, or when some were not told of yet.
                self._end(frame.camid, [number for camid, number in self.book.live if camid == frame.camid])
                continue
            self._failing_since.pop("tracker", None)
            self._metrics.count("frames_handled", frame.camid)
            self._tracks.write(frame, glance.boxes)
            for box in glance.boxes:
                self._see(glance, box)
            glances.append(glance)
        return glances

    def _see(self, glance: Glance, box: TrackedBox) -> None:
        """Bring the sighting of a track up to date; a new track begins one."""
        x1, y1, x2, y2 = (round(float(value), 1) for value in box.box_4)
        key = (glance.frame.camid, box.track_id)
        sighting = self.book.live.get(key)
        if sighting is None:
            sighting = Sighting(
                camid=key[0], track_id=key[1], started_at=box.first_seen, last_seen=glance.at, box=(x1, y1, x2, y2)
            )
            self.book.live[key] = sighting
            self._metrics.count("sightings", sighting.camid)
            self.reporter.started(sighting)
        sighting.last_seen, sighting.box = glance.at, (x1, y1, x2, y2)

    def _choose(self, glances: Iterable[Glance]) -> list[Picture]:
        """Pick the pictures worth embedding: good ones of tracks for which one is due, the least known first."""
        pictures = []
        for glance in glances:
            for box in glance.boxes:
                sighting = self.book.live[glance.frame.camid, box.track_id]
                if self.book.wants(sighting, glance.at):
                    picture = self._picture(glance, box, sighting)
                    if picture is not None:
                        pictures.append(picture)
        # In a crowd the others have their turn in the next moment: nobody's answer waits for a long batch.
        pictures.sort(key=lambda picture: (picture.sighting.global_id is not None, picture.sighting.last_embedded))
        del pictures[self.site.identity.embeddings_per_moment :]
        return pictures

    def _picture(self, glance: Glance, box: TrackedBox, sighting: Sighting) -> Picture | None:
        """Cut a person out, unless the picture has a flaw."""
        quality = self.site.quality
        frame, covered_share = glance.frame, float(glance.covered_N[box.detection])
        flaw = find_flaw(box, frame.image.shape, covered_share=covered_share, config=quality)
        if flaw is None:
            crop = cut_out(frame.image, box.box_4, padding=quality.padding)
            sharp = comparable_sharpness(crop)
            usual = sighting.usual_sharpness or sharp
            sighting.usual_sharpness = USUAL_SHARPNESS_MEMORY * usual + (1 - USUAL_SHARPNESS_MEMORY) * sharp
            if sharp >= quality.min_sharpness * usual:
                return Picture(sighting=sighting, crop=crop, weight=max(box.score * (1.0 - covered_share), 1e-3))
            flaw = "blurred"
        self._metrics.count(f"pictures_{flaw}", frame.camid)
        return None

    def _embed(self, pictures: list[Picture]) -> tuple[list[Picture], NDArray[np.float32]]:
        """Embed pictures in one batch; one at which the encoder fails is left out and costs no other one its turn."""
        spec = self.encoder.bundle.manifest.input
        crops = resize_crops((picture.crop for picture in pictures), size=spec.size, method=spec.resize)
        try:
            with self._inference():
                embeddings_ND = self.encoder.embed(crops)
        except Exception as error:  # of the runtime's many kinds
            if len(pictures) > 1:
                parts = [self._embed([picture]) for picture in pictures]
                return [p for part in parts for p in part[0]], np.concatenate([part[1] for part in parts])
            self._failed("pictures_failed", "encoder", pictures[0].sighting.camid, error)
            return [], np.empty((0, self.encoder.bundle.manifest.embedding_dim), dtype=np.float32)
        if pictures:
            self._failing_since.pop("encoder", None)
        for picture in pictures:
            picture.sighting.last_embedded = picture.sighting.last_seen
            self._metrics.count("embeddings", picture.sighting.camid)
        self.embeddings += len(pictures)
        return pictures, embeddings_ND

    def _match(
        self, glances: Iterable[Glance], pictures: Iterable[Picture], embeddings_ND: NDArray[np.float32]
    ) -> None:
        """Close tracks that are over, and decide about those of which there is news."""
        for glance in glances:
            self._end(glance.frame.camid, glance.ended)
        for picture, embedding_D in zip(pictures, embeddings_ND, strict=True):
            sighting = picture.sighting
            if np.isfinite(embedding_D).all():  # one number that is none would spoil the mean for good
                sighting.add_evidence(embedding_D, picture.weight)
                if self.site.storage.crops:
                    sighting.keep_picture(picture.crop, picture.weight)
                self._tell(self.book.decide(sighting, sighting.last_seen))
        self.reporter.repeat(self.book.live.values())
        self.book.gallery.settle()

    def _end(self, camid: str, track_ids: Iterable[int]) -> None:
        for track_id in track_ids:
            sighting = self.book.live[camid, track_id]
            self._tell(self.book.end(sighting, sighting.last_seen))
            self.reporter.ended(sighting)
            self._log(sighting)
            self._tracks.forget(camid, track_id)

    def _tell(self, changes: Sequence[Change]) -> None:
        """Pass on what was decided, also about tracks that are over."""
        self.reporter.changed(changes)
        for change in changes:
            if change.kind == "decided":
                self._log(change.sighting)

    def _log(self, sighting: Sighting) -> None:
        """Note who a track was for the final table."""
        if self._tracks.folder is not None:  # only then does memory grow with every track
            self._logged[sighting.camid, sighting.track_id] = sighting.global_id

    def _failed(self, counter: str, what: str, camid: str, error: Exception) -> None:
        self._metrics.count(counter, camid)
        self._failed_at[what] = time.monotonic()
        self._failing_since.setdefault(what, self._failed_at[what])
        text = " ".join(str(error).split()) or "no reason given"
        log.warning("%s: the %s failed at a frame, which is skipped (%s: %s)", camid, what, type(error).__name__, text)
        log.debug("where it failed", exc_info=error)
