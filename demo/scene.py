"""What one simulated camera sees besides people: floor, walls, things in front; and its own picture quality."""

# H, W = height and width of the frame

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reidge.demo.people import Colour

WIDTH, HEIGHT = 640, 360
FOCAL_LENGTH = 560.0
"""Pixels."""
NEAR, FAR = 5.2, 10.0
"""Metres from the camera between which people walk."""
Floor = tuple[float, float]
"""A place on the floor, metres: right of the optical axis, away from the camera."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Something upright that hides whoever walks behind it."""

    at: Floor
    width: float
    """Metres, likewise the height."""
    height: float
    colour: Colour


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The picture quality of a camera."""

    gain: Colour
    """Factor on blue, green and red: white balance and exposure."""
    gamma: float
    saturation: float
    noise: float
    """Standard deviation, grey levels of 255."""
    blur: float
    """Standard deviation, pixels; 0 is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One camera: where it stands, what it sees, how it renders it."""

    camid: str
    camera_height: float
    """Metres above the floor."""
    horizon: float
    """Row of the frame."""
    look: Look
    obstacles: tuple[Obstacle, ...]
    light: tuple[float, float]
    """Brightness at the left and right edge of the view."""
    background: NDArray[np.uint8] = field(repr=False)
    """`(H, W, 3)` BGR, before the camera's picture quality is applied."""
    grain: tuple[NDArray[np.int16], ...] = field(repr=False)
    """Some frames of sensor noise, `(H, W, 3)`; drawing new noise for each frame costs more than all the rest."""

    def project(self, at: Floor) -> tuple[float, float, float]:
        """Column and row in the frame of a place on the floor, and pixels per metre there."""
        scale = FOCAL_LENGTH / at[1]
        return WIDTH / 2 + scale * at[0], self.horizon + scale * self.camera_height, scale

    def brightness(self, column: float) -> float:
        """Light that falls on a person at a column of the frame."""
        share = min(max(column / WIDTH, 0.0), 1.0)
        return self.light[0] + share * (self.light[1] - self.light[0])

    def random_path(self, rng: np.random.Generator) -> tuple[Floor, Floor]:
        """Two ends of a straight walk: mostly from one side of the frame to the other, sometimes towards or away."""
        if rng.random() < 0.7:
            near, far = sorted(float(v) for v in rng.uniform(NEAR + 0.3, FAR - 0.5, size=2))
            ends = [_edge(near if rng.random() < 0.5 else far, -1), _edge(far if rng.random() < 0.5 else near, 1)]
        else:
            side = float(rng.uniform(-1.6, 1.6))
            ends = [(side, FAR), (float(np.clip(side + rng.uniform(-1.2, 1.2), -1.6, 1.6)), NEAR - 0.6)]
        if rng.random() < 0.5:
            ends.reverse()
        return ends[0], ends[1]

    def develop(self, image_HW3: NDArray[np.uint8], time: float, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Turn the scene's light into this camera's picture: colour response, exposure drift, blur and noise."""
        look = self.look
        exposure = 1.0 + 0.03 * math.sin(time / 17.0)
        grey = np.full((3, 3), 1 / 3) * (1 - look.saturation)
        response = np.diag(np.array(look.gain) * exposure) @ (grey + np.eye(3) * look.saturation)
        image = cv2.transform(image_HW3, response.astype(np.float32))
        levels = 255 * (np.arange(256) / 255) ** look.gamma
        image = cv2.LUT(image, levels.astype(np.uint8))
        if look.blur > 0:
            image = cv2.GaussianBlur(image, (5, 5), look.blur)
        grain = self.grain[int(rng.integers(len(self.grain)))]
        return np.asarray(cv2.add(image, grain, dtype=cv2.CV_8U), dtype=np.uint8)


def _edge(distance: float, side: int) -> Floor:
    """A place just outside the left (-1) or right (1) edge of the frame."""
    return side * (WIDTH / 2 / FOCAL_LENGTH * distance + 0.5), distance


LOOKS = (
    Look(gain=(0.97, 1.00, 1.02), gamma=1.00, saturation=1.00, noise=2.0, blur=0.0),
    Look(gain=(0.97, 0.95, 0.93), gamma=1.03, saturation=0.95, noise=3.0, blur=0.7),
    Look(gain=(0.99, 1.04, 1.02), gamma=0.97, saturation=1.00, noise=2.5, blur=0.5),
)
MATERIALS: tuple[Colour, ...] = (
    (0.59, 0.62, 0.65),
    (0.42, 0.43, 0.45),
    (0.50, 0.55, 0.60),
    (0.54, 0.53, 0.50),
    (0.37, 0.42, 0.49),
    (0.67, 0.69, 0.70),
    (0.30, 0.33, 0.34),
    (0.45, 0.50, 0.46),
)
"""Of floors and walls, the same everywhere: what stands behind a person does not give the camera away."""


def build_scene(index: int, rng: np.random.Generator) -> Scene:
    """Build the camera `index` (from 0); the first three are set by hand, later ones vary them at random."""
    look = LOOKS[index % len(LOOKS)]
    if index >= len(LOOKS):
        gain = rng.uniform(0.88, 1.08, size=3)
        look = Look(
            gain=(float(gain[0]), float(gain[1]), float(gain[2])),
            gamma=float(rng.uniform(0.93, 1.08)),
            saturation=float(rng.uniform(0.85, 1.05)),
            noise=float(rng.uniform(2, 3.5)),
            blur=float(rng.choice([0.0, 0.6, 0.9])),
        )
    camera_height, horizon = float(rng.uniform(2.7, 3.1)), float(rng.uniform(18, 40))
    obstacles = _place_obstacles(index, rng)
    light = (float(rng.uniform(0.8, 1.1)), float(rng.uniform(0.8, 1.1)))
    return Scene(
        camid=f"cam{index + 1}",
        camera_height=camera_height,
        horizon=horizon,
        look=look,
        obstacles=obstacles,
        light=light,
        background=_paint_background(light, camera_height, horizon, rng),
        grain=tuple(rng.normal(0, look.noise, size=(HEIGHT, WIDTH, 3)).round().astype(np.int16) for _ in range(8)),
    )


def _place_obstacles(index: int, rng: np.random.Generator) -> tuple[Obstacle, ...]:
    wood, stone, leaf = (0.20, 0.32, 0.46), (0.58, 0.60, 0.62), (0.20, 0.36, 0.22)
    pillar = Obstacle(at=(float(rng.uniform(-2.2, 2.2)), 6.2), width=0.34, height=3.4, colour=stone)
    bench = Obstacle(at=(float(rng.uniform(-2.0, 2.0)), 6.8), width=1.5, height=0.5, colour=wood)
    planter = Obstacle(at=(float(rng.uniform(-2.4, 2.4)), 5.9), width=0.8, height=0.75, colour=leaf)
    return ((pillar, bench), (bench, planter), (planter, pillar))[index % 3]


def _paint_background(
    light: tuple[float, float], camera_height: float, horizon: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Paint wall panels and floor slabs of changing materials, lit from one side."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    foot_of_wall = horizon + FOCAL_LENGTH * camera_height / (FAR + 0.6)
    distance = FOCAL_LENGTH * camera_height / np.maximum(rows - horizon, 1)
    across = (columns - WIDTH / 2) * distance / FOCAL_LENGTH
    materials = np.array(MATERIALS)
    slabs = rng.choice(len(materials), p=_favouring_three(rng), size=(64, 64))
    ground = materials[slabs[_cell(across, 1.5), _cell(distance, 1.5)]]
    panels = rng.choice(len(materials), p=_favouring_three(rng), size=(64, 64))
    upright = materials[panels[_cell(columns, 90), _cell(rows, foot_of_wall * 0.62)]]
    image = np.where((rows > foot_of_wall)[..., None], ground, upright)
    smooth = cv2.resize(rng.normal(1, 0.06, size=(18, 32)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(1, 0.025, size=(HEIGHT, WIDTH))
    shine = np.linspace(light[0], light[1], WIDTH)[None, :]
    image *= (smooth * grain * shine)[..., None]
    return np.asarray(np.clip(image * 255, 0, 255), dtype=np.uint8)


def _cell(position: NDArray[np.float64], size: float) -> NDArray[np.intp]:
    return (np.floor(position / size) % 64).astype(np.intp)


def _favouring_three(rng: np.random.Generator) -> NDArray[np.float64]:
    """Shares of the materials in one place: three of them are common, the rest rare."""
    shares = np.full(len(MATERIALS), 0.04)
    shares[rng.choice(len(MATERIALS), size=3, replace=False)] += (1 - shares.sum()) / 3
    return np.asarray(shares / shares.sum())
