"""Cameras: each decodes in its own thread and hands frames to one loop.

Recordings at full speed go through a short queue and lose nothing; their frames come out in the order of their
clocks, so that no camera runs ahead of another. Live sources, and recordings paced to real time, go through a mailbox
of one frame: the loop gets the newest, and what it was too slow for is dropped and counted.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reidge.edge.camera import Camera, CameraConfig, CameraCounts
from reidge.edge.errors import InputError
from reidge.edge.footage import check_footage, shared_start
from reidge.edge.live import LiveStream
from reidge.edge.mailbox import CameraState
from reidge.edge.recording import Recording
from reidge.edge.sources import check_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from reidge.edge.frame import Frame

LOOKAHEAD = 1
"""Frames of a full-speed recording that wait decoded; more would only make them older."""
SAME_MOMENT = 0.04
"""Frames of different cameras less than this many seconds apart are handled together."""
PATIENCE = 1.0
"""Seconds that all threads together get to end, from when they are asked to."""
LOOK_AROUND = 0.5
"""Seconds after which the loop gets an empty moment when there is nothing new."""
HANGS = 30.0
"""Seconds beyond its timeout after which a thread is given up. Resolving a name may take as long where no server
answers, and cannot be ended."""
MOST_HUNG = 3
"""Threads of one camera that may hang at once; each holds memory and a connection, so no more are started."""
IN_PLACE = {"max_fps", "region", "masks", "overlaps"}
"""Settings that a camera takes over without a new connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraChanges:
    """Names of the cameras that a new site file touched."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


class Cameras:
    """All cameras of a site; use it in a `with`.

    Raises:
        InputError: A recording is missing or unreadable, paces are mixed, or this machine lacks a wanted reader.
    """

    def __init__(self, configs: Sequence[CameraConfig]) -> None:
        self.in_step = check_cameras(configs)
        self._wake = threading.Event()
        self._states: deque[CameraState] = deque()
        self._silent: dict[str, tuple[float, float]] = {}
        self._hung: list[Camera] = []
        self._looked_at = time.monotonic()
        self._running = False
        self._leave_by: float | None = None
        self.waited = 0.0
        """Seconds in which `moments` had nothing to give."""
        self._common_start = common_start(configs)
        # Always a new dict: others look at it while cameras change.
        self._cameras = {config.name: self._build(config) for config in configs}

    @property
    def cameras(self) -> list[Camera]:
        """In the order of the site file."""
        return list(self._cameras.values())

    def _build(self, config: CameraConfig) -> Camera:
        kind = LiveStream if config.live else Recording
        start_at = self._common_start if config.start is None else config.start
        return kind(config, start_at=start_at, wake=self._wake, size=LOOKAHEAD if self.in_step else 1)

    def __enter__(self) -> Cameras:
        self._running = True
        for camera in self.cameras:
            camera.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        deadline = self.leave()
        for camera in self.cameras:
            # One that hangs in its timeout is a daemon and ends with the process.
            camera.join(timeout=max(0.0, deadline - time.monotonic()))

    def leave(self) -> float:
        """Ask all threads to end, and do not wait yet; returns until when (`time.monotonic()`) they have time."""
        if self._leave_by is None:
            self._leave_by = time.monotonic() + PATIENCE
            for camera in self.cameras:
                camera.stop()
        return self._leave_by

    @property
    def dropped(self) -> int:
        """Frames that were decoded but never handled."""
        return sum(counts.dropped for counts in self.counts().values())

    def states(self) -> list[CameraState]:
        """What came up or went down since the last call and before the frames of the last moment."""
        for camera in self.cameras:
            if camera.ended.is_set() and not camera.mailbox.wait(0):
                self._states += camera.mailbox.take()[0]
        return [self._states.popleft() for _ in range(len(self._states))]

    def counts(self) -> dict[str, CameraCounts]:
        """What each camera has done since the start."""
        return {camera.config.name: camera.counts for camera in self.cameras}

    def ages(self) -> dict[str, float | None]:
        """Seconds since each camera's newest frame was decoded; None where there was none yet."""
        now = time.monotonic()
        times = {camera.config.name: camera.decoded_at for camera in self.cameras}
        return {name: None if at is None else now - at for name, at in times.items()}

    def silences(self) -> dict[str, float]:
        """Seconds without a frame: as `ages`, or since the camera was added where there was none yet."""
        now = time.monotonic()
        return {
            camera.config.name: now - (camera.added_at if camera.decoded_at is None else camera.decoded_at)
            for camera in self.cameras
        }

    def set_rate(self, camid: str, fps: float | None) -> None:
        """Hand on so many frames per second of a camera in real time at most; None leaves it to its settings."""
        self._cameras[camid].rate = fps

    def apply(self, configs: Sequence[CameraConfig]) -> CameraChanges:
        """Take over new settings between two moments; cameras whose settings are the same are not touched.

        New limits of rate, regions and masks are taken over in place. A camera that is removed, or that has to
        connect again, is told to be down first.

        Raises:
            InputError: The new cameras cannot run together, or recordings at full speed are among the old or the new
                ones. Nothing was changed.
        """
        if check_cameras(configs) or self.in_step:
            raise InputError("cameras cannot change while recordings are read at full speed. Start again.")
        new = {config.name: config for config in configs}
        changed = tuple(camera.config.name for camera in self.cameras
                        if new.get(camera.config.name, camera.config) != camera.config)  # fmt: skip
        old = self._cameras
        for name in old.keys() - new.keys():
            self._retire(old[name], "it was removed from the site")
        self._cameras = {
            name: self._changed(old[name], config) if name in old else self._launch(config)
            for name, config in new.items()
        }
        return CameraChanges(
            added=tuple(name for name in new if name not in old),
            removed=tuple(name for name in old if name not in new),
            changed=changed,
        )

    def _changed(self, camera: Camera, config: CameraConfig) -> Camera:
        """Give the camera that goes on under new settings: the same where it can take them over."""
        if camera.config == config:
            return camera
        old, new = camera.config.model_dump(exclude=IN_PLACE), config.model_dump(exclude=IN_PLACE)
        if old != new or not config.live:
            return self._replaced(camera, config, "its settings changed")
        masked = camera.config.masks != config.masks
        camera.config = config
        if masked:
            camera.mailbox.clear()  # what waits there was painted by the old masks
        return camera

    def _launch(self, config: CameraConfig, *, after: Camera | None = None) -> Camera:
        camera = self._build(config)
        if after is not None:
            camera.succeed(after)
        if self._running:
            camera.start()
        return camera

    def _replaced(self, camera: Camera, config: CameraConfig, reason: str) -> Camera:
        """Stop a camera and start another in its place, which goes on counting."""
        self._retire(camera, reason)
        return self._launch(config, after=camera)

    def _retire(self, camera: Camera, reason: str) -> None:
        """Stop a camera and tell that it is down, where it was not; what it still sends is not heard."""
        camera.stop()
        camera.mailbox.clear()
        self._states += camera.mailbox.take()[0]
        if camera.up is not False:
            self._states.append(CameraState(camid=camera.config.name, up=False, at=time.time(), reason=reason))

    def _replace_hung(self, now: float) -> None:
        """Give up threads that show no life although their timeouts have passed, and start others in their place.

        Their silence is added up look by look: had this process itself been stopped for a minute, all would seem to
        hang.
        """
        passed, self._looked_at = min(now - self._looked_at, 2 * LOOK_AROUND), now
        for camera in self.cameras:
            name = camera.config.name
            beat_at, silence = self._silent.get(name, (0.0, 0.0))
            silence = silence + passed if beat_at == camera.beat_at else 0.0
            self._silent[name] = camera.beat_at, silence
            if not camera.config.live or silence < camera.config.timeout + HANGS or not camera.is_alive():
                continue
            self._hung = [hung for hung in self._hung if hung.is_alive()]
            if sum(hung.config.name == name for hung in self._hung) < MOST_HUNG:
                self._hung.append(camera)
                camera.tally += CameraCounts(abandoned=1)
                fresh = self._replaced(camera, camera.config, "its reader hung and was replaced")
                self._cameras = self._cameras | {name: fresh}

    def moments(self, stop: threading.Event) -> Iterator[list[Frame]]:
        """Frames to handle together, at most one of each camera, until all have ended or `stop` is set.

        An empty list comes about every half second when there is nothing new, so that the loop can look around.
        """
        return self._in_step(stop) if self.in_step else self._newest(stop)

    def _take(self, camera: Camera) -> Frame | None:
        states, frame = camera.mailbox.take()
        self._states += states
        return frame

    def _in_step(self, stop: threading.Event) -> Iterator[list[Frame]]:
        heads: dict[str, Frame] = {}
        while not stop.is_set():
            for camera in self.cameras:
                if camera.config.name not in heads and (frame := self._next(camera, stop)) is not None:
                    heads[camera.config.name] = frame
            if not heads:
                return
            now = min(frame.captured_at for frame in heads.values())
            due = [name for name in self._cameras if name in heads and heads[name].captured_at < now + SAME_MOMENT]
            yield [heads.pop(name) for name in due]

    def _next(self, camera: Camera, stop: threading.Event) -> Frame | None:
        """Wait for the next frame of a recording; None when it has ended."""
        while not stop.is_set():
            over = camera.ended.is_set()  # asked before the mailbox: a last frame may arrive in between
            began = time.monotonic()
            is_there = camera.mailbox.wait(0 if over else 0.05)
            self.waited += time.monotonic() - began
            if is_there:
                return self._take(camera)
            if over:
                return None
        return None

    def _newest(self, stop: threading.Event) -> Iterator[list[Frame]]:
        while not stop.is_set():
            self._replace_hung(time.monotonic())
            ended = all(camera.ended.is_set() for camera in self.cameras)
            self._wake.clear()
            taken = [self._take(camera) for camera in self.cameras]
            frames = [frame for frame in taken if frame is not None]
            if ended and not frames:
                return
            yield frames
            if not frames:
                began = time.monotonic()
                self._wake.wait(LOOK_AROUND)
                self.waited += time.monotonic() - began


def check_cameras(configs: Sequence[CameraConfig]) -> bool:
    """Check that cameras can run together; tells whether they are recordings read at full speed, in step.

    Raises:
        InputError: A recording is missing or unreadable, paces are mixed, or this machine lacks a wanted reader.
    """
    for config in configs:
        try:
            check_footage(config.source)
        except InputError as error:
            raise InputError(f"camera {config.name}: {error}") from error
        if config.live:
            check_source(config)
    return check_paces(configs)


def check_paces(configs: Sequence[CameraConfig]) -> bool:
    """Check that recordings read at full speed have only their like beside them; tells whether there are any.

    Raises:
        InputError: Paces are mixed.
    """
    full = [config for config in configs if not config.live and config.pace == "full"]
    if full and len(full) < len(configs):
        raise InputError(
            f"camera {full[0].name} is read at full speed beside cameras in real time. Set its pace to realtime."
        )
    return bool(full)


def common_start(configs: Sequence[CameraConfig]) -> float:
    """The start of recordings that do not say theirs: now where one is paced, else the time of the oldest file."""
    paced = any(config.pace == "realtime" for config in configs if not config.live)
    return time.time() if paced else shared_start(config.source for config in configs)
