"""A labelled re-identification data set made of the demo's people and cameras, larger and harder than the demo's split.

    .venv/bin/python benchmarks/simulated.py out/simulated --setting cpu --difficulty

writes Market-1501's folders `bounding_box_train`, `query` and `bounding_box_test`, and `crops`: the training images
once more as a crop folder, with tracklets and without identities. A training image `0012_c3s1_000451_00.jpg` is the
crop `c3s1_000451_00.jpg`, so that only who holds both can count how pure a clustering is. Nobody is in both parts. The
same values give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import os
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from pydantic import BaseModel, Field

from reidge.demo.people import draw_people
from reidge.demo.render import Truth, render_camera
from reidge.demo.scene import FAR, HEIGHT, NEAR, WIDTH, Look, Scene, build_scene
from reidge.demo.schedule import Visit
from reidge.edge.crops import COLUMNS, INDEX_NAME, JPEG_QUALITY, CropRecord
from reidge.edge.errors import InputError
from reidge.edge.folder import require_free, whole_folder
from reidge.edge.progress import Progress
from reidge.edge.quality import sharpness

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from reidge.demo.people import Person

TRAIN, QUERY, GALLERY, CROPS = "bounding_box_train", "query", "bounding_box_test", "crops"
CONFIG_NAME = "simulated.json"
FPS = 10
STARTED_AT = 1_750_000_000.0
CUTS_AT_ONCE = 120
"""Crops that one process renders at a time."""
PEOPLE_AT_ONCE = 150
"""People drawn together, all of them dressed differently; the clothes of the demo do not go round for many more."""
CLOTHES = ("top", "top_colour", "bottom", "bottom_colour")
"""What people who dress alike share."""
UNTRAINED_SIZE = (64, 32)
NOBODY = 0
"""What Market-1501 calls an image of no person of interest."""
Kind = Literal["whole", "half", "pair", "empty"]
Corners = tuple[int, int, int, int]


class SimulatedConfig(BaseModel, frozen=True, extra="forbid"):
    """What is drawn."""

    seed: int = Field(0, ge=0)
    cameras: int = Field(6, ge=2)
    train_people: int = Field(100, ge=2)
    test_people: int = Field(100, ge=2)
    train_visits: tuple[int, int] = (1, 3)
    """Fewest and most times that a person comes to a camera they come to at all; each is one tracklet."""
    train_crops: tuple[int, int] = (2, 6)
    """Fewest and most crops of a visit."""
    test_visits: tuple[int, int] = (1, 2)
    test_crops: int = Field(3, ge=1)
    """Gallery crops of a visit."""
    one_camera: float = Field(0.2, ge=0, le=1)
    """Share of the training people whom a single camera sees."""
    alike: float = Field(0.5, ge=0, le=1)
    """Share of the people who wear what somebody else wears, with a pattern, hair and bag of their own."""
    company: float = Field(0.4, ge=0, le=1)
    """Share of the visits during which somebody else is in view, and may stand in front."""
    junk: float = Field(0.08, ge=0, le=1)
    """Share of the training crops that show half a body or two people, and as many again that show nobody."""
    jitter: float = Field(0.08, ge=0, lt=0.5)
    """How far an edge of a box may be off, as a share of the box."""
    contrast: float = Field(0.12, ge=0)
    """How much the cameras differ in colour: spread of the logarithm of gain and gamma."""
    min_visibility: float = Field(0.5, ge=0, le=1)
    """Share of a person that a crop shows at least."""


SETTINGS = {
    "tiny": SimulatedConfig(cameras=3, train_people=8, test_people=6),
    "cpu": SimulatedConfig(),
    "gpu": SimulatedConfig(cameras=8, train_people=750, test_people=750),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One crop to be made."""

    folder: str
    kind: Kind
    pid: int
    camera: int
    """Index, from 0."""
    frame: int
    """Since the beginning of the part, `FPS` a second."""
    tracklet: str
    visits: tuple[Visit, ...]
    """Who is in view; the first is whom the crop is about, none for an empty one."""
    corners: tuple[float, float, float, float] | None
    """Box of an empty crop, pixels."""

    @property
    def name(self) -> str:
        """File name without the identity; sessions 1 and 2 are the training and the test part."""
        session = 1 if self.folder == TRAIN else 2
        return f"c{self.camera + 1}s{session}_{self.frame:06d}_00.jpg"


def simulate(config: SimulatedConfig, root: Path, *, jobs: int | None = None) -> None:
    """Write the data set, on all cores unless told otherwise.

    Raises:
        InputError: `root` exists and is not an empty folder.
    """
    require_free(root)
    batches = list(_batches(plan(config)))
    with (
        whole_folder(root) as partial_root,
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool,
        Progress("simulate", total=sum(map(len, batches)), unit="crops") as progress,
    ):
        for folder in (TRAIN, QUERY, GALLERY, CROPS):
            (partial_root / folder).mkdir()
        records: list[CropRecord] = []
        work = pool.map(partial(_render_batch, config, partial_root), range(len(batches)), batches)
        for batch, made in zip(batches, work, strict=True):
            records += made
            progress.advance(len(batch))
        _write_index(partial_root / CROPS / INDEX_NAME, records)
        (partial_root / CONFIG_NAME).write_text(config.model_dump_json(indent=2) + "\n")


def ensure(config: SimulatedConfig, root: Path) -> None:
    """Make the data set unless `root` holds it already.

    Raises:
        InputError: `root` holds something else.
    """
    if not (root / CONFIG_NAME).is_file():
        simulate(config, root)
    elif SimulatedConfig(**json.loads((root / CONFIG_NAME).read_text())) != config:
        raise InputError(f"{root} holds a data set of other settings. Choose another folder or remove it.")


def plan(config: SimulatedConfig) -> list[Cut]:
    """Decide what every crop shows, before anything is drawn."""
    streams = np.random.SeedSequence(config.seed).spawn(4)
    people_rng, train_rng, test_rng, _ = (np.random.default_rng(stream) for stream in streams)
    scenes = build_scenes(config)
    train = _draw_people(config.train_people, config.alike, 1, people_rng)
    test = _draw_people(config.test_people, config.alike, 1 + config.train_people, people_rng)
    return [*_plan_train(config, scenes, train, train_rng), *_plan_test(config, scenes, test, test_rng)]


@lru_cache(maxsize=1)  # a process renders many batches of one data set
def build_scenes(config: SimulatedConfig) -> tuple[Scene, ...]:
    """Build the demo's cameras with colours farther apart than the demo's."""
    rng = np.random.default_rng(np.random.SeedSequence(config.seed).spawn(4)[3])
    scenes = [build_scene(index, rng) for index in range(config.cameras)]
    return tuple(dataclasses.replace(scene, look=_draw_look(scene.look, config.contrast, rng)) for scene in scenes)


def _draw_look(look: Look, spread: float, rng: np.random.Generator) -> Look:
    gain = np.exp(rng.uniform(-spread, spread, size=3))
    return Look(
        gain=(float(gain[0]), float(gain[1]), float(gain[2])),
        gamma=float(np.exp(rng.uniform(-spread, spread))),
        saturation=float(np.exp(rng.uniform(-2 * spread, spread))),
        noise=look.noise,
        blur=float(rng.choice([0.0, 0.6, 0.9, 1.2])),
    )


def _draw_people(count: int, alike: float, first_pid: int, rng: np.random.Generator) -> list[Person]:
    people: list[Person] = []
    while len(people) < count:
        people += draw_people(min(PEOPLE_AT_ONCE, count - len(people)), rng)
    for index in range(1, count):
        if rng.random() < alike:
            other = people[int(rng.integers(index))]
            clothes = {name: getattr(other, name) for name in CLOTHES}
            people[index] = dataclasses.replace(people[index], **clothes)
    return [dataclasses.replace(person, pid=first_pid + index) for index, person in enumerate(people)]


class _Clocks:
    """Sends people past the cameras one after another, and counts tracklets."""

    def __init__(self, config: SimulatedConfig, scenes: Sequence[Scene], people: Sequence[Person]) -> None:
        self._config, self._scenes, self._people = config, scenes, people
        self._seconds = [1.0] * len(scenes)
        self._tracklets = 0

    def next_tracklet(self, camera: int) -> str:
        self._tracklets += 1
        return f"cam{camera + 1}-{self._tracklets:06d}"

    def visit(self, person: Person, camera: int, rng: np.random.Generator) -> tuple[Visit, ...]:
        """One crossing of a view; often somebody else crosses it at about the same time."""
        main = self._walk(person, camera, self._seconds[camera], rng)
        self._seconds[camera] = math.ceil(main.end) + 1.0
        if rng.random() >= self._config.company:
            return (main,)
        other = self._people[int(rng.integers(len(self._people)))]
        if other.pid == person.pid:
            return (main,)
        start = main.start + float(rng.uniform(-0.35, 0.35)) * main.seconds
        return main, self._walk(other, camera, start, rng)

    def pause(self, camera: int, seconds: float) -> float:
        """Let time pass in which nobody comes; return when it began."""
        began = self._seconds[camera]
        self._seconds[camera] += math.ceil(seconds) + 1.0
        return began

    def _walk(self, person: Person, camera: int, start: float, rng: np.random.Generator) -> Visit:
        origin, target = self._scenes[camera].random_path(rng)
        seconds = math.dist(origin, target) / person.pace
        return Visit(person=person, camera=camera, start=start, seconds=seconds, origin=origin, target=target)


def _plan_train(
    config: SimulatedConfig, scenes: Sequence[Scene], people: Sequence[Person], rng: np.random.Generator
) -> Iterator[Cut]:
    clocks = _Clocks(config, scenes, people)
    cameras = range(len(scenes))
    for person in people:
        count = 1 if rng.random() < config.one_camera else int(rng.integers(2, len(scenes) + 1))
        for camera in rng.permutation(len(scenes))[:count].tolist():
            for _ in range(int(rng.integers(config.train_visits[0], config.train_visits[1] + 1))):
                visits = clocks.visit(person, camera, rng)
                tracklet = clocks.next_tracklet(camera)
                crops = int(rng.integers(config.train_crops[0], config.train_crops[1] + 1))
                for frame in _frames(visits[0], crops, rng):
                    kind = _draw_kind(config, visits, rng)
                    yield Cut(
                        folder=TRAIN, kind=kind, pid=person.pid, camera=camera, frame=frame, tracklet=tracklet,
                        visits=visits, corners=None,
                    )  # fmt: skip
    tracklets = round(config.junk * len(people) * 2)
    for camera in rng.choice(cameras, size=tracklets).tolist():
        yield from _plan_empty(TRAIN, clocks, scenes[camera], camera, rng)


def _plan_test(
    config: SimulatedConfig, scenes: Sequence[Scene], people: Sequence[Person], rng: np.random.Generator
) -> Iterator[Cut]:
    """One query of each person and camera; all else is gallery."""
    clocks = _Clocks(config, scenes, people)
    for person in people:
        for camera in rng.permutation(len(scenes))[: int(rng.integers(2, min(4, len(scenes)) + 1))].tolist():
            for number in range(int(rng.integers(config.test_visits[0], config.test_visits[1] + 1))):
                visits = clocks.visit(person, camera, rng)
                tracklet = clocks.next_tracklet(camera)
                frames = _frames(visits[0], config.test_crops + (number == 0), rng)
                query = int(rng.integers(len(frames))) if number == 0 else None
                for index, frame in enumerate(frames):
                    yield Cut(
                        folder=QUERY if index == query else GALLERY, kind="whole", pid=person.pid, camera=camera,
                        frame=frame, tracklet=tracklet, visits=visits, corners=None,
                    )  # fmt: skip
    for camera in rng.choice(len(scenes), size=round(config.junk * len(people))).tolist():
        yield from _plan_empty(GALLERY, clocks, scenes[camera], camera, rng)


def _frames(visit: Visit, count: int, rng: np.random.Generator) -> list[int]:
    """Different moments of a visit while the person is well inside the view."""
    first, last = (round((visit.start + share * visit.seconds) * FPS) for share in (0.15, 0.85))
    every = np.arange(first, last + 1)
    return sorted(rng.choice(every, size=min(count, len(every)), replace=False).tolist())


def _draw_kind(config: SimulatedConfig, visits: Sequence[Visit], rng: np.random.Generator) -> Kind:
    if rng.random() >= config.junk:
        return "whole"
    return "pair" if len(visits) > 1 and rng.random() < 0.5 else "half"


def _plan_empty(folder: str, clocks: _Clocks, scene: Scene, camera: int, rng: np.random.Generator) -> Iterator[Cut]:
    """A detector's mistake: the same empty place a few times."""
    at = (float(rng.uniform(-2.0, 2.0)), float(rng.uniform(NEAR + 0.8, FAR)))
    column, row, scale = scene.project(at)
    corners = (column - 0.35 * scale, row - 1.75 * scale, column + 0.35 * scale, row)
    began, tracklet = clocks.pause(camera, 4.0), clocks.next_tracklet(camera)
    for second in range(int(rng.integers(1, 4))):
        yield Cut(
            folder=folder, kind="empty", pid=NOBODY, camera=camera, frame=round((began + second) * FPS),
            tracklet=tracklet, visits=(), corners=corners,
        )  # fmt: skip


def _batches(cuts: Sequence[Cut]) -> Iterator[list[Cut]]:
    """Group crops by part and camera, in the order of time."""
    ordered = sorted(cuts, key=lambda cut: (cut.folder != TRAIN, cut.camera, cut.frame))
    for start in range(0, len(ordered), CUTS_AT_ONCE):
        yield ordered[start : start + CUTS_AT_ONCE]


def _render_batch(config: SimulatedConfig, root: Path, number: int, cuts: Sequence[Cut]) -> list[CropRecord]:
    """Write the crops of a batch that show enough; return the training crops' records."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([config.seed, number])
    records = []
    for cut in cuts:
        made = _cut_out(config, build_scenes(config)[cut.camera], cut, rng)
        if made is None:
            continue
        image, corners = made
        encoded, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        assert encoded, cut.name
        labelled = root / cut.folder / f"{cut.pid:04d}_{cut.name}"
        labelled.write_bytes(data.tobytes())
        if cut.folder == TRAIN:
            _link(labelled, root / CROPS / cut.name)
            records.append(_describe(cut, image, corners))
    return records


def _cut_out(
    config: SimulatedConfig, scene: Scene, cut: Cut, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Corners] | None:
    """Film one frame and cut the crop out as a detector would; None where too little of the person is visible."""
    frames = render_camera(scene, cut.visits, begin=cut.frame / FPS, frames=1, fps=FPS, rng=rng)
    image, truths = next(frames)
    box = cut.corners if cut.corners is not None else _find(cut, truths, config.min_visibility, rng)
    if box is None:
        return None
    x1, y1, x2, y2 = corners = _loosen(box, config.jitter, rng)
    return (image[y1:y2, x1:x2], corners) if x2 - x1 >= 8 and y2 - y1 >= 16 else None


def _find(
    cut: Cut, truths: Sequence[Truth], min_visibility: float, rng: np.random.Generator
) -> tuple[float, float, float, float] | None:
    seen = {truth.pid: truth for truth in truths}
    main = seen.pop(cut.pid, None)
    if main is None or main.visibility < min_visibility:
        return None
    x1, y1, x2, y2 = main.x1, main.y1, main.x2, main.y2
    if cut.kind == "half":
        middle = y1 + rng.uniform(0.4, 0.6) * (y2 - y1)
        return (x1, y1, x2, middle) if rng.random() < 0.5 else (x1, middle, x2, y2)
    near = [t for t in seen.values() if t.x1 < x2 + (x2 - x1) and x1 - (x2 - x1) < t.x2]
    if cut.kind == "pair" and near:
        other = near[0]
        return min(x1, other.x1), min(y1, other.y1), max(x2, other.x2), max(y2, other.y2)
    return x1, y1, x2, y2


def _loosen(box: tuple[float, float, float, float], jitter: float, rng: np.random.Generator) -> Corners:
    """Move every edge a little, and keep the box inside the frame."""
    x1, y1, x2, y2 = box
    dx, dy = (x2 - x1) * jitter, (y2 - y1) * jitter
    left, top, right, bottom = rng.uniform(-1, 1, size=4) * (dx, dy, dx, dy)
    return (
        max(round(x1 + left), 0),
        max(round(y1 + top), 0),
        min(round(x2 + right), WIDTH),
        min(round(y2 + bottom), HEIGHT),
    )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has hard links
        target.write_bytes(source.read_bytes())


def _describe(cut: Cut, image: NDArray[np.uint8], corners: Corners) -> CropRecord:
    x1, y1, x2, y2 = corners
    return CropRecord(
        path=cut.name, camid=f"cam{cut.camera + 1}", tracklet=cut.tracklet, captured_at=STARTED_AT + cut.frame / FPS,
        x1=x1, y1=y1, x2=x2, y2=y2, score=1.0, sharpness=round(sharpness(image), 1),
    )  # fmt: skip


def _write_index(path: Path, records: Sequence[CropRecord]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(dataclasses.astuple(record) for record in records)


def hidden_pids(root: Path) -> dict[str, int]:
    """Identity of each crop by its name in the crop folder; for figures only."""
    return {path.name.partition("_")[2]: int(path.name.partition("_")[0]) for path in (root / TRAIN).iterdir()}


def measure_difficulty(root: Path) -> dict[str, float]:
    """MAP in percent of colour histograms and of the encoder `small`, at the ablation's size, with random weights."""
    import torch

    from reidge.train.datasets import open_benchmark
    from reidge.train.encoders import build_encoder
    from reidge.train.evaluate import evaluate_split
    from reidge.train.extract import embed_crops
    from reidge.train.histogram import SIZE, embed_histograms

    split = open_benchmark(root)
    torch.manual_seed(0)
    encoder = build_encoder("small", input_size=UNTRAINED_SIZE)
    untrained = evaluate_split(
        partial(embed_crops, encoder), split, size=encoder.input_size, resize=encoder.resize
    )  # fmt: skip
    histogram = evaluate_split(embed_histograms, split, size=SIZE, resize="linear")
    return {"map_histogram": round(100 * histogram.mAP, 2), "map_untrained": round(100 * untrained.mAP, 2)}


def count(root: Path) -> dict[str, Any]:
    """Images and people of each part."""
    counts = {}
    for folder in (TRAIN, QUERY, GALLERY):
        pids = [int(path.name.split("_")[0]) for path in (root / folder).iterdir()]
        counts[folder] = {"images": len(pids), "people": len(set(pids) - {NOBODY})}
    return counts


def main() -> None:
    """Write the data set and say what it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--setting", choices=SETTINGS, default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, help="processes; all cores by default")
    parser.add_argument("--difficulty", action="store_true", help="score colour histograms and random weights too")
    args = parser.parse_args()
    config = SETTINGS[args.setting].model_copy(update={"seed": args.seed})
    try:
        simulate(config, args.root, jobs=args.jobs)
    except InputError as error:
        parser.error(str(error))
    print(json.dumps(count(args.root) | (measure_difficulty(args.root) if args.difficulty else {})))


if __name__ == "__main__":
    main()
