"""The simulated site: footage of several cameras, and the truth about who walks there.

Files of a site folder: `footage/<half>/<camid>.mp4`; `truth/<half>/<camid>/gt/gt.txt` (MOT format) with `seqinfo.ini`
beside `gt`; `split/` (labelled query and gallery crops of the second half, Market-1501 names, for evaluation only);
`site.json`. The halves are `first`, to train on, and `second`, to be recognised in.
"""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
from pydantic import BaseModel, Field

from reidge.demo.people import draw_people
from reidge.demo.render import Truth, render_camera
from reidge.demo.scene import HEIGHT, WIDTH, build_scene
from reidge.demo.schedule import Visit, plan_visits
from reidge.edge.errors import InputError
from reidge.edge.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.demo.scene import Scene

HALVES = ("first", "second")
QUERY_SHARE = 0.5
"""How far into a visit its query is cut; likewise the gallery images."""
GALLERY_SHARES = (0.2, 0.35, 0.65, 0.8)
MIN_VISIBILITY = 0.75
"""Of people in the labelled split."""


class SiteConfig(BaseModel, frozen=True, extra="forbid"):
    """What to simulate; the same values give the same ground truth, byte for byte."""

    seed: int = 0
    cameras: int = Field(3, ge=2)
    residents: int = Field(44, ge=2)
    """People who walk through the site in both halves."""
    strangers: int = Field(16, ge=0)
    """People who appear in the second half only."""
    routes: tuple[int, int] = (2, 1)
    """Ways through the site each person takes in the first and in the second half."""
    density: float = Field(1.15, gt=0)
    """People in view of a camera, on average."""
    fps: int = Field(10, ge=1)
    started_at: float = 1_750_000_000.0
    """Clock time of the first frame, seconds since the epoch, UTC."""

    @property
    def half_seconds(self) -> tuple[int, int]:
        """Length of the first and the second half."""
        per_route = 5 / 6 * 5.6 / self.density  # five of six views are visited, for 5.6 seconds each
        first, second = self.routes
        return round(self.residents * first * per_route), round((self.residents + self.strangers) * second * per_route)


def simulate(config: SiteConfig, root: Path) -> None:
    """Write a site folder, cameras side by side on all cores.

    Raises:
        InputError: `root` exists already.
    """
    if root.exists():
        raise InputError(f"{root} exists already. Choose another output or remove it.")
    unfinished = root.with_name(f".{root.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "split" / "query").mkdir(parents=True)
    (unfinished / "split" / "bounding_box_test").mkdir()
    (unfinished / "site.json").write_text(config.model_dump_json(indent=2) + "\n")
    try:
        jobs = [(index, half) for half in HALVES for index in range(config.cameras)]
        with (
            ProcessPoolExecutor(mp_context=get_context("spawn")) as pool,
            Progress("simulate", total=len(jobs), unit="recordings") as progress,
        ):
            for _ in pool.map(partial(_write_recording, config, unfinished), *zip(*jobs, strict=True)):
                progress.advance()
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    unfinished.rename(root)


def plan(config: SiteConfig) -> tuple[list[Scene], list[Visit]]:
    """Build the cameras and decide who walks where and when."""
    seeds = np.random.SeedSequence(config.seed).spawn(3)
    scene_rng, people_rng, visit_rng = (np.random.default_rng(seed) for seed in seeds)
    scenes = [build_scene(index, scene_rng) for index in range(config.cameras)]
    people = draw_people(config.residents + config.strangers, people_rng)
    first, second = config.half_seconds
    visits = plan_visits(
        people[: config.residents], scenes, begin=1.0, end=first - 1.0, routes=config.routes[0], rng=visit_rng
    )
    visits += plan_visits(
        people, scenes, begin=first + 1.0, end=first + second - 1.0, routes=config.routes[1], rng=visit_rng
    )
    return scenes, visits


def _write_recording(config: SiteConfig, root: Path, index: int, half: str) -> None:
    """Film one half with one camera."""
    cv2.setNumThreads(1)
    scenes, visits = plan(config)
    scene = scenes[index]
    number = HALVES.index(half)
    begin, seconds = sum(config.half_seconds[:number]), config.half_seconds[number]
    shown = [visit for visit in visits if visit.camera == index and begin <= visit.start < begin + seconds]
    split = _SplitWriter(root / "split", index, shown if half == "second" else (), begin, config)
    frames = seconds * config.fps
    rng = np.random.default_rng([config.seed, index, number])
    truths: list[Truth] = []
    with _VideoWriter(root / "footage" / half / f"{scene.camid}.mp4", config.fps) as video:
        for image, found in render_camera(scene, shown, begin=begin, frames=frames, fps=config.fps, rng=rng):
            video.write(image)
            split.offer(image, found)
            truths += found
    write_mot(root / "truth" / half / scene.camid, truths, frames=frames, fps=config.fps)


class _VideoWriter:
    """Encodes BGR frames to H.264."""

    def __init__(self, path: Path, fps: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream("libx264", rate=fps, options={"crf": "24", "preset": "superfast"})
        self._stream.width, self._stream.height, self._stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        self._stream.thread_count = 1

    def __enter__(self) -> _VideoWriter:
        return self

    def write(self, image: NDArray[np.uint8]) -> None:
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))

    def __exit__(self, *_: object) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()


class _SplitWriter:
    """Cuts the labelled crops: of each visit up to four gallery images, of each person and camera one query."""

    def __init__(self, root: Path, camera: int, visits: Sequence[Visit], begin: float, config: SiteConfig) -> None:
        self.root, self.camera = root, camera
        self.rng = np.random.default_rng([config.seed, camera, len(HALVES)])
        self._due: dict[tuple[int, int], str] = {}
        seen: set[int] = set()
        for visit in visits:
            due = dict.fromkeys(GALLERY_SHARES, "bounding_box_test")
            if visit.person.pid not in seen:
                due[QUERY_SHARE] = "query"
            for share, folder in due.items():
                frame = round((visit.start + share * visit.seconds - begin) * config.fps) + 1
                self._due[frame, visit.person.pid] = folder
            seen.add(visit.person.pid)

    def offer(self, image: NDArray[np.uint8], truths: Sequence[Truth]) -> None:
        for truth in truths:
            folder = self._due.pop((truth.frame, truth.pid), None)
            if folder is None or truth.visibility < MIN_VISIBILITY:
                continue
            x1, y1, x2, y2 = _jitter(truth, self.rng)
            name = f"{truth.pid:04d}_c{self.camera + 1}s1_{truth.frame:06d}_00.jpg"
            cv2.imwrite(str(self.root / folder / name), image[y1:y2, x1:x2], [cv2.IMWRITE_JPEG_QUALITY, 95])


def _jitter(truth: Truth, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A box as loose as a detector's: each edge moves by up to 6 % of the box, inside the frame."""
    dx, dy = (truth.x2 - truth.x1) * 0.06, (truth.y2 - truth.y1) * 0.06
    left, top, right, bottom = rng.uniform(-1, 1, size=4) * (dx, dy, dx, dy)
    return (
        max(round(truth.x1 + left), 0),
        max(round(truth.y1 + top), 0),
        min(round(truth.x2 + right), WIDTH),
        min(round(truth.y2 + bottom), HEIGHT),
    )


def write_mot(root: Path, truths: Sequence[Truth], *, frames: int, fps: int) -> None:
    """Write ground truth in the MOT format: frame, id, left, top, width, height, 1, class 1, visibility."""
    (root / "gt").mkdir(parents=True)
    rows = sorted(truths, key=lambda truth: (truth.frame, truth.pid))
    lines = [
        f"{t.frame},{t.pid},{t.x1},{t.y1},{t.x2 - t.x1},{t.y2 - t.y1},1,1,{t.visibility}" for t in rows
    ]  # fmt: skip
    (root / "gt" / "gt.txt").write_text("".join(line + "\n" for line in lines))
    (root / "seqinfo.ini").write_text(
        f"[Sequence]\nname={root.name}\nimDir=img1\nframeRate={fps}\nseqLength={frames}\n"
        f"imWidth={WIDTH}\nimHeight={HEIGHT}\nimExt=.jpg\n"
    )


def read_mot(root: Path) -> Iterator[Truth]:
    """Read what `write_mot` wrote."""
    for line in (root / "gt" / "gt.txt").read_text().splitlines():
        frame, pid, x, y, width, height, _, _, visibility = line.split(",")
        yield Truth(
            frame=int(frame), pid=int(pid), x1=int(x), y1=int(y), x2=int(x) + int(width), y2=int(y) + int(height),
            visibility=float(visibility),
        )  # fmt: skip


def read_site_config(root: Path) -> SiteConfig:
    """Read `site.json` of a site folder."""
    return SiteConfig(**json.loads((root / "site.json").read_text()))
