"""When each person walks through which camera's view, and along which path."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from reidge.demo.people import Person
    from reidge.demo.scene import Scene

TRANSIT_SECONDS = (3.0, 12.0)
"""Shortest and longest way from one view to the next."""
MEETING_SECONDS = 0.4
"""Shared with others in view, for each visit: a departure with so little of it is good enough."""
TRIES = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One person crossing one view in a straight line."""

    person: Person
    camera: int
    """Index of the camera, from 0."""
    start: float
    """Seconds since the beginning of the footage."""
    seconds: float
    origin: tuple[float, float]
    """Metres on the floor: right of the optical axis, away from the camera."""
    target: tuple[float, float]

    @property
    def end(self) -> float:
        """Seconds since the beginning of the footage."""
        return self.start + self.seconds

    def position(self, time: float) -> tuple[float, float]:
        """Where the person stands at `time`, metres."""
        share = (time - self.start) / self.seconds
        (x1, z1), (x2, z2) = self.origin, self.target
        return x1 + share * (x2 - x1), z1 + share * (z2 - z1)

    @property
    def direction(self) -> tuple[float, float]:
        """Unit vector of the walk on the floor."""
        dx, dz = self.target[0] - self.origin[0], self.target[1] - self.origin[1]
        length = math.hypot(dx, dz)
        return dx / length, dz / length


def plan_visits(
    people: Sequence[Person],
    scenes: Sequence[Scene],
    *,
    begin: float,
    end: float,
    routes: int,
    rng: np.random.Generator,
) -> list[Visit]:
    """Send every person on `routes` routes through the views, all of it between `begin` and `end` seconds.

    A route leads through at least two thirds of the cameras, once each. Of many random departures the one that meets
    the fewest others in view is taken; nobody is in two places at once.
    """
    planned: list[Visit] = []
    for _ in range(routes):
        for index in rng.permutation(len(people)):
            planned += _best_route(people[int(index)], scenes, planned, begin=begin, end=end, rng=rng)
    return sorted(planned, key=lambda visit: visit.start)


def _best_route(
    person: Person,
    scenes: Sequence[Scene],
    planned: Sequence[Visit],
    *,
    begin: float,
    end: float,
    rng: np.random.Generator,
) -> list[Visit]:
    best: list[Visit] = []
    fewest = math.inf
    own = [visit for visit in planned if visit.person.pid == person.pid]
    for _ in range(TRIES):
        route = _random_route(person, scenes, float(rng.uniform(begin, end)), rng)
        gap = TRANSIT_SECONDS[0]
        clashes = any(a.start < b.end + gap and b.start < a.end + gap for a in route for b in own)
        if clashes or route[-1].end > end:
            continue
        meetings = sum(
            min(a.end, b.end) - max(a.start, b.start)
            for a in route
            for b in planned
            if a.camera == b.camera and a.start < b.end and b.start < a.end
        )
        if meetings < fewest:
            best, fewest = route, meetings
        if fewest <= MEETING_SECONDS * len(route):
            break
    assert best, "no room for a route: the footage is too short for so many people"
    return best


def _random_route(person: Person, scenes: Sequence[Scene], start: float, rng: np.random.Generator) -> list[Visit]:
    stops = int(rng.integers(math.ceil(len(scenes) * 2 / 3), len(scenes) + 1))
    route: list[Visit] = []
    for camera in rng.permutation(len(scenes))[:stops]:
        path = scenes[int(camera)].random_path(rng)
        seconds = math.dist(*path) / person.pace
        route.append(
            Visit(person=person, camera=int(camera), start=start, seconds=seconds, origin=path[0], target=path[1])
        )
        start += seconds + float(rng.uniform(*TRANSIT_SECONDS))
    return route
