"""Tries everything a site needs, without running it."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reidge.edge.backends import open_encoder
from reidge.edge.bundle import Bundle
from reidge.edge.detectors import open_detector
from reidge.edge.errors import ReidgeError, reason_of
from reidge.edge.footage import count_frames
from reidge.edge.outputs.broker import BrokerRefusal, Connection, tls_context
from reidge.edge.redact import redact, redact_text
from reidge.edge.service import open_gallery
from reidge.edge.sources import check_source, open_source
from reidge.edge.store import IN_MEMORY, GalleryInUse
from reidge.edge.stream import check_paces
from reidge.edge.web import check_web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reidge.edge.camera import CameraConfig
    from reidge.edge.outputs.mqtt import MqttConfig
    from reidge.edge.site import Site

BLOCK = 4096
"""Bytes that a disk must have free to count as writable."""
MOMENT = 2.0
"""Seconds beyond its timeouts that a camera gets to show a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found out about one part of a site."""

    part: str
    """Section of the site file, or `camera <name>`."""
    state: Literal["ok", "away", "wrong"]
    """away: a camera or broker that does not answer now; `reidge run` waits for it."""
    text: str
    """One line."""
    exit_status: int = 0
    """That `reidge run` would end with because of it."""


def check_site(site: Site) -> Iterator[Finding]:
    """Try one part after the other, and the cameras side by side."""
    cameras = [_Attempt(camera) for camera in site.cameras]
    for attempt in cameras:
        attempt.start()
    yield _tried("bundle", lambda: _check_bundle(site))
    yield _tried("detector", lambda: _check_detector(site))
    yield _tried("storage", lambda: _writable(site.storage.gallery))
    yield _tried("outputs", lambda: _check_outputs(site))
    if site.outputs.mqtt is not None:
        yield _try_broker(site.outputs.mqtt)
    web = site.web
    if web is not None:
        yield _tried("web", lambda: check_web(web))
    try:
        check_paces(site.cameras)
    except ReidgeError as error:
        yield _tried("cameras", _raising(error))
    for attempt in cameras:
        yield attempt.finding()


def _check_bundle(site: Site) -> str:
    """Look at the encoder, and with it at the gallery, which has to be of this encoder, and the threshold."""
    bundle = Bundle.load(site.bundle)
    if not Path(site.storage.gallery).exists():  # nothing is made only to be looked at
        storage = site.storage.model_copy(update={"gallery": IN_MEMORY})
        site = site.model_copy(update={"storage": storage})
    with open_encoder(bundle, site.encoder.backend, site.encoder.precision, site.encoder.threads) as encoder:
        found = f"{encoder.backend}, {encoder.precision}, golden check passed"
        try:
            with open_gallery(site, bundle, encoder) as gallery:
                return f"{found}; {len(gallery)} identities are known"
        except GalleryInUse:
            return f"{found}; the gallery is in use by a reidge that runs"


def _check_detector(site: Site) -> str:
    with open_detector(site.detector):
        return f"{site.detector.kind} starts"


def _check_outputs(site: Site) -> str:
    events, tracks = site.outputs.events, site.outputs.tracks
    found = ["events are not written" if events is None else "stdout" if events == "-" else _writable(events)]
    return "; ".join(found if tracks is None else [*found, _writable(tracks, folder=True)])


def _try_broker(config: MqttConfig) -> Finding:
    """Connect once; a broker that is away now is waited for by the run, one that refuses is waited for in vain."""
    part = "outputs.mqtt"
    try:
        tls = None if config.tls is None else tls_context(config.tls)
        with Connection(config, client_id=f"{config.name}-check", tls=tls):
            text = f"{config.address} lets us in; {_writable(config.spool, folder=True)}"
            return Finding(part=part, state="ok", text=text)
    except (ReidgeError, ModuleNotFoundError, BrokerRefusal) as error:
        return _tried(part, _raising(error))
    except Exception as error:  # of many kinds, from the network, TLS and paho
        text = redact_text(f"{config.address}: {reason_of(error)}")
        return Finding(part=part, state="away", text=f"{text}; events wait in the spool")


def _writable(path: Path | str, *, folder: bool = False) -> str:
    """Tell that a file or folder can be written, or made; nothing is made."""
    if str(path) == IN_MEMORY:
        return "identities are forgotten at the end"
    place = Path(path)
    while not place.exists():
        place = place.parent
    try:
        if not place.is_dir() and (folder or place != Path(path)):
            raise NotADirectoryError(errno.ENOTDIR, "a file stands where a folder is needed")
        if place.is_dir() and not folder and place == Path(path):
            raise IsADirectoryError(errno.EISDIR, "it is a folder, where a file is needed")
        if not place.is_dir() and not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, "no permission to write it")
        with tempfile.TemporaryFile(dir=place if place.is_dir() else place.parent) as file:
            file.write(bytes(BLOCK))
    except OSError as error:
        raise ReidgeError(f"{path} cannot be written: {error.strerror}. Look at {place}, or change the path.") from None
    return f"{path} can be written"


def _tried(part: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(part=part, state="ok", text=look())
    except (ReidgeError, OSError, ModuleNotFoundError) as error:
        text = redact_text(reason_of(error) if isinstance(error, OSError) else " ".join(str(error).split()))
        return Finding(part=part, state="wrong", text=text, exit_status=getattr(error, "exit_status", 1))


class _Attempt(threading.Thread):
    """Looks for one picture of a camera; a library that hangs in spite of its timeouts hangs alone."""

    def __init__(self, config: CameraConfig) -> None:
        super().__init__(name=f"try-{config.name}", daemon=True)
        self._config = config
        self._until = time.monotonic() + 2 * config.timeout + MOMENT
        self._finding: Finding | None = None

    def run(self) -> None:
        part = f"camera {self._config.name}"
        if not self._config.live:
            self._finding = _tried(part, self._look_at_recording)
            return
        reader = _tried(part, self._check_reader)
        if reader.state == "wrong":
            self._finding = reader
            return
        try:
            self._finding = Finding(part=part, state="ok", text=self._look())
        except ReidgeError as error:  # such as a stream without video, which the run tries again like any other
            self._finding = self._away(str(error))
        except Exception as error:  # of many kinds; their own text may hold the password
            self._finding = self._away(getattr(error, "strerror", None) or type(error).__name__)

    def finding(self) -> Finding:
        self.join(max(0.0, self._until - time.monotonic()))
        return self._finding or self._away("no picture came in time")

    def _check_reader(self) -> str:
        """Ask what a run asks before it begins."""
        check_source(self._config)
        return "this machine can read it"

    def _look(self) -> str:
        with open_source(self._config) as source:
            for picture in source.pictures():
                if picture is not None:
                    height, width = picture.to_image().shape[:2]
                    return f"{redact(self._config.source)} gives {width} x {height}"
        raise OSError(errno.ENODATA, "the stream ended before the first picture")

    def _look_at_recording(self) -> str:
        count = count_frames(self._config.source, self._config.span)
        return f"{self._config.source}: {'some' if count is None else count} frames"

    def _away(self, reason: str) -> Finding:
        text = redact_text(f"{redact(self._config.source)}: {reason}; the run goes on trying")
        return Finding(part=f"camera {self._config.name}", state="away", text=text)


def _raising(error: Exception) -> Callable[[], str]:
    def look() -> str:
        raise error

    return look
