"""Real footage over real RTSP, with a detector and an encoder that know real people."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from reidge.calibration.harvest import HarvestConfig, harvest
from reidge.edge.crops import read_crop_folder
from reidge.edge.detectors.yolox import YoloxConfig
from reidge.edge.footage import Span, read_footage
from tests.servers.rtsp import Mount, RtspServer, need_gstreamer
from tests.servers.streams import write_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

EXAMPLE = Path(__file__).parents[2] / "examples" / "rtsp.yaml"
PASSWORD = "p@ss:w/rd"
PASSWORD_IN_ADDRESS = "p%40ss%3Aw%2Frd"
HALF_MINUTE = 30.0


@pytest.fixture(scope="module")
def streams(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Mount]:
    """`hall`, 32 s in which two people stand, leave and come; `gym`, three people in 10 s."""
    need_gstreamer()
    folder = tmp_path_factory.mktemp("streams")
    hall = read_frames(shared / "media" / "one-by-one-person-detection.mp4", Span(since=30, until=62), 432)
    gym = read_frames(shared / "media" / "pose2sim" / "cam01.mp4", Span(), 640)
    return {
        "hall": Mount(file=write_stream(folder / "hall.json", hall), password=PASSWORD),
        "gym": Mount(file=write_stream(folder / "gym.json", gym), password=PASSWORD),
    }


def read_frames(source: Path, span: Span, height: int) -> Iterator[NDArray[np.uint8]]:
    for frame in read_footage(str(source), camid="cam", span=span):
        width = 2 * round(frame.image.shape[1] * height / frame.image.shape[0] / 2)
        yield np.asarray(cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def read_events(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = 25.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.2)


def test_people_of_two_streams_get_identities_while_one_of_the_cameras_is_dead_comes_and_goes(
    streams: dict[str, Mount], osnet_bundle: Path, shared: Path, tmp_path: Path
) -> None:
    with RtspServer({"gym": streams["gym"]}) as gym:
        pass  # it has a port on which nobody listens now: cam2 is dead at the start
    events_path = tmp_path / "events.jsonl"

    def changes(camid: str) -> list[str]:
        return [
            event["event"]
            for event in read_events(events_path)
            if event["camid"] == camid and "camera" in event["event"]
        ]

    with RtspServer({"hall": streams["hall"]}) as hall:
        environment = os.environ | {
            "CAMERA_1": hall.address("hall"),
            "CAMERA_2": gym.address("gym"),
            "DETECTOR": str(shared / "weights" / "yolox_nano.onnx"),
            "BUNDLE": str(osnet_bundle),
            "OUTPUT": str(tmp_path),
        }
        command = [sys.executable, "-m", "reidge.cli.main", "run", str(EXAMPLE), "--json"]
        command += ["--set", "identity.min_similarity=0.7", "--set", f"outputs.tracks={tmp_path / 'tracks'}"]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as run:
            try:
                wait_for(lambda: changes("cam1") == ["camera.up"] and changes("cam2") == ["camera.down"], "dead cam2")
                started = time.monotonic()
                with gym:
                    wait_for(lambda: changes("cam2")[-1] == "camera.up", "cam2")
                    time.sleep(8)
                wait_for(lambda: changes("cam2")[-1] == "camera.down", "loss of cam2")
                with gym:
                    wait_for(lambda: changes("cam2")[-1] == "camera.up", "return of cam2")
                    time.sleep(max(3.0, started + HALF_MINUTE + 1 - time.monotonic()))
                    run.terminate()
                    out, err = run.communicate(timeout=20)
            finally:
                run.kill()
    assert run.returncode == 0, err
    figures, events = json.loads(out), read_events(events_path)
    assert changes("cam1") == ["camera.up"]
    assert changes("cam2") == ["camera.down", "camera.up", "camera.down", "camera.up"]
    ended = [event for event in events if event["event"] == "sighting.ended"]
    assert figures["sightings"] == len(ended)
    seen = {
        camid: {event["global_id"] for event in ended if event["camid"] == camid} - {None} for camid in ("cam1", "cam2")
    }
    assert seen["cam1"]
    assert len(seen["cam2"]) >= 2  # two people are in front the whole time
    handled = [line.split(",") for line in (tmp_path / "tracks" / "cam1.csv").read_text().splitlines()[1:]]
    assert float(handled[-1][-1]) - float(handled[0][-1]) > 20
    for text in (out, err, events_path.read_text()):
        assert PASSWORD not in text
        assert PASSWORD_IN_ADDRESS not in text
        assert "viewer" not in text


def test_a_live_stream_can_be_harvested(streams: dict[str, Mount], shared: Path, tmp_path: Path) -> None:
    config = HarvestConfig(
        detector=YoloxConfig(path=shared / "weights" / "yolox_nano.onnx"), until=6.0, max_fps=8, border=0
    )
    with RtspServer({"hall": streams["hall"]}) as server:
        summary = harvest({"hall": server.address("hall")}, tmp_path / "crops", config, progress=False)
    assert summary.tracklets == 1  # one man stands there
    assert {record.camid for record in read_crop_folder(tmp_path / "crops").records} == {"hall"}
