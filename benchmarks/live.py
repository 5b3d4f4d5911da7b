"""What the live benchmarks share: real people as RTSP streams, a bundle, and a running site looked at from outside."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from reidge.edge.errors import InputError
from reidge.edge.footage import Span, read_footage

sys.path.append(str(Path(__file__).parents[1]))

from tests.conftest import BLUE, GREEN, RED, WHITE, draw_walk
from tests.servers.streams import write_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from numpy.typing import NDArray

    from tests.servers.running import Running

SHARED = Path(__file__).parents[2] / "shared"
HALL = SHARED / "media" / "one-by-one-person-detection.mp4"
YOLOX = SHARED / "weights" / "yolox_nano.onnx"
OSNET = SHARED / "weights" / "osnet_x0_25_msmt17.pth"
WIDTH, HEIGHT, FPS, SECONDS = 1280, 720, 10, 30
SCENES = 4
PARTS = ("decode", "loop", "networks", "output")
"""Whose threads take processor time: of cameras; the main one; of the runtimes and the rest; of outputs and gallery."""
PART_OF = {"camera": "decode", "output": "output", "gallery": "output", "desk": "output"}
"""By the first word of a thread's name."""
APART = 30
"""Seconds of the hall between the beginnings of two scenes."""


def need_shared() -> None:
    """Refuse to start without footage and weights.

    Raises:
        InputError: They are absent.
    """
    for path in (HALL, YOLOX, OSNET):
        if not path.exists():
            raise InputError(f"{path} is missing. Put footage and weights into {SHARED}.")


def make_streams(folder: Path) -> list[Path]:
    """Encode four scenes of 30 s, 1280x720 at 10 fps, once."""
    paths = [folder / f"scene{number}.json" for number in range(SCENES)]
    for number, path in enumerate(paths):
        if not path.exists():
            write_stream(path, _scene(number), fps=FPS)
    return paths


def make_other_size(folder: Path) -> Path:
    """Encode the first scene in a quarter of its size, once."""
    path = folder / "scene0-small.json"
    if not path.exists():
        half = (WIDTH // 2, HEIGHT // 2)
        write_stream(path, (np.asarray(cv2.resize(image, half), dtype=np.uint8) for image in _scene(0)), fps=FPS)
    return path


def make_painted_streams(folder: Path) -> tuple[list[Path], Path]:
    """Encode four small scenes in which somebody stands, and the first one in another size."""
    scenes = [list(draw_walk([(shirt, WHITE, 145, 0, 50)], 40)) for shirt in (RED, GREEN, BLUE, WHITE)]
    paths = [write_stream(folder / f"painted{n}.json", scene, fps=FPS) for n, scene in enumerate(scenes)]
    larger = (np.asarray(cv2.resize(image, (640, 360)), dtype=np.uint8) for image in scenes[0])
    return paths, write_stream(folder / "painted0-large.json", larger, fps=FPS)


def _scene(number: int) -> Iterator[NDArray[np.uint8]]:
    """Two halves of a hall at different times, side by side: one or two people at a time."""
    halves = zip(_hall(number * APART), _hall((number + 0.5) * APART), strict=False)
    return (np.hstack(pair) for pair in halves)


def _hall(since: float) -> Iterator[NDArray[np.uint8]]:
    """The middle of the hall, half as wide as a stream."""
    since = min(since, 139 - SECONDS)
    for frame in read_footage(str(HALL), camid="hall", span=Span(since=since, until=since + SECONDS)):
        image = cv2.resize(frame.image, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
        yield np.asarray(image[:, WIDTH // 4 : 3 * WIDTH // 4], dtype=np.uint8)


def make_bundle(folder: Path) -> Path:
    """Export OSNet x0.25 with INT8, once."""
    from reidge.calibration.harvest import HarvestConfig, harvest
    from reidge.edge.detectors.yolox import YoloxConfig
    from reidge.export.bundle import export_bundle
    from reidge.train.checkpoint import load_encoder

    if not (folder / "crops").exists():
        config = HarvestConfig(detector=YoloxConfig(path=YOLOX), max_fps=5, until=60, border=0)
        harvest({"hall": str(HALL)}, folder / "crops", config, progress=False)
    if not (folder / "bundle").exists():
        encoder = load_encoder(OSNET, architecture="osnet_x0_25")
        export_bundle(encoder, folder / "crops", folder / "bundle", calibration_size=64, method="max", threads=2)
    return folder / "bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A process at one moment."""

    at: float
    """Seconds of `time.monotonic()`."""
    cpu: float
    """Seconds of processor time so far, all threads."""
    memory_mb: float
    """Resident."""
    threads: int
    handles: int
    """Open files and sockets."""
    cpu_by_part: Mapping[str, float] = field(default_factory=dict)
    """Of `cpu`, what the threads of each part took that live now."""


class Observer(threading.Thread):
    """Looks at a process once a second and at its events as they come; use it in a `with`."""

    def __init__(self, running: Running) -> None:
        super().__init__(name="observer", daemon=True)
        self.samples: list[Sample] = []
        self.delays: list[tuple[float, str, float]] = []
        """Of each event about a person: `time.monotonic()` when it was read, camera, seconds since the capture."""
        self._running = running
        self._pid = running.process.pid
        self._ended = threading.Event()

    def __enter__(self) -> Observer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Look until the `with` or the process ends."""
        place, due, path = 0, 0.0, self._running.events_path
        try:
            while not self._ended.wait(0.01):
                if time.monotonic() >= due:
                    self.samples.append(take_sample(self._pid))
                    due = max(due + 1.0, time.monotonic())
                if path.exists() and path.stat().st_size > place:
                    place = self._read(path, place)
        except OSError:  # it has ended
            return

    def _read(self, path: Path, place: int) -> int:
        with path.open("rb") as file:
            file.seek(place)
            data = file.read()
        now, at = time.time(), time.monotonic()
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.splitlines():
            event = json.loads(line)
            if event["event"] == "sighting.updated":  # the others speak of the past as well
                captured_at = datetime.fromisoformat(event["captured_at"].replace("Z", "+00:00")).timestamp()
                self.delays.append((at, event["camid"], now - captured_at))
        return place + len(whole)


def take_sample(pid: int) -> Sample:
    """Look at a process now, by what Linux tells of it.

    Raises:
        OSError: It has ended.
    """
    place = Path("/proc") / str(pid)
    words = (place / "stat").read_text().rpartition(")")[2].split()  # the name before it may hold blanks
    return Sample(
        at=time.monotonic(),
        cpu=(int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK"),
        memory_mb=int(words[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
        threads=int(words[17]),
        handles=sum(1 for _ in (place / "fd").iterdir()),
        cpu_by_part=cpu_by_part(place / "task", pid),
    )


def cpu_by_part(tasks: Path, pid: int) -> dict[str, float]:
    """Seconds of processor time of a run's threads, by what they are for.

    Threads of cameras and outputs carry their names, also in what FFmpeg starts from them; those of the runtimes carry
    the main thread's, which itself takes part in what the networks compute.
    """
    found = dict.fromkeys(PARTS, 0.0)
    for task in tasks.iterdir():
        try:
            before, _, rest = (task / "stat").read_text().rpartition(")")
        except OSError:  # it has ended
            continue
        name, words = before.partition("(")[2], rest.split()
        kind = name.partition("-")[0]
        part = "loop" if task.name == str(pid) else PART_OF.get(kind, "networks")
        found[part] += (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return found
