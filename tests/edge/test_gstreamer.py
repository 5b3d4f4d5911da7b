from __future__ import annotations

import sys
import sysconfig
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.camera import CameraConfig
from reidge.edge.errors import InputError
from reidge.edge.sources import Picture, Refused, check_source, gstreamer, open_source
from reidge.edge.sources.gstreamer import (
    GStreamerSource,
    load_gstreamer,
    nv12_to_bgr,
    pipeline_text,
    prefers_gstreamer,
)
from tests.servers.rtsp import Mount, RtspServer, need_gstreamer
from tests.servers.streams import write_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

BINDINGS = Path("/usr/lib/python3/dist-packages/gi")
COLOURS = ((200, 40, 40), (40, 200, 60), (30, 40, 220))


@pytest.fixture
def _no_bindings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    load_gstreamer.cache_clear()
    monkeypatch.setitem(sys.modules, "gi", None)
    yield
    load_gstreamer.cache_clear()


@pytest.fixture
def _bindings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system's GStreamer, where its bindings fit this Python and it can decode H.264."""
    need_gstreamer()
    if not (BINDINGS / f"_gi{sysconfig.get_config_var('EXT_SUFFIX')}").exists():
        pytest.skip("the bindings of the system's GStreamer are for another Python")
    (tmp_path / "gi").symlink_to(BINDINGS)  # nothing else of the system's packages
    monkeypatch.syspath_prepend(str(tmp_path))
    load_gstreamer.cache_clear()
    if not all(gstreamer.has_element(name) for name in ("avdec_h264", "h264parse", "decodebin")):
        pytest.skip("needs the Debian packages gstreamer1.0-libav and gstreamer1.0-plugins-bad")
    yield
    load_gstreamer.cache_clear()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RtspServer]:
    """A stream of three stripes, 322 x 190: sizes that decoders pad."""
    need_gstreamer()
    stripes_HW3 = np.repeat(np.array(COLOURS, dtype=np.uint8), [107, 107, 108], axis=0)[None].repeat(190, axis=0)
    file = write_stream(tmp_path_factory.mktemp("streams") / "stripes.json", [stripes_HW3] * 50, fps=25)
    with RtspServer({"stripes": Mount(file=file, password="a?b#c @'\"/:%40ü")}) as running:
        yield running


def config(source: str, **more: object) -> CameraConfig:
    values = {"name": "cam1", "source": source, "reader": "gstreamer", "timeout": 10.0} | more
    return CameraConfig.model_validate(values)


def first_pictures(camera: CameraConfig, count: int) -> list[Picture]:
    with open_source(camera) as source:
        pictures = (picture for picture in source.pictures() if picture is not None)
        return [next(pictures) for _ in range(count)]


def test_a_jetson_decodes_in_its_hardware_and_drops_what_is_not_taken() -> None:
    assert pipeline_text(hardware=True, transport="udp") == (
        "rtspsrc name=source protocols=udp latency=200 buffer-mode=none"
        " ! application/x-rtp,media=video ! parsebin ! nvv4l2decoder ! nvvidconv ! video/x-raw,format=NV12"
        " ! appsink name=sink max-buffers=1 drop=true sync=false enable-last-sample=false"
    )


@pytest.mark.usefixtures("_bindings")
@pytest.mark.parametrize("hardware", [False, True])
def test_both_forms_of_the_pipeline_show_the_stream_as_it_is(
    server: RtspServer, monkeypatch: pytest.MonkeyPatch, hardware: bool
) -> None:
    # In the place of a Jetson's elements stand those that do the same here; the rest of the text is the same.
    text = pipeline_text(hardware=hardware, transport="tcp")
    text = text.replace("nvv4l2decoder", "avdec_h264").replace("nvvidconv", "videoconvert")
    monkeypatch.setattr(gstreamer, "pipeline_text", lambda **_: text)
    with open_source(config(server.address("stripes"))) as source:
        pictures = (picture for picture in source.pictures() if picture is not None)
        taken = [next(pictures) for _ in range(10)]
        image_HW3 = taken[-1].to_image()
    assert image_HW3.shape == (190, 322, 3)
    for x, colour in zip((20, 160, 300), COLOURS, strict=True):
        assert image_HW3[100, x].tolist() == pytest.approx(colour, abs=4)
    times = [picture.seconds for picture in taken]
    assert None not in times
    steps = np.diff(np.array(times, dtype=np.float64)) * 25
    assert steps.min() > 0
    assert np.abs(steps - steps.round()).max() < 0.3  # whole pictures apart


@pytest.mark.usefixtures("_bindings")
def test_what_a_pipeline_says_is_heard_while_pictures_come(server: RtspServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gstreamer, "ASK_SECONDS", 0.0)
    with open_source(config(server.address("stripes"))) as source:
        assert isinstance(source, GStreamerSource)
        pictures = (picture for picture in source.pictures() if picture is not None)
        next(pictures)
        modules = load_gstreamer()
        assert modules is not None
        Gst = modules[0]
        source._bus.post(Gst.Message.new_eos(None))
        assert len(list(islice(pictures, 50))) <= 1


@pytest.mark.usefixtures("_bindings")
def test_a_wrong_password_and_a_closed_port_are_told_apart_without_the_address(server: RtspServer) -> None:
    with pytest.raises(Refused, match="does not take this user and password"):
        first_pictures(config(server.address("stripes", password="wrong")), 1)
    with pytest.raises(OSError, match="Could not open") as caught:
        first_pictures(config(server.address("stripes", port=1)), 1)
    assert "127.0.0.1" not in str(caught.value)


@pytest.mark.usefixtures("_no_bindings")
def test_a_machine_without_gstreamer_says_what_it_needs() -> None:
    with pytest.raises(InputError, match=r"cam1: reader: gstreamer needs the Debian packages python3-gi"):
        check_source(config("rtsp://host/a"))


def test_gstreamer_is_for_rtsp_alone() -> None:
    with pytest.raises(InputError, match="cam1: GStreamer reads rtsp:// addresses only"):
        check_source(config("http://host/a"))


def test_auto_takes_gstreamer_on_a_jetson_and_nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    camera = config("rtsp://host/a", reader="auto")
    assert not prefers_gstreamer(camera)
    monkeypatch.setattr(gstreamer, "JETSON", tmp_path)
    monkeypatch.setattr(gstreamer, "has_element", lambda name: name == "nvv4l2decoder")
    assert prefers_gstreamer(camera)
    assert not prefers_gstreamer(config("rtsp://host/a", reader="auto", decode="software"))
    assert not prefers_gstreamer(config("http://host/a", reader="auto"))


def test_nv12_with_padded_rows_is_cut_to_size() -> None:
    # 3 x 5 pixels of mid-grey, but the last one white (235 of 16 to 235); rows of 8 bytes, planes 4 bytes apart.
    data = np.full(4 + 4 * 8 + 4 + 2 * 8, 128, dtype=np.uint8)
    luma_HW = data[4:36].reshape(4, 8)
    luma_HW[:3, :5] = 126
    luma_HW[2, 4] = 235
    image_HW3 = nv12_to_bgr(data, (3, 5), strides=(8, 8), offsets=(4, 40))
    assert image_HW3.shape == (3, 5, 3)
    assert image_HW3[2, 4].tolist() == pytest.approx([255] * 3, abs=1)
    assert image_HW3[:2].reshape(-1).tolist() == pytest.approx([128] * 30, abs=1)
