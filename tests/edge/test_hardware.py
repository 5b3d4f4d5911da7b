from __future__ import annotations

from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from reidge.edge.camera import CameraConfig
from reidge.edge.errors import InputError
from reidge.edge.sources import check_source
from reidge.edge.sources.hardware import open_options, working_device

if TYPE_CHECKING:
    from pathlib import Path


def test_a_device_counts_only_when_a_decoder_opens_on_it() -> None:
    # FFmpeg is built for several kinds; a machine has one of them, or none.
    hwaccel = pytest.importorskip("av.codec.hwaccel", reason="PyAV before 14 has no hardware decoding")
    assert working_device() in (None, *hwaccel.hwdevices_available())


def test_software_is_software() -> None:
    assert open_options("software") == {}


def test_auto_decodes_in_software_where_there_is_no_device() -> None:
    if working_device() is not None:
        pytest.skip("this machine decodes in hardware")
    assert open_options("auto") == {}


def test_hardware_that_is_not_there_is_refused_at_the_start() -> None:
    if working_device() is not None:
        pytest.skip("this machine decodes in hardware")
    for source in ("rtsp://host/a", "/dev/video0"):
        with pytest.raises(InputError, match=r"cam1: decode: hardware is not to be had here\. Leave it at auto\."):
            check_source(CameraConfig(name="cam1", source=source, decode="hardware"))


def test_hardware_shows_what_software_shows(still: Path) -> None:
    if working_device() is None:
        pytest.skip("needs a GPU that FFmpeg can decode on")
    pictures = []
    for decode in ("software", "hardware"):
        with av.open(str(still), **open_options(decode)) as container:
            pictures.append(next(container.decode(video=0)).to_ndarray(format="bgr24").astype(np.float32))
    assert np.abs(pictures[0] - pictures[1]).mean() < 2
