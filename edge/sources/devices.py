"""USB and other cameras of this machine, read by OpenCV: wheels of PyAV have no Video4Linux."""

# H, W = height and width

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from reidge.edge.sources import Damaged, Picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from reidge.edge.camera import CameraConfig


@contextmanager
def open_device(config: CameraConfig) -> Iterator[DeviceSource]:
    """Open `/dev/video0` and the like; see `open_source`."""
    path = Path(config.source)
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "no such device; is it plugged in?")
    if not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, "no permission; add the user to the group video")
    capture = cv2.VideoCapture(str(path), cv2.CAP_V4L2)
    try:
        if not capture.isOpened():
            raise OSError(errno.ENODEV, "it gives no pictures, or another program has it")
        # Uncompressed, most of them send 5 to 10 large pictures per second over USB 2; as JPEG, 30.
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        if config.size is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, config.size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, config.size[1])
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        yield DeviceSource(capture)
    finally:
        capture.release()


class DeviceSource:
    """Reads an open device; the kernel's clock says when each picture was taken."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture

    def pictures(self) -> Iterator[Picture | None]:
        """Give pictures until the device is unplugged, or silent for ten seconds."""
        while self._capture.grab():
            milliseconds = self._capture.get(cv2.CAP_PROP_POS_MSEC)
            yield Picture(
                seconds=milliseconds / 1e3 if milliseconds > 0 else None,
                arrived_at=time.monotonic(),
                to_image=self._image,
            )
        raise OSError(errno.ENODEV, "it was unplugged or is silent")

    def catch_up(self) -> None:
        """Do nothing: one picture waits at most."""

    def _image(self) -> NDArray[np.uint8]:
        found, image_HW3 = self._capture.retrieve()
        if not found:
            raise Damaged("a picture could not be decoded")
        return np.asarray(image_HW3, dtype=np.uint8)
