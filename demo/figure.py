"""Draws a walking person, seen from any side, as a picture with transparency.

A body is a dozen tapered capsules in three dimensions. Each is drawn by its outline in the image plane, keeps its depth
per pixel (nearer parts cover farther ones), and carries its pattern by angle around the body and height along it: a
print on the chest is gone from behind, a backpack is hidden from the front.
"""

# H, W = height and width of the sprite; P = pixels of one part

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from reidge.demo.people import Colour, Pattern, Person

PIXELS_PER_METRE = 110.0
SPRITE_HEIGHT = 2.15
"""Metres from the lower edge of a sprite to its upper edge; the feet stand `FOOT_MARGIN` above the lower edge."""
SPRITE_WIDTH = 1.5
FOOT_MARGIN = 0.1
LIGHT = np.array([-0.4, 0.6, 0.69])
"""Direction to the light: right, up, towards the camera."""

Point = tuple[float, float, float]
"""Metres in the frame of the body: to its left hand (seen from the front: right), up, to its front."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A tapered capsule of the body."""

    start: Point
    end: Point
    start_radius: float
    end_radius: float
    colour: Colour
    accent: Colour | None = None
    pattern: Pattern = "plain"
    depth_ratio: float = 1.0
    """Front-to-back extent over the lateral one; 1 is round."""
    cap_ratio: float = 1.0
    """How far the ends bulge, in radii; 0 is cut straight."""
    opening: Colour | None = None
    """Colour of what shows in the middle of the front, where a jacket is open."""


def draw_figure(person: Person, *, heading: float, phase: float, tilt: float) -> NDArray[np.uint8]:
    """Draw one pose.

    Args:
        person: Who.
        heading: Angle from the direction to the camera to where the person walks, radians; 0 walks to the camera,
            pi/2 to the right of the image.
        phase: Of the walk, radians; 2 pi is two steps.
        tilt: How far the camera looks down, radians.

    Returns:
        `(H, W, 4)` BGRA, alpha 0 or 255.
    """
    height, width = int(SPRITE_HEIGHT * PIXELS_PER_METRE), int(SPRITE_WIDTH * PIXELS_PER_METRE)
    sprite_HW4 = np.zeros((height, width, 4), np.uint8)
    depth_HW = np.full((height, width), -np.inf, np.float32)
    for part in _body(person, phase):
        _draw_part(sprite_HW4, depth_HW, part, heading=heading, tilt=tilt)
    return sprite_HW4


def _body(person: Person, phase: float) -> Iterator[Part]:
    tall, wide = person.height / 1.75, person.girth
    hip, shoulder, neck = 0.92 * tall, 1.42 * tall, 1.50 * tall
    yield from _legs(person, phase, hip, tall, wide)
    yield from _torso(person, hip, shoulder, wide)
    yield from _arms(person, phase, shoulder, tall, wide)
    yield from _head(person, neck, tall)
    yield from _bag(person, hip, shoulder, wide)


def _legs(person: Person, phase: float, hip: float, tall: float, wide: float) -> Iterator[Part]:
    bare_below = {"trousers": 0.0, "shorts": 0.52, "skirt": 0.55, "long skirt": 0.25}[person.bottom] * tall
    for side in (-1.0, 1.0):
        swing = 0.45 * np.sin(phase + (0 if side > 0 else np.pi))
        bend = 0.5 * max(0.0, float(np.cos(phase + (0 if side > 0 else np.pi))))
        x = side * 0.095 * wide
        knee = (x, hip - 0.44 * tall * float(np.cos(swing)), 0.44 * tall * float(np.sin(swing)))
        shin = swing - bend
        ankle = (x, knee[1] - 0.42 * tall * float(np.cos(shin)), knee[2] + 0.42 * tall * float(np.sin(shin)))
        upper = person.bottom_colour
        lower = person.skin if bare_below > 0 else person.bottom_colour
        yield Part(start=(x, hip, 0), end=knee, start_radius=0.095 * wide, end_radius=0.068 * wide, colour=upper)
        yield Part(start=knee, end=ankle, start_radius=0.064 * wide, end_radius=0.045 * wide, colour=lower)
        toe = (x, ankle[1] - 0.02, ankle[2] + 0.14)
        yield Part(start=ankle, end=toe, start_radius=0.05, end_radius=0.04, colour=person.shoes)
    if person.bottom in ("skirt", "long skirt"):
        hem = bare_below + 0.06
        yield Part(
            start=(0, hip + 0.04, 0),
            end=(0, hem, 0),
            start_radius=0.16 * wide,
            end_radius=0.23 * wide,
            colour=person.bottom_colour,
            depth_ratio=0.85,
            cap_ratio=0.15,
        )


def _torso(person: Person, hip: float, shoulder: float, wide: float) -> Iterator[Part]:
    hem = hip - (0.32 if person.top == "coat" else 0.04)
    yield Part(
        start=(0, shoulder - 0.06, 0),
        end=(0, hem, 0),
        start_radius=0.205 * wide,
        end_radius=(0.20 if person.top == "coat" else 0.165) * wide,
        colour=person.top_colour,
        accent=person.accent,
        pattern=person.top_pattern,
        depth_ratio=0.68,
        cap_ratio=0.3,
        opening=person.accent if person.top == "open jacket" else None,
    )


def _arms(person: Person, phase: float, shoulder: float, tall: float, wide: float) -> Iterator[Part]:
    sleeve = person.accent if person.top_pattern == "sleeves" else person.top_colour
    forearm = person.skin if person.top == "t-shirt" else sleeve
    for side in (-1.0, 1.0):
        swing = 0.4 * float(np.sin(phase + (np.pi if side > 0 else 0)))
        x = side * 0.235 * wide
        start = (x, shoulder - 0.03, 0.0)
        elbow = (x * 1.08, start[1] - 0.29 * tall * float(np.cos(swing)), 0.29 * tall * float(np.sin(swing)))
        bent = swing + 0.25
        hand = (x * 1.08, elbow[1] - 0.25 * tall * float(np.cos(bent)), elbow[2] + 0.25 * tall * float(np.sin(bent)))
        yield Part(start=start, end=elbow, start_radius=0.065 * wide, end_radius=0.052 * wide, colour=sleeve)
        yield Part(start=elbow, end=hand, start_radius=0.05 * wide, end_radius=0.04 * wide, colour=forearm)
        yield Part(start=hand, end=(hand[0], hand[1] - 0.05, hand[2]), start_radius=0.042, end_radius=0.03,
                   colour=person.skin)  # fmt: skip


def _head(person: Person, neck: float, tall: float) -> Iterator[Part]:
    chin, crown = (0.0, neck + 0.06 * tall, 0.02), (0.0, neck + 0.17 * tall, 0.01)
    yield Part(start=(0, neck - 0.06, 0), end=chin, start_radius=0.055, end_radius=0.06, colour=person.skin)
    yield Part(start=chin, end=crown, start_radius=0.078, end_radius=0.088, colour=person.skin)
    if person.hair == "bald":
        return
    colour = person.accent if person.hair == "cap" else person.hair_colour
    back = (0.0, crown[1] + 0.01, -0.025)
    nape = neck + {"short": 0.10, "long": -0.16, "bun": 0.10, "cap": 0.14}[person.hair] * tall
    yield Part(start=back, end=(0, nape, -0.05), start_radius=0.095, end_radius=0.08, colour=colour)
    yield Part(start=back, end=(0, crown[1] + 0.03, 0.02), start_radius=0.09, end_radius=0.08, colour=colour)
    if person.hair == "bun":
        yield Part(start=(0, crown[1] + 0.07, -0.08), end=(0, crown[1] + 0.08, -0.1), start_radius=0.06,
                   end_radius=0.055, colour=colour)  # fmt: skip
    if person.hair == "cap":
        yield Part(start=(0, crown[1], 0.07), end=(0, crown[1] - 0.01, 0.15), start_radius=0.055, end_radius=0.04,
                   colour=colour)  # fmt: skip


def _bag(person: Person, hip: float, shoulder: float, wide: float) -> Iterator[Part]:
    colour = person.bag_colour
    back = -0.20 * wide
    if person.bag == "backpack":
        yield Part(start=(0, shoulder - 0.10, back), end=(0, hip + 0.12, back), start_radius=0.14, end_radius=0.155,
                   colour=colour, depth_ratio=0.75, cap_ratio=0.5)  # fmt: skip
        for side in (-0.11, 0.11):
            front = 0.135 * wide
            yield Part(start=(side, shoulder - 0.02, front * 0.7), end=(side, hip + 0.2, front), start_radius=0.024,
                       end_radius=0.024, colour=colour)  # fmt: skip
    elif person.bag == "shoulder bag":
        x = 0.25 * wide
        yield Part(start=(x, hip + 0.08, -0.03), end=(x, hip - 0.12, -0.03), start_radius=0.115, end_radius=0.125,
                   colour=colour)  # fmt: skip
        yield Part(start=(-0.12, shoulder, 0.11 * wide), end=(x, hip + 0.1, 0.13 * wide), start_radius=0.022,
                   end_radius=0.022, colour=colour)  # fmt: skip
    elif person.bag == "handbag":
        x = -0.30 * wide
        yield Part(start=(x, hip - 0.18, 0.02), end=(x, hip - 0.34, 0.02), start_radius=0.10, end_radius=0.13,
                   colour=colour)  # fmt: skip


def _project(point: Point, heading: float, tilt: float) -> tuple[float, float, float]:
    """Body coordinates to metres right, up and towards the camera (orthographic)."""
    x, y, z = point
    right = x * np.cos(heading) + z * np.sin(heading)
    near = z * np.cos(heading) - x * np.sin(heading)
    return float(right), float(y * np.cos(tilt) - near * np.sin(tilt)), float(near * np.cos(tilt) + y * np.sin(tilt))


def _draw_part(
    sprite_HW4: NDArray[np.uint8], depth_HW: NDArray[np.float32], part: Part, *, heading: float, tilt: float
) -> None:
    height, width = depth_HW.shape
    ax, ay, az = _project(part.start, heading, tilt)
    bx, by, bz = _project(part.end, heading, tilt)
    # Half-axes of the elliptic cross-section, as seen: across the image, and towards the camera.
    across = float(np.hypot(np.cos(heading), part.depth_ratio * np.sin(heading)))
    along = float(np.hypot(np.sin(heading), part.depth_ratio * np.cos(heading)))
    reach = max(part.start_radius, part.end_radius) * max(across, 1e-3)
    x1, x2 = _span(ax, bx, reach, width / 2, width)
    y2, y1 = (height - v for v in _span(ay, by, reach, FOOT_MARGIN * PIXELS_PER_METRE, height))
    if x1 >= x2 or y1 >= y2:
        return
    px = (np.arange(x1, x2) + 0.5 - width / 2)[None, :] / PIXELS_PER_METRE
    py = ((height - np.arange(y1, y2)) - 0.5)[:, None] / PIXELS_PER_METRE - FOOT_MARGIN
    dx, dy = bx - ax, by - ay
    length = max(float(np.hypot(dx, dy)), 1e-4)
    position = ((px - ax) * dx + (py - ay) * dy) / length**2
    t = np.clip(position, 0, 1)
    beyond = (position - t) * length
    off_x, off_y = px - (ax + t * dx), py - (ay + t * dy)
    radius = (part.start_radius + t * (part.end_radius - part.start_radius)) * across
    distance = np.sqrt(off_x**2 + off_y**2 + beyond**2 * (part.cap_ratio**-2 - 1)) / radius
    bulge = np.sqrt(np.maximum(0, 1 - distance**2))
    depth = az + t * (bz - az) + bulge * radius * along / across
    window = (slice(y1, y2), slice(x1, x2))
    seen = (distance < 1) & (depth > depth_HW[window])
    if not seen.any():
        return
    depth_HW[window][seen] = depth[seen]
    side = np.clip(off_x / radius, -1, 1)
    azimuth = np.arcsin(side)[seen] - heading
    shade = 0.62 + 0.46 * np.clip(LIGHT[0] * side + LIGHT[1] * off_y / radius + LIGHT[2] * bulge, 0, 1)
    colours_P3 = _texture(part, azimuth, np.broadcast_to(t, seen.shape)[seen]) * shade[seen][:, None]
    patch = sprite_HW4[window]
    patch[seen, :3] = np.clip(colours_P3 * 255, 0, 255).astype(np.uint8)
    patch[seen, 3] = 255


def _span(a: float, b: float, reach: float, origin: float, limit: int) -> tuple[int, int]:
    low = int(np.floor((min(a, b) - reach) * PIXELS_PER_METRE + origin))
    high = int(np.ceil((max(a, b) + reach) * PIXELS_PER_METRE + origin)) + 1
    return max(low, 0), min(high, limit)


def _texture(part: Part, azimuth: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colour `(P, 3)` by azimuth around the body (0 is the front) and position `t` along the part."""
    base_3 = np.array(part.colour)
    colours_P3 = np.broadcast_to(base_3, (len(t), 3)).copy()
    turn = np.angle(np.exp(1j * azimuth))  # to -pi..pi
    if part.accent is not None:
        colours_P3[_accented(part.pattern, turn, t)] = part.accent
    if part.opening is not None:
        colours_P3[np.abs(turn) < 0.42] = part.opening
    return colours_P3


def _accented(pattern: Pattern, turn: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.bool_]:
    if pattern == "hoops":
        return (t * 4.5) % 1 < 0.45
    if pattern == "pinstripes":
        return (turn * 3.2) % 1 < 0.35
    if pattern == "checks":
        return ((turn * 2.4) % 1 < 0.5) ^ ((t * 5) % 1 < 0.5)
    if pattern == "two-tone":
        return t < 0.42
    if pattern == "front print":
        return (np.abs(turn) < 0.6) & (np.abs(t - 0.35) < 0.17)
    if pattern == "back print":
        return (np.abs(turn) > np.pi - 0.7) & (np.abs(t - 0.4) < 0.22)
    return np.zeros(len(t), dtype=bool)
