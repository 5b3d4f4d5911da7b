"""Puts people into a scene, frame by frame, and knows what of each is visible."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from reidge.demo.figure import FOOT_MARGIN, PIXELS_PER_METRE, draw_figure
from reidge.demo.scene import HEIGHT, WIDTH

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from reidge.demo.people import Person
    from reidge.demo.scene import Obstacle, Scene
    from reidge.demo.schedule import Visit

PHASES = 10
"""Poses of one walking cycle that are drawn."""
HEADING_STEP = math.radians(15)
STRIDE_METRES = 1.45
"""Way of one walking cycle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Where one person really is in one frame."""

    frame: int
    """From 1 within its footage, as in the MOT format."""
    pid: int
    x1: int
    """Box of the whole person, clipped to the frame; the far edges are exclusive."""
    y1: int
    x2: int
    y2: int
    visibility: float
    """Share of the person's pixels that are in the frame and not covered, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cutout:
    """A figure scaled for its place in the frame; the arrays are the part inside the frame."""

    x: int
    y: int
    colour: NDArray[np.uint8]
    alpha: NDArray[np.uint8]
    pixels: int
    """Opaque pixels, those outside the frame included."""


def render_camera(
    scene: Scene, visits: Sequence[Visit], *, begin: float, frames: int, fps: int, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.uint8], list[Truth]]]:
    """Yield frames of one camera from `begin` seconds on, `(360, 640, 3)` BGR, each with the truth about it."""
    props = [(_draw_obstacle(scene, obstacle), obstacle.at[1]) for obstacle in scene.obstacles]
    for index in range(frames):
        time = begin + index / fps
        present = [visit for visit in visits if visit.start <= time < visit.end]
        image, truths = _compose(scene, present, props, time, frame=index + 1)
        yield scene.develop(image, time, rng), truths


def _compose(
    scene: Scene, present: Sequence[Visit], props: Sequence[tuple[_Cutout, float]], time: float, *, frame: int
) -> tuple[NDArray[np.uint8], list[Truth]]:
    image = scene.background.copy()
    owner = np.zeros((HEIGHT, WIDTH), np.int32)
    layers = [(cut, distance, 0) for cut, distance in props]
    for visit in present:
        at = visit.position(time)
        cut = _draw_person(scene, visit, at, time)
        if cut is not None:
            _cast_shadow(image, scene, at, visit.person)
            layers.append((cut, at[1], visit.person.pid))
    layers.sort(key=lambda layer: -layer[1])  # far things first
    for cut, _, pid in layers:
        _paste(image, cut)
        window = owner[cut.y : cut.y + cut.alpha.shape[0], cut.x : cut.x + cut.alpha.shape[1]]
        window[cut.alpha > 127] = pid
    return image, [_truth(cut, pid, owner, frame) for cut, _, pid in layers if pid and (cut.alpha > 127).any()]


def _truth(cut: _Cutout, pid: int, owner: NDArray[np.int32], frame: int) -> Truth:
    rows, columns = np.nonzero(cut.alpha > 127)
    return Truth(
        frame=frame,
        pid=pid,
        x1=cut.x + int(columns.min()),
        y1=cut.y + int(rows.min()),
        x2=cut.x + int(columns.max()) + 1,
        y2=cut.y + int(rows.max()) + 1,
        visibility=round(float((owner == pid).sum()) / max(cut.pixels, 1), 3),
    )


def _draw_person(scene: Scene, visit: Visit, at: tuple[float, float], time: float) -> _Cutout | None:
    column, row, scale = scene.project(at)
    dx, dz = visit.direction
    heading = math.atan2(dx, -dz) - math.atan2(at[0], at[1])
    tilt = math.atan2(scene.camera_height - 0.9, at[1])
    walked = (time - visit.start) * visit.person.pace
    phase = int((walked / STRIDE_METRES + visit.person.gait / math.tau) * PHASES) % PHASES
    sprite = _sprite(visit.person, round(heading / HEADING_STEP), phase, round(tilt, 1))
    factor = scale / PIXELS_PER_METRE
    small = cv2.resize(sprite, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    colour = np.clip(small[..., :3] * scene.brightness(column), 0, 255).astype(np.uint8)
    left = round(column - small.shape[1] / 2)
    top = round(row + FOOT_MARGIN * scale - small.shape[0])
    return _clip(colour, np.asarray(small[..., 3], dtype=np.uint8), left, top)


@lru_cache(maxsize=256)  # those of the people in view
def _sprite(person: Person, heading_steps: int, phase: int, tilt: float) -> NDArray[np.uint8]:
    """Draw a pose, colours multiplied by alpha so that scaling leaves no dark rim."""
    return draw_figure(person, heading=heading_steps * HEADING_STEP, phase=phase * math.tau / PHASES, tilt=tilt)


def _draw_obstacle(scene: Scene, obstacle: Obstacle) -> _Cutout:
    column, row, scale = scene.project(obstacle.at)
    width, height = round(obstacle.width * scale), round(obstacle.height * scale)
    grain = np.random.default_rng(width * 1000 + height).normal(1, 0.05, size=(height, width, 1))
    shade = np.linspace(1.05, 0.8, width)[None, :, None] * scene.brightness(column)
    colour = np.clip(np.array(obstacle.colour) * grain * shade * 255, 0, 255).astype(np.uint8)
    cut = _clip(colour, np.full((height, width), 255, np.uint8), round(column - width / 2), round(row) - height)
    assert cut is not None, "an obstacle stands outside the view"
    return cut


def _clip(colour: NDArray[np.uint8], alpha: NDArray[np.uint8], left: int, top: int) -> _Cutout | None:
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + alpha.shape[1], WIDTH), min(top + alpha.shape[0], HEIGHT)
    if x1 >= x2 or y1 >= y2:
        return None
    inside = (slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))
    return _Cutout(x=x1, y=y1, colour=colour[inside], alpha=alpha[inside], pixels=int((alpha > 127).sum()))


def _paste(image: NDArray[np.uint8], cut: _Cutout) -> None:
    height, width = cut.alpha.shape
    window = image[cut.y : cut.y + height, cut.x : cut.x + width]
    keep = (255 - cut.alpha.astype(np.uint16))[..., None]
    window[:] = np.minimum(window * keep // 255 + cut.colour, 255).astype(np.uint8)


def _cast_shadow(image: NDArray[np.uint8], scene: Scene, at: tuple[float, float], person: Person) -> None:
    column, row, scale = scene.project(at)
    axes = (max(1, round(0.34 * person.girth * scale)), max(1, round(0.11 * scale)))
    x1, x2 = max(0, round(column) - axes[0]), min(WIDTH, round(column) + axes[0])
    y1, y2 = max(0, round(row) - axes[1]), min(HEIGHT, round(row) + axes[1])
    if x1 >= x2 or y1 >= y2:
        return
    across = (np.arange(x1, x2)[None, :] - column) / axes[0]
    deep = (np.arange(y1, y2)[:, None] - row) / axes[1]
    dark = 1 - 0.3 * np.clip(1 - across**2 - deep**2, 0, 1)
    image[y1:y2, x1:x2] = (image[y1:y2, x1:x2] * dark[..., None]).astype(np.uint8)
