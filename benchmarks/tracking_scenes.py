"""Scenes that are hard to track in: many people, who cross, stop, turn, walk in pairs and pass behind pillars.

A scene is filmed once by the simulator's renderer and kept as a file: the truth, what the simulated detector finds at
10 and at 5 frames a second, the embedding of every detection where a bundle is given, and the pictures of a camera
that sways (its motion can be told from them alone).
"""

# T = frames, N = detections of a scene, G = true boxes of a scene, D = embedding; 4 = x1, y1, x2, y2 in pixels

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
from detections import SimulatedDetector

from reidge.demo.people import draw_people
from reidge.demo.render import Truth, render_camera
from reidge.demo.scene import HEIGHT, WIDTH, Obstacle, build_scene
from reidge.demo.schedule import Visit
from reidge.edge.crops import resize_crops
from reidge.edge.detection import Detections
from reidge.edge.quality import cut_out

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.demo.people import Person
    from reidge.demo.scene import Floor, Scene
    from reidge.edge.backends import EdgeEncoder

FPS = 10
RATES = (10, 5)
"""Frames a second at which each scene is seen."""
WARM_UP = 30.0
"""Seconds before the first frame in which people already come: the scene begins full."""
SEEN = 0.8
"""Share of a straight walk that is inside the frame."""
STONE = (0.58, 0.60, 0.62)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What makes a scene hard."""

    name: str
    in_view: float
    """People in view, on average."""
    restless: float = 0.0
    """Share of the people who stop and turn; the others walk straight through."""
    pairs: float = 0.0
    """Share of the people who come with somebody beside them."""
    pillars: int = 0
    """Things that stand in front, up to a metre wide."""
    sway: float = 0.0
    """How far the camera swings, pixels."""


KINDS = (
    Kind(name="crossings", in_view=6),
    Kind(name="crowd", in_view=12, restless=0.3, pairs=0.3),
    Kind(name="pillars", in_view=6, pillars=5, restless=0.2),
    Kind(name="restless", in_view=7, restless=0.9, pairs=0.2),
    Kind(name="sway", in_view=6, restless=0.2, sway=8.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One frame of a recorded scene."""

    at: float
    """Seconds."""
    truths: tuple[Truth, ...]
    detections: Detections
    pids_N: NDArray[np.int64]
    """Who each detection really shows."""
    embeddings_ND: NDArray[np.float32] | None
    image: NDArray[np.uint8] | None
    """BGR, where the camera sways."""


def film(kind: Kind, *, seed: int, seconds: float, encoder: EdgeEncoder | None, path: Path) -> None:
    """Render a scene and write its recording."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    scene = build_scene(int(rng.integers(3)), rng)
    if kind.pillars:
        scene = replace(scene, obstacles=tuple(_pillar(rng, turn, kind.pillars) for turn in range(kind.pillars)))
    visits = plan(kind, scene, seconds, rng)
    frames = round(seconds * FPS)
    detectors = {rate: SimulatedDetector(seed=[seed, KINDS.index(kind), rate]) for rate in RATES}
    tables: dict[str, list[NDArray[np.float64]]] = {"truth": [], **{f"found{rate}": [] for rate in RATES}}
    embeddings: dict[int, list[NDArray[np.float32]]] = {rate: [] for rate in RATES}
    pictures: list[NDArray[np.uint8]] = []
    swings_T33 = swing(kind.sway, frames, rng)
    rendered = render_camera(scene, visits, begin=0.0, frames=frames, fps=FPS, rng=rng)
    for index, (image, truths) in enumerate(rendered):
        if kind.sway:
            image, truths = shake(image, truths, swings_T33[index])
            pictures.append(np.asarray(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]))
        tables["truth"].append(_truth_rows(truths))
        for rate in RATES:
            if index % (FPS // rate) == 0:
                found = detectors[rate].detect(truths, index / FPS)
                boxes_N4, scores_N = found.detections.boxes_N4, found.detections.scores_N
                indices_N = np.full(len(scores_N), index)
                tables[f"found{rate}"].append(np.column_stack([indices_N, boxes_N4, scores_N, found.pids_N]))
                if encoder is not None:
                    embeddings[rate].append(_embed(encoder, image, boxes_N4))
    arrays = {name: np.concatenate(rows) for name, rows in tables.items()}
    if encoder is not None:
        arrays |= {f"embeddings{rate}": np.concatenate(rows).astype(np.float16) for rate, rows in embeddings.items()}
    if pictures:
        arrays |= {"pictures": np.concatenate(pictures), "picture_sizes": np.array([len(p) for p in pictures])}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, frames=frames, **arrays)
    partial.replace(path)


def recall(path: Path, rate: int) -> list[Shot]:
    """Read a recording as it is seen at so many frames a second."""
    with np.load(path) as arrays:
        truth_G7, found_N7 = arrays["truth"], arrays[f"found{rate}"]
        embeddings_ND = arrays[f"embeddings{rate}"].astype(np.float32) if f"embeddings{rate}" in arrays else None
        frames, ends_T = int(arrays["frames"]), np.cumsum(arrays["picture_sizes"]) if "pictures" in arrays else None
        pictures = arrays["pictures"] if ends_T is not None else None
        sizes = arrays["picture_sizes"] if ends_T is not None else None
    shots = []
    for index in range(0, frames, FPS // rate):
        rows = np.flatnonzero(found_N7[:, 0] == index)
        image = None
        if pictures is not None and ends_T is not None and sizes is not None:
            packed = pictures[ends_T[index] - sizes[index] : ends_T[index]]
            image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), dtype=np.uint8)
        shots.append(
            Shot(
                at=index / FPS,
                truths=tuple(_read_truth(row) for row in truth_G7[truth_G7[:, 0] == index + 1]),
                detections=Detections.from_arrays(found_N7[rows, 1:5], found_N7[rows, 5]),
                pids_N=found_N7[rows, 6].astype(np.int64),
                embeddings_ND=None if embeddings_ND is None else _unit(embeddings_ND[rows]),
                image=image,
            )
        )
    return shots


def plan(kind: Kind, scene: Scene, seconds: float, rng: np.random.Generator) -> list[Visit]:
    """Send people through the view one after the other, as many at once as asked; each comes once.

    A walk with stops and turns is a row of visits, each a straight line.
    """
    people = iter(draw_people(round(kind.in_view * (seconds + WARM_UP) / 4) + 8, rng))
    visits: list[Visit] = []
    start = -WARM_UP
    while start < seconds:
        restless = bool(rng.random() < kind.restless)
        walk = _walk(next(people), scene, start, restless, rng)
        visits += walk
        if rng.random() < kind.pairs:
            visits += _beside(next(people), walk, rng)
        seen = (1.0 if restless else SEEN) * (1 + kind.pairs) * (walk[-1].end - walk[0].start)
        start += float(rng.exponential(seen / kind.in_view))
    return visits


def _walk(person: Person, scene: Scene, start: float, restless: bool, rng: np.random.Generator) -> list[Visit]:
    """One person's way through the view."""
    origin, target = scene.random_path(rng)
    ways: list[tuple[Floor, float]] = [(target, person.pace)]
    if restless:
        for _ in range(int(rng.integers(2, 5))):
            away = float(rng.uniform(5.6, 9.4))
            ways.insert(0, ((float(rng.uniform(-0.42, 0.42)) * away, away), person.pace * float(rng.uniform(0.6, 1.5))))
    visits = []
    for place, pace in ways:
        seconds = max(math.dist(origin, place) / pace, 0.1)
        visits.append(Visit(person=person, camera=0, start=start, seconds=seconds, origin=origin, target=place))
        start, origin = start + seconds, place
        if restless and place != target and rng.random() < 0.6:
            pause, facing = float(rng.uniform(0.5, 2.5)), visits[-1].direction
            nearly = (place[0] + 1e-3 * facing[0], place[1] + 1e-3 * facing[1])
            visits.append(Visit(person=person, camera=0, start=start, seconds=pause, origin=place, target=nearly))
            start += pause
    return visits


def _beside(person: Person, walk: Sequence[Visit], rng: np.random.Generator) -> list[Visit]:
    """Somebody who walks beside another person, half a metre away."""
    dx, dz = float(rng.choice([-0.55, 0.55])), float(rng.uniform(-0.35, 0.35))

    def moved(place: Floor) -> Floor:
        return place[0] + dx, max(place[1] + dz, 4.4)

    return [replace(v, person=person, origin=moved(v.origin), target=moved(v.target)) for v in walk]


def _pillar(rng: np.random.Generator, turn: int, count: int) -> Obstacle:
    """The one of `count` things in front that stands `turn`-th from the left."""
    away, wide = float(rng.uniform(5.3, 6.0)), float(rng.choice([0.35, 0.5, 0.9]))
    left = ((turn + float(rng.uniform(0.25, 0.75))) / count - 0.5) * (WIDTH / 560 * away - wide)
    return Obstacle(at=(left, away), width=wide, height=float(rng.choice([3.4, 3.4, 1.3])), colour=STONE)


def swing(pixels: float, frames: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """How a swaying camera moves its picture, `(T, 3, 3)`: slow swings, a little roll, and a jolt now and then."""
    time_T = np.arange(frames) / FPS

    def waves(size: float) -> NDArray[np.float64]:
        rates, phases = rng.uniform(0.15, 1.0, 3), rng.uniform(0, math.tau, 3)
        return np.asarray(size * np.sin(math.tau * rates[:, None] * time_T + phases[:, None]).sum(axis=0) / 1.5)

    x_T, y_T, roll_T = waves(pixels), waves(0.6 * pixels), waves(pixels / 1500)
    for jolt in np.flatnonzero(rng.random(frames) < 0.02):
        after_T = np.clip(time_T - time_T[jolt], 0, None)
        kick = 2.5 * pixels * np.exp(-after_T / 0.6) * np.sin(math.tau * 1.3 * after_T)
        x_T, y_T = x_T + float(rng.normal()) * kick, y_T + float(rng.normal()) * kick
    middle_33, back_33 = np.eye(3), np.eye(3)
    middle_33[:2, 2], back_33[:2, 2] = (WIDTH / 2, HEIGHT / 2), (-WIDTH / 2, -HEIGHT / 2)
    moves_T33 = np.tile(np.eye(3), (frames, 1, 1))
    moves_T33[:, 0, 0] = moves_T33[:, 1, 1] = np.cos(roll_T)
    moves_T33[:, 1, 0], moves_T33[:, 0, 1] = np.sin(roll_T), -np.sin(roll_T)
    moves_T33[:, 0, 2], moves_T33[:, 1, 2] = x_T, y_T
    return np.asarray(middle_33 @ moves_T33 @ back_33)


def shake(
    image: NDArray[np.uint8], truths: Sequence[Truth], move_33: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], list[Truth]]:
    """Move a picture and the truth about it as the camera swings; who leaves the picture has no box."""
    image = np.asarray(cv2.warpAffine(image, move_33[:2], (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT))
    moved = []
    for truth in truths:
        centre_3 = move_33 @ [(truth.x1 + truth.x2) / 2, (truth.y1 + truth.y2) / 2, 1]
        dx, dy = round(centre_3[0] - (truth.x1 + truth.x2) / 2), round(centre_3[1] - (truth.y1 + truth.y2) / 2)
        x1, x2 = max(truth.x1 + dx, 0), min(truth.x2 + dx, WIDTH)
        y1, y2 = max(truth.y1 + dy, 0), min(truth.y2 + dy, HEIGHT)
        if x1 < x2 and y1 < y2:
            shown = (x2 - x1) * (y2 - y1) / ((truth.x2 - truth.x1) * (truth.y2 - truth.y1))
            moved.append(replace(truth, x1=x1, y1=y1, x2=x2, y2=y2, visibility=truth.visibility * shown))
    return image, moved


def _embed(encoder: EdgeEncoder, image: NDArray[np.uint8], boxes_N4: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the encoder says of every detection, good picture or bad."""
    spec = encoder.bundle.manifest.input
    crops = [cut_out(image, box_4, padding=0.03) for box_4 in boxes_N4]
    return encoder.embed(resize_crops(crops, size=spec.size, method=spec.resize))


def _truth_rows(truths: Sequence[Truth]) -> NDArray[np.float64]:
    rows = [(t.frame, t.pid, t.x1, t.y1, t.x2, t.y2, t.visibility) for t in truths]
    return np.array(rows, dtype=np.float64).reshape(-1, 7)


def _read_truth(row_7: NDArray[np.float64]) -> Truth:
    frame, pid, x1, y1, x2, y2 = (int(value) for value in row_7[:6])
    return Truth(frame=frame, pid=pid, x1=x1, y1=y1, x2=x2, y2=y2, visibility=float(row_7[6]))


def _unit(embeddings_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Undo what rounding to 16 bits did to the length."""
    lengths_N1 = np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
    return np.asarray(embeddings_ND / np.maximum(lengths_N1, 1e-6), dtype=np.float32)
