"""USB cameras: OpenCV's own Video4Linux code, in a process whose kernel calls for one file are answered by a fake."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from reidge.edge.camera import CameraConfig
from reidge.edge.sources import open_source

FAKE = Path(__file__).with_name("fake_v4l2.c")
WATCH = """
import json, pathlib, sys, threading, time
from reidge.edge import footage
from reidge.edge.camera import CameraConfig
from reidge.edge.stream import Cameras

device = pathlib.Path(sys.argv[1])
footage.DEVICES = (str(device.parent),)
config = CameraConfig(name="usb", source=str(device), size=(640, 360))
frames, states, stop = [], [], threading.Event()
began = time.monotonic()
with Cameras([config]) as cameras:
    for moment in cameras.moments(stop):
        states += cameras.states()
        frames += moment
        ups = [state.up for state in states]
        if ups == [True] and len(frames) >= 10:
            device.unlink(missing_ok=True)
        if ups == [True, False]:
            device.touch()
        if ups == [True, False, True] or time.monotonic() - began > 30:
            stop.set()
early = frames[:10]
print(json.dumps({
    "states": [(state.up, state.reason) for state in states],
    "shape": early[0].image.shape,
    "colour": early[0].image[100, 100].tolist(),
    "clock": early[0].clock,
    "delays": [time.time() - time.monotonic() + frame.arrived_at - frame.captured_at for frame in early],
    "steps": [later.captured_at - earlier.captured_at for earlier, later in zip(early, early[1:])],
}))
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """The fake, compiled."""
    if shutil.which("cc") is None or not Path("/usr/include/linux/videodev2.h").exists():
        pytest.skip("needs a C compiler and the headers of Video4Linux")
    path = tmp_path / "fake_v4l2.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", path, FAKE, "-ldl"], check=True)
    return path


def test_a_usb_camera_sends_jpeg_of_the_wanted_size_and_comes_back_when_it_was_unplugged(
    fake: Path, tmp_path: Path
) -> None:
    picture, device = tmp_path / "picture.jpg", tmp_path / "dev" / "video0"
    assert cv2.imwrite(str(picture), np.full((360, 640, 3), (30, 60, 200), dtype=np.uint8))
    device.parent.mkdir()
    device.touch()
    environment = os.environ | {"FAKE_CAMERA": str(device), "FAKE_PICTURE": str(picture), "LD_PRELOAD": str(fake)}
    command = [sys.executable, "-c", WATCH, str(device)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [up for up, _ in found["states"]] == [True, False, True]
    assert found["states"][1][1] == f"{device}: it was unplugged or is silent"
    assert found["shape"] == [360, 640, 3]
    assert found["colour"] == pytest.approx([30, 60, 200], abs=4)
    assert found["clock"] == "camera"  # that of the kernel
    assert min(found["delays"]) > -0.001
    assert min(found["steps"]) > 0.03  # the fake sends 25 a second at most
    assert "MJPG 640 x 360" in device.with_name("video0.log").read_text().splitlines()


def test_a_device_that_is_not_there_says_so(tmp_path: Path) -> None:
    config = CameraConfig(name="usb", source=str(tmp_path / "video0"))
    with pytest.raises(FileNotFoundError, match="no such device; is it plugged in"), open_source(config):
        pass


def test_a_file_that_is_no_camera_says_so(tmp_path: Path) -> None:
    path = tmp_path / "video0"
    path.touch()
    config = CameraConfig(name="usb", source=str(path))
    with pytest.raises(OSError, match="it gives no pictures, or another program has it"), open_source(config):
        pass
