"""Trackers side by side on the same detections: each behind one interface, scored by trackeval, timed by itself."""

# N = detections, P = boxes that a tracker gives in a frame, G = true boxes; 4 = x1, y1, x2, y2 in pixels

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import supervision as sv
import trackeval
from trackers import BoTSORTTracker, ByteTrackTracker, OCSORTTracker

from reidge.demo.score import MIN_IOU, MIN_VISIBILITY, iou
from reidge.edge.sway import CameraMotion
from reidge.edge.tracker import Tracker, TrackerConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from tracking_scenes import Shot

    from reidge.edge.tracker import FrameTracker

PEERS = {"ByteTrack": ByteTrackTracker, "OC-SORT": OCSORTTracker, "BoT-SORT": BoTSORTTracker}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a tracker says of one frame."""

    ids_P: NDArray[np.int64]
    boxes_P4: NDArray[np.float32]
    seconds: float
    """Time in the tracker alone."""


class Contestant(Protocol):
    """A tracker of one camera, begun anew for each scene."""

    def step(self, shot: Shot) -> Step:
        """Take in the next frame."""


class Ours:
    """The tracker of the edge, or any other one of its interface.

    Args:
        tracker: Fresh.
        embeddings: Whether it is given those of the detections.
        pictures: Whether it is told how the camera moves, where there are pictures to tell it from.
    """

    def __init__(self, tracker: FrameTracker, *, embeddings: bool = False, pictures: bool = True) -> None:
        self._tracker, self._embeddings, self._pictures = tracker, embeddings, pictures
        self._motion = CameraMotion()

    def step(self, shot: Shot) -> Step:
        """Take in the next frame; where it has a picture, the motion of the camera is told from it."""
        embeddings_ND = shot.embeddings_ND if self._embeddings else None
        began = time.perf_counter()
        motion_23 = None
        if self._pictures and shot.image is not None:
            motion_23 = self._motion.estimate(shot.image, shot.detections.boxes_N4)
        update = self._tracker.update(shot.detections, shot.at, embeddings_ND, motion_23)
        seconds = time.perf_counter() - began
        boxes_P4 = np.array([box.box_4 for box in update.live], dtype=np.float32).reshape(-1, 4)
        return Step(ids_P=np.array([b.track_id for b in update.live], np.int64), boxes_P4=boxes_P4, seconds=seconds)


class Peer:
    """A tracker of the package `trackers`; BoT-SORT is given the pictures where there are any."""

    def __init__(self, name: str, rate: int, settings: Mapping[str, Any]) -> None:
        self._tracker = PEERS[name](frame_rate=float(rate), **settings)
        self._looks = name == "BoT-SORT"

    def step(self, shot: Shot) -> Step:
        """Take in the next frame."""
        found = sv.Detections(xyxy=shot.detections.boxes_N4.copy(), confidence=shot.detections.scores_N.copy())
        picture = shot.image if self._looks else None
        began = time.perf_counter()
        tracked = self._tracker.update(found, frame=picture)
        seconds = time.perf_counter() - began
        ids_N = np.asarray(tracked.tracker_id, dtype=np.int64).reshape(-1)
        known_N = ids_N >= 0
        boxes_P4 = np.asarray(tracked.xyxy, dtype=np.float32).reshape(-1, 4)[known_N]
        return Step(ids_P=ids_N[known_N], boxes_P4=boxes_P4, seconds=seconds)


def ours(config: TrackerConfig, *, embeddings: bool = False, pictures: bool = True) -> Callable[[int], Contestant]:
    """Our tracker as it is configured, for any frame rate."""
    return lambda rate: Ours(Tracker(config), embeddings=embeddings, pictures=pictures)


def peer(name: str, settings: Mapping[str, Any]) -> Callable[[int], Contestant]:
    """A peer; other settings than its defaults only where given."""
    return lambda rate: Peer(name, rate, settings)


def run(contestant: Contestant, shots: Sequence[Shot]) -> tuple[dict[str, Any], list[float]]:
    """Track a scene: the table trackeval reads, and the seconds of each frame."""
    seconds: list[float] = []
    rows = []
    for shot in shots:
        step = contestant.step(shot)
        seconds.append(step.seconds)
        rows.append(compare(shot, step))
    return table(rows), seconds


def compare(shot: Shot, step: Step) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """True ids, given ids and overlaps of a frame; who is hardly visible is neither missed nor, when found, wrong."""
    corners = [(float(t.x1), float(t.y1), float(t.x2), float(t.y2)) for t in shot.truths]
    overlap_GP = iou(corners, [(float(b[0]), float(b[1]), float(b[2]), float(b[3])) for b in step.boxes_P4])
    counted_G = np.array([t.visibility >= MIN_VISIBILITY for t in shot.truths], dtype=bool)
    hits_GP = overlap_GP >= MIN_IOU
    wrong_P = hits_GP[counted_G].any(axis=0) | ~hits_GP[~counted_G].any(axis=0)
    pids_G = np.array([t.pid for t in shot.truths], dtype=np.int64)
    return pids_G[counted_G], step.ids_P[wrong_P], overlap_GP[counted_G][:, wrong_P]


def table(rows: Iterable[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]) -> dict[str, Any]:
    """The form of a sequence that trackeval's metrics take; ids are numbered from 0."""
    rows = list(rows)
    true_ids = {int(pid): n for n, pid in enumerate(sorted({int(i) for true, _, _ in rows for i in true}))}
    given_ids = {int(i): n for n, i in enumerate(sorted({int(i) for _, given, _ in rows for i in given}))}
    return {
        "num_timesteps": len(rows),
        "num_gt_ids": len(true_ids),
        "num_tracker_ids": len(given_ids),
        "num_gt_dets": sum(len(true) for true, _, _ in rows),
        "num_tracker_dets": sum(len(given) for _, given, _ in rows),
        "gt_ids": [np.array([true_ids[int(i)] for i in true], dtype=np.int64) for true, _, _ in rows],
        "tracker_ids": [np.array([given_ids[int(i)] for i in given], dtype=np.int64) for _, given, _ in rows],
        "similarity_scores": [overlap for _, _, overlap in rows],
    }


def score(tables: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """HOTA, IDF1, MOTA (percent) and identity switches over all scenes together."""
    found: dict[str, float] = {}
    hota = _combined(trackeval.metrics.HOTA(), tables)
    identity = _combined(trackeval.metrics.Identity({"PRINT_CONFIG": False}), tables)
    clear = _combined(trackeval.metrics.CLEAR({"PRINT_CONFIG": False}), tables)
    for name, value in (("hota", hota["HOTA"]), ("deta", hota["DetA"]), ("assa", hota["AssA"])):
        found[name] = 100 * float(np.mean(value))
    found |= {"idf1": 100 * float(identity["IDF1"]), "mota": 100 * float(clear["MOTA"]), "switches": int(clear["IDSW"])}
    return found


def idf1(tables: Mapping[str, dict[str, Any]]) -> float:
    """IDF1 alone, percent: what settings are chosen by."""
    return 100 * float(_combined(trackeval.metrics.Identity({"PRINT_CONFIG": False}), tables)["IDF1"])


def _combined(metric: Any, tables: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    return dict(metric.combine_sequences({name: metric.eval_sequence(found) for name, found in tables.items()}))
