"""Footage to a crop folder: detect, track, and keep the sharp, whole and diverse pictures of each tracklet.

No labels are used: a tracklet says only that its crops show one person in one camera.
"""

# N = crops or boxes; H, W = height and width; 4 = x1, y1, x2, y2

from __future__ import annotations

import re
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from pydantic import BaseModel, Field

from reidge.edge.camera import CameraConfig
from reidge.edge.crops import CropRecord, CropWriter
from reidge.edge.detection import covered
from reidge.edge.detectors import DetectorConfig, open_detector
from reidge.edge.detectors.motion import MotionConfig
from reidge.edge.errors import InputError
from reidge.edge.footage import Span, check_footage, count_frames, is_live, read_footage, shared_start
from reidge.edge.progress import Progress
from reidge.edge.quality import cut_out, sharpness, touches_border
from reidge.edge.redact import redact
from reidge.edge.stream import Cameras
from reidge.edge.tracker import Tracker, TrackerConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.edge.detectors import Detector
    from reidge.edge.frame import Frame
    from reidge.edge.tracker import TrackedBox

THUMBNAIL = (8, 16)  # width, height


class HarvestConfig(BaseModel, frozen=True, extra="forbid"):
    """What harvest looks for and what it keeps."""

    detector: DetectorConfig = MotionConfig()
    tracking: TrackerConfig = TrackerConfig()
    since: float = Field(0.0, ge=0)
    """Seconds of each recording to skip. The detector's warm-up begins there."""
    until: float | None = Field(None, gt=0)
    """Seconds of each recording after which to stop; None reads to the end. Live streams, one after the other, are
    watched for this long."""
    max_fps: float | None = Field(None, gt=0)
    """Frames per second at most; None uses every frame."""
    start: float | None = None
    """Seconds since the epoch, UTC, of the first frames; None takes the time of the oldest file."""
    crops_per_tracklet: int = Field(12, ge=2)
    """Crops kept of each tracklet at most."""
    min_crops: int = Field(4, ge=2)
    """Tracklets with fewer good crops are left out: they teach nothing."""
    min_seconds: float = Field(0.8, ge=0)
    """Tracklets shorter than this are left out: mostly flicker of the detector."""
    min_height: int = Field(64, ge=8)
    """Smallest crop, pixels."""
    min_score: float = Field(0.5, ge=0, le=1)
    """Smallest confidence of the detection."""
    max_covered: float = Field(0.1, ge=0, le=1)
    """Largest share of a box that another person's box may cover."""
    border: int = Field(3, ge=0)
    """A box nearer than this to the edge of the frame is cut off; pixels."""
    padding: float = Field(0.03, ge=0, le=0.5)
    """Added around the box on every side, as a share of its height."""
    min_sharpness_ratio: float = Field(0.4, ge=0, le=1)
    """Crops less sharp than this share of their tracklet's median are left out."""
    max_height_error: float = Field(0.12, gt=0)
    """A box this much shorter or taller than the tracklet's trend is half hidden or two people; logarithm of height."""
    min_difference: float = Field(6.0, ge=0)
    """Mean grey difference (0 to 255, at 8 x 16 pixels) below which the next crop is a near duplicate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HarvestSummary:
    """What a harvest gave."""

    cameras: int
    frames: int
    detections: int
    tracklets: int
    crops: int
    tracklets_dropped: int
    """Tracklets that were too short or had too few good crops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    image: NDArray[np.uint8]
    captured_at: float
    box_4: NDArray[np.float32]
    score: float
    sharpness: float


class Tracklet:
    """The best crop of each slot of time; slots grow with the tracklet, so memory stays bounded."""

    def __init__(self, capacity: int, slot_seconds: float = 0.1) -> None:
        self.capacity = capacity
        self.first_seen = self.last_seen = 0.0
        self._slot_seconds = slot_seconds
        self._slots: dict[int, _Candidate] = {}

    def see(self, captured_at: float, first_seen: float) -> None:
        """Note that the person was seen, even when the picture is not worth keeping."""
        self.first_seen, self.last_seen = first_seen, captured_at

    def offer(self, candidate: _Candidate) -> None:
        """Keep the candidate when it is the sharpest of its slot."""
        slot = self._slot(candidate)
        if slot not in self._slots or candidate.sharpness > self._slots[slot].sharpness:
            self._slots[slot] = candidate
        while len(self._slots) > self.capacity:
            self._slot_seconds *= 2
            kept, self._slots = list(self._slots.values()), {}
            for old in kept:
                slot = self._slot(old)
                if slot not in self._slots or old.sharpness > self._slots[slot].sharpness:
                    self._slots[slot] = old

    def _slot(self, candidate: _Candidate) -> int:
        return int((candidate.captured_at - self.first_seen) / self._slot_seconds)

    def best(self, config: HarvestConfig) -> list[_Candidate]:
        """Choose sharp crops that differ, spread over the tracklet, in order of time."""
        candidates = [self._slots[slot] for slot in sorted(self._slots)]
        candidates = follow_trend(candidates, max_error=config.max_height_error)
        if not candidates:
            return []
        sharp_enough = config.min_sharpness_ratio * float(np.median([c.sharpness for c in candidates]))
        candidates = [c for c in candidates if c.sharpness >= sharp_enough]
        different = drop_near_duplicates(candidates, min_difference=config.min_difference)
        if len(different) >= config.min_crops:
            return sharpest_of_parts(different, config.crops_per_tracklet)
        return sharpest_of_parts(candidates, config.min_crops)  # somebody who looks the same all the way


def follow_trend(candidates: Sequence[_Candidate], *, max_error: float) -> list[_Candidate]:
    """Keep the crops whose height agrees with a steady walk: a straight line through the logarithm of heights.

    The line is the median one (Theil-Sen), which up to 29 % of half-hidden boxes do not move.
    """
    if len(candidates) < 3:
        return list(candidates)
    times_N = np.array([candidate.captured_at for candidate in candidates])
    times_N -= times_N[0]
    heights_N = np.log([candidate.box_4[3] - candidate.box_4[1] for candidate in candidates])
    first, second = np.triu_indices(len(candidates), k=1)
    slope = np.median((heights_N[second] - heights_N[first]) / np.maximum(times_N[second] - times_N[first], 1e-6))
    errors_N = heights_N - slope * times_N
    errors_N -= np.median(errors_N)
    return [candidate for candidate, error in zip(candidates, errors_N, strict=True) if abs(error) <= max_error]


def sharpest_of_parts(candidates: Sequence[_Candidate], parts: int) -> list[_Candidate]:
    """Cut the run of candidates into so many parts, or fewer where they do not suffice; take the sharpest of each."""
    if not candidates:
        return []
    bounds = np.array_split(np.arange(len(candidates)), min(parts, len(candidates)))
    return [max((candidates[i] for i in part.tolist()), key=lambda c: c.sharpness) for part in bounds]


def drop_near_duplicates(candidates: Sequence[_Candidate], *, min_difference: float) -> list[_Candidate]:
    """Drop a crop that looks like the one kept before it."""
    kept: list[_Candidate] = []
    last: NDArray[np.float32] | None = None
    for candidate in candidates:
        grey = cv2.cvtColor(candidate.image, cv2.COLOR_BGR2GRAY)
        thumbnail = cv2.resize(grey, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        if last is None or float(np.abs(thumbnail - last).mean()) >= min_difference:
            kept.append(candidate)
            last = thumbnail
    return kept


def harvest(
    footage: Mapping[str, str], output: Path, config: HarvestConfig | None = None, *, progress: bool = True
) -> HarvestSummary:
    """Read footage camera by camera and write a crop folder.

    Args:
        footage: Path or address of each camera's footage, by camid.
        output: The crop folder to make.
        config: What to keep.
        progress: Whether to say how far it is.

    Raises:
        InputError: Footage is missing or unreadable, nobody was found, or `output` is not empty.
    """
    config = config or HarvestConfig()
    _check(footage, config)
    start = shared_start(footage.values()) if config.start is None else config.start
    span = Span(since=config.since, until=config.until, max_fps=config.max_fps)
    totals = [None if is_live(source) else count_frames(source, span) for source in footage.values()]
    total = None if None in totals else sum(filter(None, totals))
    streams = {camid: _frames(camid, source, start, span) for camid, source in footage.items()}
    where = ", ".join(redact(source) for source in footage.values())
    with ExitStack() as stack:
        detector = stack.enter_context(open_detector(config.detector))
        bar = stack.enter_context(Progress("harvest", total=total, unit="frames")) if progress else None
        return harvest_frames(streams, output, config, detector=detector, bar=bar, where=where)


def harvest_frames(
    streams: Mapping[str, Iterable[Frame]],
    output: Path,
    config: HarvestConfig,
    *,
    detector: Detector,
    bar: Progress | None = None,
    where: str = "the frames",
) -> HarvestSummary:
    """Look at frames camera by camera and write a crop folder.

    Args:
        streams: Frames of each camera, by camid; those of the next camera are asked for when one is through.
        output: The crop folder to make.
        config: What to keep.
        detector: Open; `config.detector` is not looked at.
        bar: Says how far it is.
        where: What the frames are of, for an error.

    Raises:
        InputError: Nobody was found, or `output` is not empty.
    """
    with CropWriter(output) as writer:
        reapers = []
        for camid, frames in streams.items():
            reaper = _Reaper(camid, config, writer)
            for frame in frames:
                reaper.take(frame, detector)
                if bar is not None:
                    bar.advance(note=f"{camid}, {len(writer.records)} crops")
            reaper.finish()
            reapers.append(reaper)
        if not writer.records:
            raise InputError(
                f"nobody was found in {where} ({sum(r.frames for r in reapers)} frames). {_advice(reapers, config)}"
            )
    return HarvestSummary(
        cameras=len(streams),
        frames=sum(r.frames for r in reapers),
        detections=sum(r.detections for r in reapers),
        tracklets=sum(r.kept for r in reapers),
        crops=len(writer.records),
        tracklets_dropped=sum(r.dropped for r in reapers),
    )


def _advice(reapers: Sequence[_Reaper], config: HarvestConfig) -> str:
    """Say what to do where no crop was kept."""
    if not any(reaper.frames for reaper in reapers):
        return "The recordings end before that: give a smaller --since."
    if dropped := sum(reaper.dropped for reaper in reapers):
        return (
            f"{dropped} tracklets were too short or had too few good pictures: try another --detector or --min-height."
        )
    if config.detector.kind == "motion":
        return "Motion detection needs a camera that does not move; otherwise give --detector a YOLOX ONNX file."
    return "Check that people at least --min-height pixels tall are in view."


def _check(footage: Mapping[str, str], config: HarvestConfig) -> None:
    if not footage:
        raise InputError("no footage was given. Name it like this: --footage cam1=video.mp4")
    for camid, source in footage.items():
        if not re.fullmatch(r"[\w.-]+", camid) or camid.startswith("."):
            raise InputError(f"{camid!r} is not a camera name. Use letters, digits, '-' and '_'.")
        if is_live(source) and config.until is None:
            raise InputError(f"{redact(source)} never ends. Say when to stop: --until SECONDS")
        check_footage(source)


def _frames(camid: str, source: str, start: float, span: Span) -> Iterator[Frame]:
    if not is_live(source):
        yield from read_footage(source, camid=camid, start=start, span=span)
        return
    assert span.until is not None
    camera = CameraConfig(name=camid, source=source, max_fps=span.max_fps)
    deadline = time.monotonic() + span.until
    came, reason = False, f"{redact(source)}: no answer"
    with Cameras([camera]) as cameras:
        for moment in cameras.moments(threading.Event()):
            if time.monotonic() >= deadline:
                break
            reason = next((state.reason for state in cameras.states() if not state.up), reason)
            came = came or bool(moment)
            yield from moment
    if not came:
        raise InputError(f"no picture came in {span.until:g} s ({reason}). Check the address and the camera.")


class _Reaper:
    """Detects, tracks and collects the crops of one camera."""

    def __init__(self, camid: str, config: HarvestConfig, writer: CropWriter) -> None:
        self.camid = camid
        self.config = config
        self.writer = writer
        self.frames = self.detections = self.kept = self.dropped = 0
        self._tracker = Tracker(config.tracking)
        self._open: dict[int, Tracklet] = {}

    def take(self, frame: Frame, detector: Detector) -> None:
        (detections,) = detector.detect_many([frame])
        update = self._tracker.update(detections, frame.captured_at)
        covered_N = covered(detections.boxes_N4)
        self.frames += 1
        self.detections += len(detections)
        for seen in update.live:
            tracklet = self._open.setdefault(seen.track_id, Tracklet(3 * self.config.crops_per_tracklet))
            tracklet.see(frame.captured_at, seen.first_seen)
            if covered_N[seen.detection] <= self.config.max_covered and self._whole(seen, frame):
                tracklet.offer(self._candidate(seen, frame))
        for track_id in update.ended:
            self._close(track_id)

    def finish(self) -> None:
        for track_id in self._tracker.finish():
            self._close(track_id)

    def _whole(self, seen: TrackedBox, frame: Frame) -> bool:
        tall = seen.box_4[3] - seen.box_4[1] >= self.config.min_height
        inside = not touches_border(seen.box_4, frame.image.shape[:2], margin=self.config.border)
        return bool(tall and inside and seen.score >= self.config.min_score)

    def _candidate(self, seen: TrackedBox, frame: Frame) -> _Candidate:
        image = cut_out(frame.image, seen.box_4, padding=self.config.padding).copy()
        return _Candidate(
            image=image,
            captured_at=frame.captured_at,
            box_4=seen.box_4,
            score=seen.score,
            sharpness=sharpness(image),
        )

    def _close(self, track_id: int) -> None:
        tracklet = self._open.pop(track_id, None)
        if tracklet is None:
            return
        crops = tracklet.best(self.config)
        if len(crops) < self.config.min_crops or tracklet.last_seen - tracklet.first_seen < self.config.min_seconds:
            self.dropped += 1
            return
        self.kept += 1
        name = f"{self.camid}_{track_id:05d}"
        for number, crop in enumerate(crops):
            x1, y1, x2, y2 = (round(float(value), 1) for value in crop.box_4)
            record = CropRecord(
                path=f"{self.camid}/{name}_{number:02d}.jpg",
                camid=self.camid,
                tracklet=name,
                captured_at=round(crop.captured_at, 3),
                x1=x1,
                y1=y1,
                x2=x2,
                y2=y2,
                score=round(crop.score, 3),
                sharpness=round(crop.sharpness, 1),
            )
            self.writer.add(crop.image, record)
