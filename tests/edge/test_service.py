from __future__ import annotations

import json
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.servers.rtsp import Mount, RtspServer, need_gstreamer
from tests.servers.running import Ages, Running
from tests.servers.streams import write_stream

if TYPE_CHECKING:
    from pathlib import Path

HANDLED, WAITED = "reidge_frames_handled_total", "reidge_stage_seconds_sum"


def site(bundle: Path, walks: dict[str, Path], **more: Any) -> dict[str, Any]:
    """Both recordings as live cameras would come, from the moment before red enters."""
    cameras = [{"name": name, "source": str(path), "pace": "realtime", "since": 2} for name, path in walks.items()]
    return {
        "bundle": str(bundle),
        "cameras": cameras,
        "encoder": {"backend": "onnxruntime", "threads": 1},
        "identity": {"min_similarity": 0.8, "min_sightings": 1},
        "storage": {"gallery": "gallery.sqlite"},
    } | more


def said(running: Running) -> str:
    return running.said("err").read_text()


def test_a_wrong_site_file_is_refused_and_a_right_one_adds_and_removes_cameras_without_a_restart(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    first = site(tiny_bundle, {"cam1": walks["cam1"]})
    wrong = [
        "cameras: [",
        json.dumps(first | {"cameras": []}),
        json.dumps(first | {"cameras": [first["cameras"][0] | {"source": "gone.mp4"}]}),
        "bundle: &itself {more: *itself}",
    ]
    with Running(tmp_path / "site", first) as running:
        running.wait_for(lambda: running.events("sighting.started"), "person")
        for count, text in enumerate(wrong, start=1):
            (running.folder / "site.yaml").write_text(text)
            running.process.send_signal(signal.SIGHUP)
            while said(running).count("reload refused, the settings from before stay") < count:
                assert running.process.poll() is None
                time.sleep(0.02)
        assert running.is_up("cam1")
        running.configure(site(tiny_bundle, {"cam2": walks["cam2"]}, encoder={"backend": "onnxruntime", "threads": 2}))
        running.process.send_signal(signal.SIGHUP)
        running.wait_for(lambda: running.is_up("cam2"), "new camera")
        running.wait_for(lambda: running.is_up("cam1") is False, "end of the old camera")
        running.stop()
    assert "added cam2; removed cam1; what stands under encoder needs a restart" in said(running)
    assert running.events("camera.down", camid="cam1")[0]["reason"] == "it was removed from the site"
    started, ended = running.events("sighting.started", camid="cam1"), running.events("sighting.ended", camid="cam1")
    assert len(started) == len(ended) >= 1


def test_systemd_and_whoever_asks_hear_that_the_site_runs(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30.0)

        def hears(word: bytes) -> bool:
            """Whether it comes, after nothing but signs of life."""
            while (heard := manager.recv(99)).startswith((b"WATCHDOG=1", b"STATUS=")):
                pass
            return heard.startswith(word)

        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        with Running(tmp_path / "site", site(tiny_bundle, walks), environment) as running:
            assert hears(b"READY=1")
            assert manager.recv(99) == b"WATCHDOG=1"
            running.wait_for(lambda: running.ask("/ready")[0] == 200, "readiness")
            assert running.ask("/health")[0] == 200
            running.wait_for(lambda: len(running.metrics().get("reidge_frames_handled_total", {})) == 2, "frames")
            stages = running.metrics()["reidge_stage_seconds_count"]
            assert {f"cam1,{stage}" for stage in ("decode", "wait", "detect", "track", "embed", "match", "emit")} <= {
                *stages
            }
            running.process.send_signal(signal.SIGHUP)
            assert hears(b"RELOADING=1")
            assert hears(b"READY=1")
            running.process.send_signal(signal.SIGTERM)
            assert hears(b"STOPPING=1")
            assert running.process.wait(10.0) == 0


# What comes while heavy libraries are loaded, which takes a second or more.
EARLY = """
import os, sys
class Early:
    def find_spec(self, name, path=None, target=None):
        if name == "reidge.edge.service":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(os.environ["EARLY"]))
sys.meta_path.insert(0, Early())
from reidge.cli.main import main
sys.exit(main(["run", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_that_comes_while_the_process_starts_is_obeyed(
    number: signal.Signals, tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "early.py"
    script.write_text(EARLY)
    monkeypatch.setattr("tests.servers.running.COMMAND", (sys.executable, str(script)))
    with Running(tmp_path / "site", site(tiny_bundle, walks), {"EARLY": str(int(number))}) as running:
        if number == signal.SIGHUP:
            running.wait_for(lambda: "settings were read again: no camera changed" in said(running), "reload")
            running.stop()
        assert running.process.wait(30.0) == 0


# A detector that needs a tenth of a second for each frame, on any machine.
SLOW = """
import sys, time
from reidge.edge.detectors.motion import MotionDetector
found = MotionDetector.detect_many
def detect_many(self, frames):
    time.sleep(0.1 * len(frames))
    return found(self, frames)
MotionDetector.detect_many = detect_many
from reidge.cli.main import main
sys.exit(main(["run", *sys.argv[1:]]))
"""


def test_too_many_cameras_are_all_given_the_same_lower_rate_and_stay_fresh(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_gstreamer()
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    monkeypatch.setattr("tests.servers.running.COMMAND", (sys.executable, str(script)))
    images = np.random.default_rng(0).integers(0, 255, (40, 180, 320, 3), dtype=np.uint8)
    stream = write_stream(tmp_path / "noise.json", images, fps=20)
    names = ("cam1", "cam2", "cam3")
    with RtspServer({name: Mount(file=stream) for name in names}) as server:
        # 60 frames a second come, 10 of them could be handled, and 8.5 are to be.
        cameras = [{"name": name, "source": server.address(name)} for name in names]
        with Running(tmp_path / "site", site(tiny_bundle, {}, cameras=cameras, load={"window": 1})) as running:

            def rates() -> set[float]:
                return set(running.metrics().get("reidge_camera_rate", {}).values())

            # A camera that is not there yet leaves the others more, so it may take more than one ruling.
            running.wait_for(lambda: len(found := rates()) == 1 and 1.0 <= found.pop() <= 8.5 / 3, "lower rate")
            before = running.metrics()
            with Ages(running) as ages:
                time.sleep(4.0)
            after = running.metrics()
            running.configure(site(tiny_bundle, {}, cameras=cameras, load={"window": 60}))
            running.process.send_signal(signal.SIGHUP)
            running.wait_for(lambda: "settings were read again" in said(running), "reload")
            assert rates() == {float("inf")}  # what was measured under other settings says nothing
            running.stop()
    handled = [after[HANDLED][name] - before[HANDLED][name] for name in names]
    assert max(handled) <= 1.3 * min(handled) + 1
    assert all(ages.p95(name) < 1.0 for name in names)
    waited = sum(after[WAITED][f"{name},wait"] - before[WAITED][f"{name},wait"] for name in names)
    worked = sum(after[WAITED][f"{name},detect"] - before[WAITED][f"{name},detect"] for name in names)
    assert waited < 2 * worked  # a frame waits for a round of the others at most: nothing piles up
    assert "too much to do: every camera gives" in said(running)
    assert "every camera gives all its frames again" in said(running)


# A lock that is never opened: like native code that waits for a device, it lets no handler of a signal run.
HANGS = """
import ctypes, sys
from pathlib import Path
from reidge.edge.detectors.motion import MotionDetector
found, calls, lock, libc = MotionDetector.detect_many, 0, ctypes.create_string_buffer(64), ctypes.CDLL(None)
def detect_many(self, frames):
    global calls
    answer = found(self, frames)
    calls += any(len(people) for people in answer)
    if calls > 12:
        Path(__file__).with_suffix(".hangs").touch()
        libc.pthread_mutex_lock(lock), libc.pthread_mutex_lock(lock)
    return answer
MotionDetector.detect_many = detect_many
from reidge.cli.main import main
sys.exit(main(["run", *sys.argv[1:]]))
"""


@pytest.fixture
def hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lets the detector of every site hang while people are in view; the file is there from then on."""
    script = tmp_path / "hang.py"
    script.write_text(HANGS)
    monkeypatch.setattr("tests.servers.running.COMMAND", (sys.executable, str(script)))
    return script.with_suffix(".hangs")


@pytest.mark.usefixtures("hangs")
def test_a_stuck_stage_is_named_and_the_process_ends_with_status_1(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    with Running(tmp_path / "site", site(tiny_bundle, walks, watchdog={"seconds": 1})) as running:
        assert running.process.wait(30.0) == 1
    assert "the loop is stuck for 1 s (stage detect, hang.py:" in said(running)
    assert len(running.events("sighting.started")) == len(running.events("sighting.ended")) >= 1


def test_a_loop_that_hangs_ends_within_5_s_of_sigterm_all_the_same(
    hangs: Path, tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    with Running(tmp_path / "site", site(tiny_bundle, walks)) as running:
        running.wait_for(hangs.exists, "hang", seconds=30)
        assert running.stop() < 5.0
    assert len(running.events("sighting.started")) == len(running.events("sighting.ended")) >= 1
