from __future__ import annotations

import io
import socket
import threading
import time
import wave
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from reidge.edge.camera import CameraConfig
from reidge.edge.errors import InputError
from reidge.edge.live import LiveStream
from reidge.edge.stream import Cameras

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_recordings_at_full_speed_advance_together_and_lose_nothing(walks: dict[str, Path]) -> None:
    configs = [CameraConfig(name=name, source=str(path), start=100.0) for name, path in walks.items()]
    with Cameras(configs) as cameras:
        moments = list(cameras.moments(threading.Event()))
    assert [[frame.camid for frame in moment] for moment in moments] == [["cam1", "cam2"]] * 120
    assert moments[50][0].captured_at == moments[50][1].captured_at == pytest.approx(105.0)
    assert cameras.dropped == 0


def test_a_camera_that_starts_later_waits_for_its_time(walks: dict[str, Path]) -> None:
    configs = [
        CameraConfig(name="early", source=str(walks["cam1"]), start=100.0, until=2.0),
        CameraConfig(name="late", source=str(walks["cam2"]), start=101.0, until=2.0),
    ]
    with Cameras(configs) as cameras:
        names = [[frame.camid for frame in moment] for moment in cameras.moments(threading.Event())]
    assert names == [["early"]] * 10 + [["early", "late"]] * 10 + [["late"]] * 10


def test_states_tell_when_recordings_begin_and_end(still: Path) -> None:
    with Cameras([CameraConfig(name="cam1", source=str(still), start=100.0)]) as cameras:
        list(cameras.moments(threading.Event()))
        states = cameras.states()
    assert [(state.up, state.at) for state in states] == [(True, 100.0), (False, pytest.approx(102.9))]
    assert states[1].reason == "the recording ended"


def test_a_loop_slower_than_a_paced_recording_gets_the_newest_and_counts_the_rest(still: Path) -> None:
    config = CameraConfig(name="cam1", source=str(still), pace="realtime", until=1.5)
    indices = []
    with Cameras([config]) as cameras:
        for moment in cameras.moments(threading.Event()):
            indices += [frame.index for frame in moment]
            time.sleep(0.25)  # five frames of ten a second come in twice this time
    assert indices == sorted(set(indices))
    assert len(indices) + cameras.dropped == 15
    assert cameras.dropped > 0


def test_a_paced_recording_takes_a_lower_rate_too(still: Path) -> None:
    with Cameras([CameraConfig(name="cam1", source=str(still), pace="realtime", until=2.0)]) as cameras:
        cameras.set_rate("cam1", 5)
        frames = [frame for moment in cameras.moments(threading.Event()) for frame in moment]
    assert [frame.index for frame in frames] == list(range(0, 20, 2))
    counts = cameras.counts()["cam1"]
    assert (counts.decoded, counts.offered) == (20, 10)


def test_stopping_ends_every_camera_at_once(walks: dict[str, Path]) -> None:
    stop = threading.Event()
    with Cameras([CameraConfig(name=name, source=str(path)) for name, path in walks.items()]) as cameras:
        for count, _ in enumerate(cameras.moments(stop)):
            if count == 3:
                stop.set()
    assert count == 3
    assert not any(camera.is_alive() for camera in cameras.cameras)


def test_a_dead_address_is_told_once_without_its_password_and_never_ends_the_others(
    silent_port: int, still: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed_port = server.getsockname()[1]
    configs = [
        CameraConfig(name="refused", source=f"rtsp://u:secret@127.0.0.1:{closed_port}/a", timeout=0.3),
        CameraConfig(name="silent", source=f"rtsp://u:secret@127.0.0.1:{silent_port}/a", timeout=0.3),
        CameraConfig(name="good", source=str(still), pace="realtime"),
    ]
    states, frames = [], 0
    stop = threading.Event()
    with Cameras(configs) as cameras:
        for moment in cameras.moments(stop):
            frames += len(moment)
            states += cameras.states()
            if frames > 20:
                stop.set()
    downs = {state.camid: state.reason for state in states if not state.up}
    assert sorted(downs) == ["refused", "silent"]
    assert len([state for state in states if state.camid == "refused"]) == 1
    assert downs["refused"].startswith(f"rtsp://127.0.0.1:{closed_port}/a: ")
    assert not any("secret" in state.reason for state in states)


def test_a_recording_that_breaks_after_the_start_is_told(still: Path, tmp_path: Path) -> None:
    path = tmp_path / "gone.mp4"
    path.write_bytes(still.read_bytes())
    configs = [CameraConfig(name="gone", source=str(path)), CameraConfig(name="good", source=str(still))]
    cameras = Cameras(configs)
    path.unlink()
    with cameras:
        frames = [frame for moment in cameras.moments(threading.Event()) for frame in moment]
        downs = {state.camid: state.reason for state in cameras.states() if not state.up}
    assert len(frames) == 30
    assert "does not exist" in downs["gone"]


def test_full_speed_beside_real_time_is_refused(still: Path) -> None:
    configs = [
        CameraConfig(name="file", source=str(still)),
        CameraConfig(name="live", source="rtsp://host/stream"),
    ]
    with pytest.raises(InputError, match="file is read at full speed beside cameras in real time"):
        Cameras(configs)


def test_a_missing_recording_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"camera cam1: .*none\.mp4 does not exist"):
        Cameras([CameraConfig(name="cam1", source=str(tmp_path / "none.mp4"))])


@pytest.fixture
def closed_port() -> int:
    """On which nobody listens, yet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Refuses(BaseHTTPRequestHandler):
    """A camera that takes no password."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_another_reason_is_told_while_a_camera_is_down(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reidge.edge.live.TELL_AGAIN", 2.0)
    config = CameraConfig(name="hall", source=f"http://u:secret@127.0.0.1:{closed_port}/a", timeout=1.0)
    stop, reasons, served = threading.Event(), [], False
    deadline = time.monotonic() + 20
    with Cameras([config]) as cameras, ExitStack() as stack:
        for _ in cameras.moments(stop):
            reasons += [state.reason.partition("/a: ")[2] for state in cameras.states() if not state.up]
            if not served and cameras.counts()["hall"].failures >= 2:  # the same twice is told once
                served = True
                server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", closed_port), Refuses))
                threading.Thread(target=server.serve_forever, daemon=True).start()
                stack.callback(server.shutdown)
            if len(reasons) == 2 or time.monotonic() > deadline:
                stop.set()
    assert reasons == ["Connection refused", "it does not take this user and password"]


def test_a_reason_that_changes_all_the_time_is_told_once_a_minute() -> None:
    camera = LiveStream(CameraConfig(name="hall", source="rtsp://host/a"), start_at=0, wake=threading.Event(), size=1)
    for reason in ("one", "two", "one", "three"):
        camera._reason = reason
        camera._tell_why()
    assert [state.reason for state in camera.mailbox.take()[0]] == ["one"]
    camera._told_at -= 60
    camera._tell_why()
    assert [state.reason for state in camera.mailbox.take()[0]] == ["three"]


def test_a_camera_that_stays_down_after_its_settings_changed_says_why(closed_port: int) -> None:
    stop, reasons = threading.Event(), []
    deadline = time.monotonic() + 10
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call and never answers
        source = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        config = CameraConfig(name="hall", source=source, timeout=5.0)
        with Cameras([config]) as cameras:
            changed = {"source": f"http://127.0.0.1:{closed_port}/a", "timeout": 1.0}
            cameras.apply([config.model_copy(update=changed)])  # before anything came
            for _ in cameras.moments(stop):
                reasons += [state.reason.rpartition(": ")[2] for state in cameras.states()]
                if len(reasons) == 2 or time.monotonic() > deadline:
                    stop.set()
    assert reasons == ["its settings changed", "Connection refused"]


@pytest.fixture
def audio_server() -> Iterator[tuple[int, list[str]]]:
    """Of a camera that sends sound only, and the paths it was asked for."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(buffer.getvalue())))
            self.end_headers()
            self.wfile.write(buffer.getvalue())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, asked
        server.shutdown()


def test_a_stream_without_video_is_told_and_tried_again(audio_server: tuple[int, list[str]]) -> None:
    port, asked = audio_server
    config = CameraConfig(name="deaf", source=f"http://u:secret@127.0.0.1:{port}/sound.wav", timeout=2.0)
    stop, states = threading.Event(), []
    deadline = time.monotonic() + 10
    with Cameras([config]) as cameras:
        for _ in cameras.moments(stop):
            states += cameras.states()
            if len(asked) > 1 or time.monotonic() > deadline:
                stop.set()
    assert len(asked) > 1
    assert [state.reason for state in states] == [f"http://127.0.0.1:{port}/sound.wav: it carries no video"]


@pytest.mark.parametrize("pauses", [(0.2, 0.0), (0.0, 0.2)])
def test_a_thread_that_is_held_up_between_two_clocks_takes_neither_for_set(
    monkeypatch: pytest.MonkeyPatch, pauses: tuple[float, float]
) -> None:
    camera = LiveStream(CameraConfig(name="hall", source="rtsp://host/a"), start_at=0, wake=threading.Event(), size=1)
    camera.up, really = True, time.time

    def held_up() -> float:
        time.sleep(pauses[0])
        now = really()
        time.sleep(pauses[1])
        return now

    monkeypatch.setattr(time, "time", held_up)
    camera._tell_up()
    monkeypatch.undo()
    camera._tell_up()
    assert camera.mailbox.take()[0] == []


def sound_that_goes_on() -> tuple[bytes, bytes]:
    """An MPEG transport stream of 8 s of pictures with sound, and 2 s of sound alone to come behind."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as container:
        video, audio = container.add_stream("mpeg2video", rate=10), container.add_stream("mp2", rate=32000)
        assert isinstance(video, av.VideoStream)
        assert isinstance(audio, av.AudioStream)
        video.width, video.height, video.pix_fmt, audio.layout = 64, 48, "yuv420p", "mono"
        samples = 0
        for number in range(100):
            if number < 80:
                picture = av.VideoFrame(64, 48, "yuv420p")
                picture.pts = number
                container.mux(video.encode(picture))
            while samples < 3200 * (number + 1):
                sound = av.AudioFrame.from_ndarray(np.zeros((1, 1152), dtype=np.int16), format="s16", layout="mono")
                sound.sample_rate, sound.pts = 32000, samples
                container.mux(audio.encode(sound))
                samples += 1152
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    data = buffer.getvalue()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    of_video = [number for number, packet in enumerate(packets) if packet[1] & 0x1F == 1 and packet[2] == 0]
    return b"".join(packets[: of_video[-1] + 1]), b"".join(packets[of_video[-1] + 1 :])


def test_a_stream_whose_pictures_stop_is_lost_though_its_sound_goes_on() -> None:
    begins, goes_on = sound_that_goes_on()
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(begins)
            with suppress(ConnectionError):
                while not over.wait(0.2):
                    self.wfile.write(goes_on)

        def log_message(self, *_: object) -> None:
            pass

    stop, states = threading.Event(), []
    deadline = time.monotonic() + 20
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = f"http://127.0.0.1:{server.server_port}/a.ts"
        with Cameras([CameraConfig(name="hall", source=source, timeout=1.0)]) as cameras:
            for _ in cameras.moments(stop):
                states += cameras.states()
                if len(states) == 2 or time.monotonic() > deadline:
                    stop.set()
        over.set()
        server.shutdown()
    assert [(state.up, state.reason) for state in states] == [(True, ""), (False, f"{source}: nothing came for 1 s")]
