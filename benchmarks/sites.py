"""The three simulated sites on which identities are scored, and what is filmed there without a video file.

Half of the people of a site come in both halves of its time, the other half are strangers who come in the second one
only. A fifth of all are dressed like somebody else and differ in build, hair, skin and bag alone. They walk from camera
to camera through a building, so that the way between two cameras takes as long as they are apart. The same values give
the same site.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from detections import DetectorFaults, SimulatedDetector
from pydantic import BaseModel, Field

from reidge.demo.people import draw_people, dress_alike
from reidge.demo.render import render_camera
from reidge.demo.scene import build_scene
from reidge.demo.schedule import Visit
from reidge.edge.frame import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from reidge.demo.people import Person
    from reidge.demo.render import Truth
    from reidge.demo.scene import Scene
    from reidge.edge.detection import Detections

STARTED_AT = 1_750_000_000.0
PEOPLE_AT_ONCE = 120
"""People drawn together, all of them dressed differently; there are not enough clothes for many more."""
VISIT_SECONDS = 5.6
"""A view is crossed in, on average."""
STOP_SECONDS = 35.0
"""A view and the way to the next take, for those who are slow."""
SPACING = (12.0, 30.0)
"""Metres from one camera to the next, along and across the building."""
CHOICES = 3
"""Nearest cameras, one of which is gone to next."""
DETOUR = (1.05, 1.5)
"""How much longer a way is than the straight line."""
LINGER = 4.0
"""Mean seconds that somebody stands still on the way."""
FPS_BEFORE = 5
Day = Literal["live", "before"]
"""The day that is scored, or one before it with other people, filmed by the same cameras."""


class SiteSpec(BaseModel, frozen=True, extra="forbid"):
    """What a site is like."""

    name: str
    seed: int = 0
    cameras: int = Field(ge=2)
    residents: int = Field(ge=1)
    strangers: int = Field(ge=0)
    stops: tuple[int, int]
    """Fewest and most cameras that somebody passes on one way."""
    density: float = Field(2.0, gt=0)
    """People in view of a camera, on average."""
    alike: float = Field(0.2, ge=0, le=1)
    """Share of the people who have somebody dressed like them."""
    fps: int = Field(5, ge=1)
    """On the live day; 5 on the day before."""
    visitors: int = Field(ge=1)
    """People who come on the day before, once each."""

    @property
    def half_seconds(self) -> tuple[float, float]:
        """Length of both halves of the live day."""
        each = VISIT_SECONDS * sum(self.stops) / 2 / self.cameras / self.density
        longest = self.stops[1] * STOP_SECONDS
        first, second = self.residents * each, (self.residents + self.strangers) * each
        return math.ceil(first + longest), math.ceil(second + longest)

    @property
    def half_at(self) -> float:
        """When the second half of the live day begins; seconds since the epoch."""
        return STARTED_AT + self.half_seconds[0]


SITES = {
    spec.name: spec
    for spec in (
        SiteSpec(name="small", cameras=3, residents=20, strangers=20, stops=(2, 3), fps=10, visitors=150),
        SiteSpec(name="middle", cameras=6, residents=75, strangers=75, stops=(2, 4), visitors=150),
        SiteSpec(name="large", cameras=12, residents=250, strangers=250, stops=(3, 5), visitors=150),
    )
}
TRAINING = SiteSpec(name="training", seed=900, cameras=12, residents=240, strangers=0, stops=(4, 6), visitors=200)
"""Where the encoder is trained: other cameras and other people than anywhere else."""
TINY = SiteSpec(name="tiny", cameras=2, residents=2, strangers=2, stops=(1, 2), visitors=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who walks where and when, and which cameras see it."""

    scenes: tuple[Scene, ...]
    visits: tuple[Visit, ...]
    seconds: float


@lru_cache(maxsize=2)
def plan(spec: SiteSpec, day: Day = "live") -> Plan:
    """Build the cameras of a site and send its people through."""
    scene_rng, people_rng, map_rng, walk_rng = (
        np.random.default_rng(seed) for seed in np.random.SeedSequence(spec.seed).spawn(4)
    )
    scenes = tuple(build_scene(index, scene_rng) for index in range(spec.cameras))
    floor_C2 = _place_cameras(spec.cameras, map_rng)
    if day == "before":
        people_rng, walk_rng = (np.random.default_rng([spec.seed, number]) for number in (1, 2))
    count = spec.residents + spec.strangers if day == "live" else spec.visitors
    people = _draw_everybody(count, spec.alike, people_rng)
    if day == "live":
        first, second = spec.half_seconds
        halves = ((people[: spec.residents], 0.0, first), (people, first, first + second))
    else:
        each = VISIT_SECONDS * sum(spec.stops) / 2 / spec.cameras / spec.density
        halves = ((people, 0.0, math.ceil(spec.visitors * each + spec.stops[1] * STOP_SECONDS)),)
    visits = [
        visit
        for group, begin, end in halves
        for person in group
        for visit in _walk(person, spec, scenes, floor_C2, begin=begin, end=end, rng=walk_rng)
    ]
    return Plan(scenes=scenes, visits=tuple(sorted(visits, key=lambda v: v.start)), seconds=halves[-1][2])


def _draw_everybody(count: int, alike: float, rng: np.random.Generator) -> tuple[Person, ...]:
    people: list[Person] = []
    while len(people) < count:
        people += draw_people(min(PEOPLE_AT_ONCE, count - len(people)), rng)
    numbered = [replace(person, pid=number) for number, person in enumerate(people, 1)]
    return dress_alike(numbered, alike, rng)


def _place_cameras(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Put the cameras into a building two corridors wide, metres."""
    along = np.cumsum(rng.uniform(*SPACING, size=-(-count // 2)))
    return np.array([(along[number // 2], number % 2 * rng.uniform(*SPACING)) for number in range(count)])


def _walk(
    person: Person,
    spec: SiteSpec,
    scenes: Sequence[Scene],
    floor_C2: NDArray[np.float64],
    *,
    begin: float,
    end: float,
    rng: np.random.Generator,
) -> list[Visit]:
    """One way through the site, all of it between `begin` and `end`."""
    cameras = _route(floor_C2, int(rng.integers(spec.stops[0], spec.stops[1] + 1)), rng)
    at, visits = 0.0, []
    for here, there in pairwise([*cameras, None]):
        origin, target = scenes[here].random_path(rng)
        seconds = math.dist(origin, target) / person.pace
        visits.append(
            Visit(person=person, camera=here, start=at, seconds=seconds, origin=origin, target=target)
        )  # fmt: skip
        at += seconds
        if there is not None:
            metres = float(np.linalg.norm(floor_C2[here] - floor_C2[there])) * rng.uniform(*DETOUR)
            at += metres / person.pace + float(rng.exponential(LINGER))
    leave = begin + float(rng.uniform(0.5, max(end - begin - at - 1.0, 0.5)))
    return [replace(visit, start=visit.start + leave) for visit in visits]


def _route(floor_C2: NDArray[np.float64], stops: int, rng: np.random.Generator) -> list[int]:
    """Go from camera to camera, mostly to a near one, to none twice."""
    route = [int(rng.integers(len(floor_C2)))]
    while len(route) < min(stops, len(floor_C2)):
        distance_C = np.linalg.norm(floor_C2 - floor_C2[route[-1]], axis=1)
        distance_C[route] = np.inf
        near = np.argsort(distance_C)[: min(CHOICES, len(floor_C2) - len(route))]
        route.append(int(rng.choice(near)))
    return route


class Film:
    """What one camera shows on a day, frame by frame, and the truth about the frames shown so far."""

    def __init__(self, spec: SiteSpec, camera: int, day: Day = "live") -> None:
        self.camera = camera
        """Index, from 0."""
        self._plan, self._spec, self._day = plan(spec, day), spec, day
        self.camid = self._plan.scenes[camera].camid
        self.truths: list[Truth] = []
        self.newest: list[Truth] = []
        """Of the frame shown last."""

    def frames(self, until: float = math.inf) -> Iterator[Frame]:
        """Film the day, or the first `until` seconds of it."""
        cv2.setNumThreads(1)
        spec, visits = self._spec, [visit for visit in self._plan.visits if visit.camera == self.camera]
        fps = spec.fps if self._day == "live" else FPS_BEFORE
        count = math.ceil(min(self._plan.seconds, until) * fps)
        rng = np.random.default_rng([spec.seed, self.camera, 0 if self._day == "live" else 1])
        shots = render_camera(
            self._plan.scenes[self.camera], visits, begin=0.0, frames=count, fps=fps, rng=rng
        )  # fmt: skip
        for index, (image, self.newest) in enumerate(shots):
            self.truths += self.newest
            yield Frame(
                camid=self.camid, index=index, captured_at=STARTED_AT + index / fps, decoded_at=0.0, image=image
            )


class FilmDetector:
    """Detects what the truth about the newest frame of each film says, with a detector's faults."""

    def __init__(self, films: Sequence[Film], faults: DetectorFaults | None = None, *, seed: int = 0) -> None:
        self._films = {film.camid: film for film in films}
        self._detectors = {film.camid: SimulatedDetector(faults, seed=[seed, film.camera]) for film in films}

    def __enter__(self) -> FilmDetector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def detect(self, camid: str, image_HW3: NDArray[np.uint8]) -> Detections:
        """Not known without the time of the frame."""
        raise NotImplementedError("give frames to detect_many")

    def detect_many(self, frames: Sequence[Frame]) -> list[Detections]:
        """Find the people in the newest frames of the films."""
        return [
            self._detectors[frame.camid].detect(self._films[frame.camid].newest, frame.captured_at).detections
            for frame in frames
        ]

    def forget(self, camid: str) -> None:
        """Nothing is learnt about a camera."""
