"""How well a run recognised people across cameras: IDF1 over all cameras, against the simulated truth.

IDF1 (Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", 2016): identities
found are assigned one to one to true ones so that the number of agreeing boxes is largest; IDF1 is the harmonic mean
of the precision and recall of boxes under that assignment. A person who is given two identities, or two people who
share one, lose the boxes of one of the two.
"""

# G, P = true and predicted boxes of a frame

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from reidge.demo.site import read_mot

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.demo.render import Truth

MIN_IOU = 0.5
"""For a predicted box to stand for a true one."""
MIN_VISIBILITY = 0.25
"""Less visible people are neither missed nor, when found, wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A predicted box with its identity; corners in pixels."""

    identity: Hashable
    corners: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityScore:
    """Boxes and identities of a run against the truth; ratios are 0 to 1."""

    idf1: float
    precision: float
    recall: float
    detection_f1: float
    """The same measure without regard to identity."""
    identities_true: int
    identities_found: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameMatch:
    """What of one frame agrees: pairs of true and predicted identity, and how many boxes there were."""

    pairs: tuple[tuple[int, Hashable], ...]
    true_boxes: int
    predicted: tuple[Hashable, ...]
    """Identities of the predicted boxes that count."""
    pids: tuple[int, ...] = ()
    """Of the true boxes that count."""

    @property
    def predicted_boxes(self) -> int:
        """Predicted boxes that count."""
        return len(self.predicted)

    @property
    def detected(self) -> int:
        """True boxes that were found, whoever they were taken for."""
        return min(len({pid for pid, _ in self.pairs}), len({identity for _, identity in self.pairs}))


def score_run(truth: Path, tracks: Path) -> IdentityScore:
    """Score the tracks of a run.

    Args:
        truth: Folder with one MOT ground-truth folder for each camera.
        tracks: Folder that `reidge run` wrote as `outputs.tracks`.
    """
    identities = _read_identities(tracks / "identities.csv")
    matches: list[FrameMatch] = []
    for camera in sorted(path for path in truth.iterdir() if path.is_dir()):
        predicted = read_boxes(tracks / f"{camera.name}.csv", camera.name, identities)
        true: defaultdict[int, list[Truth]] = defaultdict(list)
        for box in read_mot(camera):
            true[box.frame].append(box)
        matches += [match_frame(true[frame], predicted[frame]) for frame in sorted({*true, *predicted})]
    return summarise(
        matches,
        identities_true=len({pid for match in matches for pid in match.pids}),
        identities_found=len({identity for identity in identities.values() if identity}),
    )


def match_frame(true: Sequence[Truth], predicted: Sequence[Box]) -> FrameMatch:
    """Count and pair the boxes of one frame; hardly visible people and what was found of them are left out.

    A predicted box agrees with every true box it overlaps by `MIN_IOU`, as in the definition of IDF1: which of two
    candidates counts is decided by the identities, over all frames.
    """
    overlap_GP = iou([(t.x1, t.y1, t.x2, t.y2) for t in true], [box.corners for box in predicted]) >= MIN_IOU
    counted_G = np.array([t.visibility >= MIN_VISIBILITY for t in true], dtype=bool)
    on_hidden_P = overlap_GP[~counted_G].any(axis=0) & ~overlap_GP[counted_G].any(axis=0)
    pairs = tuple(
        (true[g].pid, predicted[p].identity) for g, p in zip(*np.nonzero(overlap_GP), strict=True) if counted_G[g]
    )
    return FrameMatch(
        pairs=pairs,
        true_boxes=int(counted_G.sum()),
        predicted=tuple(box.identity for box, hidden in zip(predicted, on_hidden_P, strict=True) if not hidden),
        pids=tuple(t.pid for t, counted in zip(true, counted_G, strict=True) if counted),
    )


def summarise(matches: Sequence[FrameMatch], *, identities_true: int, identities_found: int) -> IdentityScore:
    """Add up the frames of a run and score them."""
    return score_counts(
        Counter(pair for match in matches for pair in match.pairs),
        true_boxes=sum(match.true_boxes for match in matches),
        predicted_boxes=sum(match.predicted_boxes for match in matches),
        detected=sum(match.detected for match in matches),
        identities_true=identities_true,
        identities_found=identities_found,
    )


def score_counts(
    agreement: Mapping[tuple[int, Hashable], int],
    *,
    true_boxes: int,
    predicted_boxes: int,
    detected: int,
    identities_true: int,
    identities_found: int,
) -> IdentityScore:
    """Assign identities one to one and put the counts into ratios.

    Args:
        agreement: Boxes that agree, by true and predicted identity.
        true_boxes: All of them, likewise `predicted_boxes`.
        predicted_boxes: As `FrameMatch` counts them.
        detected: True boxes that were found, whoever they were taken for.
        identities_true: People.
        identities_found: Identities of the run.
    """
    pids = {pid: row for row, pid in enumerate(sorted({pid for pid, _ in agreement}))}
    found = {identity: column for column, identity in enumerate(dict.fromkeys(i for _, i in agreement))}
    counts = np.zeros((len(pids), len(found)), dtype=np.int64)
    for (pid, identity), count in agreement.items():
        counts[pids[pid], found[identity]] = count
    rows, columns = linear_sum_assignment(counts, maximize=True)
    agreed = int(counts[rows, columns].sum())
    both = max(true_boxes + predicted_boxes, 1)
    return IdentityScore(
        idf1=2 * agreed / both,
        precision=agreed / max(predicted_boxes, 1),
        recall=agreed / max(true_boxes, 1),
        detection_f1=2 * detected / both,
        identities_true=identities_true,
        identities_found=identities_found,
    )


def iou(
    true: Sequence[tuple[float, float, float, float]], predicted: Sequence[tuple[float, float, float, float]]
) -> NDArray[np.float64]:
    """Intersection over union of every true with every predicted box, `(G, P)`."""
    a, b = np.reshape(true, (-1, 1, 4)).astype(float), np.reshape(predicted, (1, -1, 4)).astype(float)
    shared = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0).prod(axis=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (a, b)]
    return np.asarray(shared / np.maximum(areas[0] + areas[1] - shared, 1e-9))


def _read_identities(path: Path) -> dict[tuple[str, str], str]:
    with path.open(newline="") as file:
        return {(row["camid"], row["track_id"]): row["global_id"] for row in csv.DictReader(file)}


def read_boxes(
    path: Path, camid: str, identities: Mapping[tuple[str, str], str]
) -> defaultdict[int, list[Box]]:  # fmt: skip
    """Read a camera's boxes by frame from 1; a track without a global identity is an identity of its own."""
    boxes: defaultdict[int, list[Box]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            track = row["track_id"]
            identity = identities.get((camid, track)) or (camid, track)
            corners = (float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"]))
            boxes[int(row["frame"]) + 1].append(Box(identity=identity, corners=corners))
    return boxes
