"""RTSP read by GStreamer, for the decoder of a Jetson, which the FFmpeg in PyAV's wheels cannot use."""

# H, W = height and width

from __future__ import annotations

import errno
import time
import warnings
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from reidge.edge.errors import InputError
from reidge.edge.sources import Damaged, Picture, Refused
from reidge.edge.sources.address import Address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from reidge.edge.camera import CameraConfig

HARDWARE = "nvv4l2decoder"
"""Of a Jetson; for all codecs."""
JETSON = Path("/etc/nv_tegra_release")
NEEDED = "the Debian packages python3-gi and gir1.2-gst-plugins-base-1.0, and an environment that sees them"
POLL = 0.1
"""Seconds after which a silent pipeline is asked what is the matter."""
ASK_SECONDS = 1.0
"""Seconds after which one that gives pictures is asked too: what it says is kept until it is."""
JITTER_MS = 200
"""Milliseconds that packets may come out of order over UDP."""


def pipeline_text(*, hardware: bool, transport: str) -> str:
    """The pipeline as text for `gst-launch-1.0`, without the address, which is set as a property of `source`.

    parsebin takes the stream out of its packets, whatever its codec; frames leave as NV12, half the bytes of BGR, and
    only those that are used are converted. `buffer-mode=none` leaves times as the camera gave them, for CameraClock.
    Of MJPEG neither form learns that its range is full: contrast is a sixth too strong.
    """
    decoder = (
        f"parsebin ! {HARDWARE} ! nvvidconv ! video/x-raw,format=NV12"
        if hardware
        else "decodebin ! videoconvert ! video/x-raw,format=NV12,colorimetry=bt601"
    )
    return (
        f"rtspsrc name=source protocols={transport} latency={JITTER_MS} buffer-mode=none"
        f" ! application/x-rtp,media=video ! {decoder}"
        " ! appsink name=sink max-buffers=1 drop=true sync=false enable-last-sample=false"
    )


@cache
def load_gstreamer() -> Any | None:
    """The modules of GStreamer, started; None where they are missing. They belong to the system's Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how its bindings load themselves
            import gi

            for name in ("Gst", "GstApp", "GstVideo"):
                gi.require_version(name, "1.0")
            from gi.repository import Gst, GstApp, GstVideo

            Gst.init(None)
    except (ImportError, ValueError):
        return None
    return Gst, GstApp, GstVideo


def has_element(name: str) -> bool:
    """Whether GStreamer is there and has an element of this name."""
    modules = load_gstreamer()
    return modules is not None and modules[0].ElementFactory.find(name) is not None


def prefers_gstreamer(config: CameraConfig) -> bool:
    """Whether a camera is read by GStreamer; `auto` takes it for RTSP on a Jetson that has its decoder."""
    if config.reader != "auto":
        return config.reader == "gstreamer"
    rtsp = config.source.lower().startswith(("rtsp://", "rtsps://"))
    return rtsp and config.decode != "software" and JETSON.exists() and has_element(HARDWARE)


def check_gstreamer(config: CameraConfig) -> None:
    """Refuse what GStreamer cannot read here.

    Raises:
        InputError: One line that says what is missing.
    """
    if not config.source.lower().startswith(("rtsp://", "rtsps://")):
        raise InputError(f"{config.name}: GStreamer reads rtsp:// addresses only. Leave out reader: gstreamer.")
    if load_gstreamer() is None:
        raise InputError(f"{config.name}: reader: gstreamer needs {NEEDED} (python3 -m venv --system-site-packages).")
    if config.decode == "hardware" and not has_element(HARDWARE):
        raise InputError(f"{config.name}: decode: hardware needs GStreamer's {HARDWARE}, which this machine lacks.")


@contextmanager
def open_gstreamer(config: CameraConfig, patience: float | None = None) -> Iterator[GStreamerSource]:
    """Start a pipeline; see `open_source`."""
    check_gstreamer(config)
    modules = load_gstreamer()
    address = Address.parse(config.source)
    assert modules is not None
    if address is None:
        raise InputError("its address cannot be read")
    Gst = modules[0]
    hardware = config.decode != "software" and has_element(HARDWARE)
    pipeline = Gst.parse_launch(pipeline_text(hardware=hardware, transport=config.transport))
    source = pipeline.get_by_name("source")
    source.set_property("location", address.bare)
    source.set_property("user-id", address.user)
    source.set_property("user-pw", address.password)
    source.set_property("tcp-timeout", round(config.timeout * 1e6))
    try:
        pipeline.set_state(Gst.State.PLAYING)
        yield GStreamerSource(pipeline, config.timeout, patience or config.timeout)
    finally:
        pipeline.set_state(Gst.State.NULL)


class GStreamerSource:
    """Pulls pictures from a running pipeline."""

    def __init__(self, pipeline: Any, timeout: float, patience: float) -> None:
        modules = load_gstreamer()
        assert modules is not None
        self._gst, _, self._video = modules
        self._bus = pipeline.get_bus()
        self._sink = pipeline.get_by_name("sink")
        self._timeout = timeout
        self._patience = min(patience, timeout)

    def pictures(self) -> Iterator[Picture | None]:
        """Give pictures until the stream ends."""
        came_at = asked_at = time.monotonic()
        limit = self._patience
        while True:
            sample = self._sink.emit("try-pull-sample", round(POLL * 1e9))
            now = time.monotonic()
            if sample is None or now - asked_at > ASK_SECONDS:
                asked_at = now
                if self._over():
                    return
            if sample is None:
                if now - came_at > limit:
                    raise TimeoutError(errno.ETIMEDOUT, f"nothing came for {limit:g} s")
                yield None
                continue
            came_at, limit = now, self._timeout
            stamp = sample.get_buffer().pts
            seconds = None if stamp == self._gst.CLOCK_TIME_NONE else stamp / 1e9
            # Decoding is over by now: what it takes cannot be told apart from the network here.
            yield Picture(seconds=seconds, arrived_at=now, waited=True, to_image=partial(self._image, sample))

    def catch_up(self) -> None:
        """Do nothing: the pipeline drops what is not taken."""

    def _over(self) -> bool:
        """Tell whether the stream has ended in order.

        Raises:
            OSError: It has not.
        """
        kinds = self._gst.MessageType.ERROR | self._gst.MessageType.EOS
        message = self._bus.pop_filtered(kinds)
        if message is None:
            return False
        if message.type == self._gst.MessageType.EOS:
            return True
        error, _ = message.parse_error()
        if error.matches(self._gst.ResourceError.quark(), self._gst.ResourceError.NOT_AUTHORIZED):
            raise Refused(errno.EACCES, "it does not take this user and password")
        raise OSError(errno.EIO, error.message)

    def _image(self, sample: Any) -> NDArray[np.uint8]:
        info = self._video.VideoInfo.new_from_caps(sample.get_caps())
        buffer = sample.get_buffer()
        found, mapped = buffer.map(self._gst.MapFlags.READ)
        if not found:
            raise Damaged("a picture could not be read")
        try:
            data = np.frombuffer(mapped.data, dtype=np.uint8).copy()
        finally:
            buffer.unmap(mapped)
        return nv12_to_bgr(
            data, (info.height, info.width), strides=tuple(info.stride[:2]), offsets=tuple(info.offset[:2])
        )


def nv12_to_bgr(
    data: NDArray[np.uint8], size: tuple[int, int], *, strides: tuple[int, int], offsets: tuple[int, int]
) -> NDArray[np.uint8]:
    """Turn NV12 into `(H, W, 3)` BGR.

    Args:
        data: Both planes, bytes.
        size: Height and width.
        strides: Bytes from one row to the next, of each plane.
        offsets: Bytes before each plane.
    """
    height, width = size
    rows, half = -(-height // 2) * 2, -(-width // 2)
    luma_HW = data[offsets[0] : offsets[0] + rows * strides[0]].reshape(rows, strides[0])[:, : 2 * half]
    chroma_HW = data[offsets[1] : offsets[1] + rows // 2 * strides[1]].reshape(rows // 2, strides[1])[:, : 2 * half]
    image_HW3 = cv2.cvtColorTwoPlane(
        np.ascontiguousarray(luma_HW),
        np.ascontiguousarray(chroma_HW).reshape(rows // 2, half, 2),
        cv2.COLOR_YUV2BGR_NV12,
    )
    return np.ascontiguousarray(image_HW3[:height, :width], dtype=np.uint8)
