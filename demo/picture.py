"""A picture of what a run found: the cameras with their boxes, and people as each camera saw them."""

# H, W = height and width

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

TILE = (112, 56)
"""Height and width of a person's picture."""
PEOPLE = 16
"""People shown below the cameras."""
INK, PAPER = (40, 36, 32), (250, 249, 247)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One box of one track."""

    frame: int
    identity: str
    corners: tuple[int, int, int, int]


def draw_result(site: Path, tracks: Path, path: Path) -> None:
    """Write a PNG of the busiest moment of the second half and of the people seen by the most cameras.

    Args:
        site: Site folder.
        tracks: What `reidge run` wrote as `outputs.tracks`.
        path: Of the picture.
    """
    cameras = sorted(folder.name for folder in (site / "truth" / "second").iterdir())
    seen = {camid: read_tracks(tracks, camid) for camid in cameras}
    moment = busiest_frame(seen)
    people = people_seen_everywhere(seen)
    wanted = {camid: {moment, *(box.frame for box in people[camid].values())} for camid in cameras}
    images = {c: read_frames(site / "footage" / "second" / f"{c}.mp4", wanted[c]) for c in cameras}
    views = [label_view(images[c][moment], camid=c, boxes=[b for b in seen[c] if b.frame == moment]) for c in cameras]
    top = np.hstack(views)
    bottom = draw_people(images, people, width=top.shape[1])
    cv2.imwrite(str(path), np.vstack([top, bottom]))


def read_tracks(tracks: Path, camid: str) -> list[Seen]:
    """Read the boxes of one camera that have a global identity."""
    with (tracks / "identities.csv").open(newline="") as file:
        identities = {row["track_id"]: row["global_id"] for row in csv.DictReader(file) if row["camid"] == camid}
    with (tracks / f"{camid}.csv").open(newline="") as file:
        return [
            Seen(
                frame=int(row["frame"]),
                identity=identities[row["track_id"]],
                corners=_corners(row),
            )
            for row in csv.DictReader(file)
            if identities.get(row["track_id"])
        ]  # fmt: skip


def _corners(row: Mapping[str, str]) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = (round(float(row[name])) for name in ("x1", "y1", "x2", "y2"))
    return x1, y1, x2, y2


def busiest_frame(seen: Mapping[str, Sequence[Seen]]) -> int:
    """Find the frame with people in the most cameras, then with the most people."""
    present: defaultdict[int, list[str]] = defaultdict(list)
    for camid, boxes in seen.items():
        for box in boxes:
            present[box.frame].append(camid)
    return max(present, key=lambda frame: (len(set(present[frame])), len(present[frame]), -frame), default=0)


def people_seen_everywhere(seen: Mapping[str, Sequence[Seen]]) -> dict[str, dict[str, Seen]]:
    """Pick people by how many cameras saw them; for each camera a box of each of them, of middling size."""
    chosen: dict[str, dict[str, Seen]] = {}
    for camid, boxes in seen.items():
        by_identity: defaultdict[str, list[Seen]] = defaultdict(list)
        for box in boxes:
            by_identity[box.identity].append(box)
        # The largest boxes are of people who walk together, the smallest of people half hidden.
        chosen[camid] = {i: sorted(own, key=area)[len(own) * 2 // 3] for i, own in by_identity.items()}
    identities = {identity for boxes in chosen.values() for identity in boxes}
    often = sorted(identities, key=lambda i: (-sum(i in boxes for boxes in chosen.values()), int(i)))[:PEOPLE]
    return {camid: {i: boxes[i] for i in often if i in boxes} for camid, boxes in chosen.items()}


def area(box: Seen) -> int:
    """Pixels of a box."""
    x1, y1, x2, y2 = box.corners
    return (x2 - x1) * (y2 - y1)


def read_frames(video: Path, wanted: set[int]) -> dict[int, NDArray[np.uint8]]:
    """Decode some frames of a video, counted from 0, as BGR."""
    frames = {}
    with av.open(str(video)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                frames[index] = np.asarray(frame.to_ndarray(format="bgr24"), dtype=np.uint8)
    return frames


def colour_of(identity: str) -> tuple[int, int, int]:
    """A colour for each identity, far from those of the identities just before and after it."""
    hue = int(int(identity) * 0.618034 * 180) % 180
    blue, green, red = cv2.cvtColor(np.array([[[hue, 190, 220]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
    return int(blue), int(green), int(red)


def label_view(image_HW3: NDArray[np.uint8], *, camid: str, boxes: Sequence[Seen]) -> NDArray[np.uint8]:
    """Draw the boxes and identities of one camera into its frame."""
    view = image_HW3.copy()
    for box in boxes:
        x1, y1, x2, y2 = box.corners
        colour, name = colour_of(box.identity), box.identity
        cv2.rectangle(view, (x1, y1), (x2, y2), colour, 2)
        write(view, name, (x1, max(y1 - 6, 14)), background=colour)
    write(view, camid, (10, 22), background=PAPER)
    return np.asarray(cv2.copyMakeBorder(view, 0, 0, 2, 2, cv2.BORDER_CONSTANT, value=PAPER), dtype=np.uint8)


def draw_people(
    images: Mapping[str, Mapping[int, NDArray[np.uint8]]], people: Mapping[str, Mapping[str, Seen]], *, width: int
) -> NDArray[np.uint8]:
    """Draw one column for each person, one row for each camera."""
    height, tile = TILE
    names = list(dict.fromkeys(identity for boxes in people.values() for identity in boxes))
    sheet = np.full((34 + len(people) * (height + 6) + 10, width, 3), PAPER, np.uint8)
    step = (width - 90) // max(PEOPLE, 1)
    for row, camid in enumerate(people):
        y = 34 + row * (height + 6)
        cv2.putText(sheet, camid, (14, y + height // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.6, INK, 1, cv2.LINE_AA)
        for column, identity in enumerate(names):
            x = 84 + column * step
            if row == 0:
                write(sheet, identity, (x, 22), background=colour_of(identity))
            if (box := people[camid].get(identity)) is not None:
                x1, y1, x2, y2 = np.maximum(box.corners, 0)
                crop = images[camid][box.frame][y1:y2, x1:x2]
                sheet[y : y + height, x : x + tile] = cv2.resize(crop, (tile, height), interpolation=cv2.INTER_AREA)
    return sheet


def write(image: NDArray[np.uint8], text: str, at: tuple[int, int], *, background: tuple[int, int, int]) -> None:
    """Write a line of text on a plate of colour; `at` is the left end of the baseline."""
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    x, y = at
    cv2.rectangle(image, (x, y - height - 5), (x + width + 6, y + 5), background, cv2.FILLED)
    ink = (255, 255, 255) if sum(background) < 380 else INK
    cv2.putText(image, text, (x + 3, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, ink, 1, cv2.LINE_AA)
