"""Cameras against a real RTSP server, and a network that breaks on demand."""

from __future__ import annotations

import os
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from reidge.edge import stream
from reidge.edge.camera import CameraConfig
from reidge.edge.errors import InputError
from reidge.edge.stream import CameraChanges, Cameras
from tests.servers.proxy import RtspProxy
from tests.servers.rtsp import Mount, RtspServer, need_gstreamer
from tests.servers.streams import write_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.edge.frame import Frame
    from reidge.edge.mailbox import CameraState
    from tests.servers.streams import Codec

FPS = 25
WIDTH, HEIGHT = 320, 192


def numbered(count: int, *, width: int = WIDTH, height: int = HEIGHT) -> Iterator[NDArray[np.uint8]]:
    """Grey pictures whose left half gets brighter from one to the next; the right half is white."""
    for number in range(count):
        image_HW3 = np.full((height, width, 3), 255, dtype=np.uint8)
        image_HW3[:, : width // 2] = 20 + 7 * (number % 30)
        yield image_HW3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RtspServer]:
    """Streams of 2 s at 25 fps: `h264`, `h265`, `mjpeg`; what is larger lies beside them as `large.json`."""
    need_gstreamer()
    folder = tmp_path_factory.mktemp("streams")
    codecs: tuple[Codec, ...] = ("h264", "h265", "mjpeg")
    mounts: dict[str, Mount] = {
        codec: Mount(file=write_stream(folder / f"{codec}.json", numbered(2 * FPS), fps=FPS, codec=codec))
        for codec in codecs
    }
    write_stream(folder / "large.json", numbered(2 * FPS, width=2 * WIDTH, height=2 * HEIGHT), fps=FPS)
    with RtspServer(mounts) as running:
        yield running


class Loop:
    """The loop of a site in a thread of its own, which only keeps what it gets."""

    def __init__(self, cameras: Cameras) -> None:
        self.cameras = cameras
        self.frames: list[Frame] = []
        self.states: list[CameraState] = []
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        for frames in self.cameras.moments(self.stop):
            self.states += self.cameras.states()
            self.frames += frames

    def __enter__(self) -> Loop:
        self.cameras.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join()
        self.cameras.__exit__(None, None, None)

    def wait(self, condition: Callable[[], bool], what: str, *, seconds: float = 20.0) -> float:
        """Wait for something; tells how long it took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < seconds, f"no {what} within {seconds} s; {self.states}"
            time.sleep(0.01)
        return time.monotonic() - began

    def more(self, count: int) -> list[Frame]:
        """Wait for so many new frames."""
        before = len(self.frames)
        self.wait(lambda: len(self.frames) >= before + count, f"{count} more frames")
        return self.frames[before : before + count]

    @property
    def ups(self) -> list[bool]:
        return [state.up for state in self.states]


def watch(*configs: CameraConfig) -> Loop:
    return Loop(Cameras(configs))


def camera(server: RtspServer, mount: str = "h264", *, port: int | None = None, **more: object) -> CameraConfig:
    values = {"name": mount, "source": server.address(mount, port=port), "timeout": 1.0} | more
    return CameraConfig.model_validate(values)


def test_streams_of_each_codec_come_with_the_spacing_of_their_cameras(server: RtspServer) -> None:
    over_udp = camera(server, name="udp", transport="udp")
    with watch(*(camera(server, codec) for codec in server.mounts), over_udp) as loop:
        taken: dict[str, list[Frame]] = {name: [] for name in (*server.mounts, "udp")}
        loop.wait(lambda: len({frame.camid for frame in loop.frames}) == 4, "all four")
        for frame in loop.more(80):
            taken[frame.camid].append(frame)
    for name, frames in taken.items():
        assert {frame.image.shape for frame in frames} == {(HEIGHT, WIDTH, 3)}, name
        assert {frame.clock for frame in frames} == {"camera"}
        assert frames[-1].image[:, -20:].mean() > 240
        # A busy machine may be late for all of the first packets; later times then move, and only forwards.
        steps = [(b.captured_at - a.captured_at) / (b.index - a.index) for a, b in pairwise(frames)]
        assert np.median(steps) == pytest.approx(1 / FPS, abs=0.002), name
        assert min(steps) >= 0
        assert abs(frames[-1].captured_at - time.time()) < 5
        assert all(frame.arrived_at <= frame.decoded_at for frame in frames)
    assert loop.ups == [True] * 4


def test_a_camera_that_was_lost_is_back_within_five_seconds_of_answering(server: RtspServer) -> None:
    # It stalls; then it refuses, then it takes connections and never answers, longer than the first pauses.
    with RtspProxy(server.port) as proxy, watch(camera(server, port=proxy.port)) as loop:
        assert loop.cameras.ages() == {"h264": None}
        assert 0 <= loop.cameras.silences()["h264"] < 5  # counts from the start
        loop.more(3)
        proxy.stall()
        loop.wait(lambda: (loop.cameras.ages()["h264"] or 0) > 0.8, "ageing")
        loop.wait(lambda: not loop.ups[-1], "loss", seconds=4)
        proxy.refuse()
        proxy.heal()
        proxy.silence()
        time.sleep(3)
        proxy.heal()
        assert loop.wait(lambda: loop.ups[-1], "return") < 5
        loop.more(1)
        assert (loop.cameras.ages()["h264"] or 9) < 1
        assert loop.cameras.silences()["h264"] < 1
        counts = loop.cameras.counts()["h264"]
    assert loop.ups == [True, False, True]
    assert loop.states[1].reason == f"rtsp://127.0.0.1:{proxy.port}/h264: nothing came for 1 s"
    assert counts.connections == 2
    assert counts.failures >= 1


def test_a_stream_may_change_its_size(server: RtspServer) -> None:
    large = server.mounts["h264"].file.with_name("large.json")
    with watch(camera(server)) as loop:
        loop.more(3)
        server.play("h264", large)
        loop.wait(lambda: loop.frames[-1].image.shape == (2 * HEIGHT, 2 * WIDTH, 3), "larger picture")
        loop.more(3)
        server.play("h264", server.mounts["h264"].file)
        loop.wait(lambda: loop.frames[-1].image.shape == (HEIGHT, WIDTH, 3), "smaller picture")
    assert loop.ups == [True]


def test_damaged_packets_cost_their_pictures_and_nothing_else(server: RtspServer) -> None:
    with RtspProxy(server.port) as proxy, watch(camera(server, port=proxy.port)) as loop:
        loop.more(3)
        proxy.corrupt_share = 0.5
        time.sleep(1)
        proxy.heal()
        loop.more(FPS + 5)  # past the next key frame
        frames = loop.more(5)
    assert all(frame.image[:, -20:].mean() > 240 for frame in frames)
    assert all(later.captured_at >= earlier.captured_at for earlier, later in pairwise(loop.frames))


def test_a_stream_that_sends_anything_but_pictures_is_lost(server: RtspServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reidge.edge.live.BLIND", 1.0)
    with watch(camera(server)) as loop:
        loop.more(3)
        server.play("h264", server.mounts["h265"].file)  # in packets for H.264
        loop.wait(lambda: not loop.ups[-1], "loss")
        server.play("h264", server.mounts["h264"].file)
        loop.wait(lambda: loop.ups[-1], "return")
        assert loop.cameras.counts()["h264"].corrupt > 0
    assert loop.states[1].reason.endswith("/h264: no picture in all that came for 1 s")


def test_a_camera_whose_pictures_stop_is_lost_though_its_sound_goes_on(server: RtspServer) -> None:
    mount = Mount(file=server.mounts["h264"].file, sound=True)
    with RtspServer({"h264": mount}) as noisy, watch(camera(noisy)) as loop:
        loop.more(3)
        noisy.hold("h264")
        loop.wait(lambda: not loop.ups[-1], "loss")
        noisy.play("h264", mount.file)
        loop.wait(lambda: loop.ups[-1], "return")
    assert loop.states[1].reason.endswith("/h264: nothing came for 1 s")


def test_new_settings_touch_only_the_cameras_that_they_change(server: RtspServer) -> None:
    left_half = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
    first, second, third = (camera(server, mount) for mount in ("h264", "h265", "mjpeg"))
    with watch(first, second) as loop:
        loop.wait(lambda: {frame.camid for frame in loop.frames} == {"h264", "h265"}, "both")
        changes = loop.cameras.apply([first, second.model_copy(update={"masks": (left_half,)}), third])
        assert changes == CameraChanges(added=("mjpeg",), changed=("h265",))
        loop.wait(lambda: loop.frames[-1].camid == "mjpeg", "new camera")
        loop.wait(lambda: loop.frames[-1].camid == "h265", "masked picture")
        assert set(loop.frames[-1].image[:, : WIDTH // 2].reshape(-1)) == {128}
        assert sorted((state.camid, state.up) for state in loop.states) == [
            ("h264", True), ("h265", True), ("mjpeg", True)
        ]  # fmt: skip

        loop.states.clear()
        moved = third.model_copy(update={"source": second.source})
        changes = loop.cameras.apply([first, moved])
        assert changes == CameraChanges(removed=("h265",), changed=("mjpeg",))
        loop.wait(lambda: len(loop.states) >= 3, "return")
        before = len(loop.frames)
        loop.wait(lambda: {frame.camid for frame in loop.frames[before:]} == {"h264", "mjpeg"}, "both that are left")
        assert [(state.camid, state.up, state.reason) for state in loop.states] == [
            ("h265", False, "it was removed from the site"),
            ("mjpeg", False, "its settings changed"),
            ("mjpeg", True, ""),
        ]
        assert {name: counts.connections for name, counts in loop.cameras.counts().items()} == {"h264": 1, "mjpeg": 2}


def test_settings_that_cannot_be_taken_over_change_nothing(server: RtspServer, still: Path) -> None:
    config = camera(server)
    with watch(config) as loop:
        loop.more(1)
        for wrong in (CameraConfig(name="file", source=str(still)), CameraConfig(name="gone", source="none.mp4")):
            with pytest.raises(InputError):
                loop.cameras.apply([config, wrong])
        loop.more(1)
        assert [running.config for running in loop.cameras.cameras] == [config]


def test_a_lower_rate_spares_conversion_and_is_given_back(server: RtspServer) -> None:
    def offered_and_decoded(pictures: int) -> tuple[int, int]:
        before = loop.cameras.counts()["h264"]
        loop.wait(lambda: loop.cameras.counts()["h264"].decoded >= before.decoded + pictures, "pictures")
        after = loop.cameras.counts()["h264"]
        return after.offered - before.offered, after.decoded - before.decoded

    with watch(camera(server)) as loop:
        loop.more(1)
        loop.cameras.set_rate("h264", 5)
        offered, decoded = offered_and_decoded(30)
        assert offered == pytest.approx(decoded / 5, abs=2)
        loop.cameras.set_rate("h264", None)
        offered, decoded = offered_and_decoded(20)
        assert offered == pytest.approx(decoded, abs=2)


def test_a_thread_that_hangs_in_ffmpeg_is_given_up_and_replaced(
    server: RtspServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # FFmpeg reads a pipe without looking at the time; nothing ever comes through this one.
    monkeypatch.setattr(stream, "HANGS", 0.5)
    read_end, write_end = os.pipe()
    really_open, opened = av.open, []

    def hang_at_first(source: str, **options: Any) -> Any:
        opened.append(source)
        return really_open(f"pipe:{read_end}", format="mpegts") if len(opened) == 1 else really_open(source, **options)

    monkeypatch.setattr(av, "open", hang_at_first)
    with watch(camera(server, timeout=0.5)) as loop:
        hung = loop.cameras.cameras[0]
        loop.more(3)
        assert hung.is_alive()
        os.close(write_end)
        hung.join(timeout=5)
        assert not hung.is_alive()
    os.close(read_end)
    assert [(state.up, state.reason) for state in loop.states] == [
        (False, "its reader hung and was replaced"),
        (True, ""),
    ]
    assert loop.cameras.counts()["h264"].abandoned == 1


def test_a_reader_that_cannot_keep_up_leaves_pictures_out_instead_of_falling_behind(
    server: RtspServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 25 pictures come each second and 7 are done: without leaving out, the last would be 5 s late.
    monkeypatch.setattr("reidge.edge.live.paint_over", lambda *_: time.sleep(0.14))
    with watch(camera(server)) as loop:
        epoch = time.time() - time.monotonic()
        loop.more(1)

        def late() -> float:
            return loop.frames[-1].decoded_at + epoch - loop.frames[-1].captured_at

        loop.wait(lambda: late() > 1, "falling behind")
        loop.wait(lambda: late() < 1, "catching up")
        assert loop.cameras.counts()["h264"].skipped > 0
    assert max(frame.decoded_at + epoch - frame.captured_at for frame in loop.frames) < 6


def test_times_do_not_run_backwards_when_the_clock_of_the_machine_is_set(
    server: RtspServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = time.time
    with watch(camera(server)) as loop:
        loop.more(3)
        monkeypatch.setattr(time, "time", lambda: really() - 3600)
        loop.wait(lambda: len(loop.states) >= 3, "news")
        loop.more(3)
        monkeypatch.undo()
    assert [state.up for state in loop.states[:3]] == [True, False, True]
    assert loop.states[1].reason == "the clock of this machine was set by -3600.0 s"
    assert loop.states[1].at - loop.states[2].at == pytest.approx(3600, abs=1)
