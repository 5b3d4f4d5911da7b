from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from reidge.cli.main import main
from reidge.edge.backends import open_encoder
from reidge.edge.bundle import Bundle
from reidge.edge.detectors import open_detector
from reidge.edge.detectors.motion import MotionDetector
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.figures import standing_identities
from reidge.edge.mailbox import CameraState
from reidge.edge.metrics import Metrics
from reidge.edge.orders import Orders
from reidge.edge.outputs import OutputConfig, Outputs
from reidge.edge.pipeline import AWAY, Pipeline
from reidge.edge.quality import cut_out
from reidge.edge.service import open_gallery, run_site
from reidge.edge.site import load_site
from reidge.edge.stream import Cameras
from reidge.edge.tracklog import TrackLog
from reidge.edge.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from reidge.edge.detection import Detections
    from reidge.edge.detectors import Detector
    from reidge.edge.figures import RunSummary
    from reidge.edge.frame import Frame
    from reidge.edge.view import Glance


def write_site(folder: Path, bundle: Path, walks: dict[str, Path], extra: str = "") -> Path:
    cameras = "".join(f"  - {{name: {name}, source: {path}, start: 1000}}\n" for name, path in walks.items())
    path = folder / "site.yaml"
    path.write_text(
        f"bundle: {bundle}\ncameras:\n{cameras}encoder: {{backend: onnxruntime, threads: 1}}\n"
        f"identity: {{min_similarity: 0.8, min_sightings: 1}}\n"
        f"storage: {{gallery: gallery.sqlite}}\noutputs: {{events: events.jsonl, tracks: tracks}}\n{extra}"
    )
    return path


def run(path: Path, *overrides: str) -> tuple[RunSummary, list[dict[str, Any]]]:
    site = load_site(path, overrides)
    summary = run_site(site, progress=False)
    return summary, read_events(path.parent)


def read_events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_person_in_two_cameras_is_one_identity_and_another_is_another(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    summary, events = run(write_site(tmp_path, tiny_bundle, walks))
    assert (summary.frames, summary.dropped, summary.sightings, summary.identities) == (240, 0, 3, 2)
    identities = {
        (row["camid"], row["track_id"]): row["global_id"] for row in read_rows(tmp_path / "tracks/identities.csv")
    }
    red, blue, red_again = identities["cam1", "1"], identities["cam1", "2"], identities["cam2", "1"]
    assert red == red_again != blue
    ended = [event for event in events if event["event"] == "sighting.ended"]
    assert sorted(str(event["global_id"]) for event in ended) == sorted([red, blue, red_again])
    assert len([event for event in events if event["event"] == "identity.created"]) == 2
    assert len({event["event_id"] for event in events}) == len(events)


def test_events_of_a_sighting_come_in_order_with_the_clock_of_the_recording(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    _, events = run(write_site(tmp_path, tiny_bundle, walks))
    kinds = [event["event"] for event in events if (event["camid"], event["track_id"]) == ("cam2", 1)]
    assert (kinds[0], kinds[-1]) == ("sighting.started", "sighting.ended")
    assert set(kinds[1:-1]) == {"sighting.updated"}
    began = next(event for event in events if event["camid"] == "cam2" and event["event"] == "sighting.started")
    # Red enters cam2 at frame 73; the recording began at 1000 s.
    assert "1970-01-01T00:16:47.3" < began["captured_at"] < "1970-01-01T00:16:48.2"
    assert [event["event"] for event in events if event["event"].startswith("camera")] == ["camera.up"] * 2 + [
        "camera.down"
    ] * 2


def test_boxes_are_logged_for_every_frame_of_a_track(tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]) -> None:
    run(write_site(tmp_path, tiny_bundle, walks))
    rows = {int(row["frame"]): row for row in read_rows(tmp_path / "tracks" / "cam2.csv")}
    assert set(range(80, 110)) <= set(rows)
    # At frame 90 red stands at 180..210, 40..130.
    assert [float(rows[90][name]) for name in ("x1", "y1", "x2", "y2")] == pytest.approx([180, 40, 210, 130], abs=4)
    assert float(rows[90]["captured_at"]) == pytest.approx(1009.0)


def test_identities_are_known_after_a_restart(tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]) -> None:
    path = write_site(tmp_path, tiny_bundle, walks)
    run(path)
    before = read_rows(tmp_path / "tracks/identities.csv")
    _, events = run(path)
    assert read_rows(tmp_path / "tracks/identities.csv") == before
    assert len([event for event in events if event["event"] == "identity.created"]) == 2  # all of them in the first run


def test_a_region_leaves_out_who_stands_elsewhere(tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]) -> None:
    upper_half = "cameras.0.region=[[0,0],[1,0],[1,0.5],[0,0.5]]"
    summary, _ = run(write_site(tmp_path, tiny_bundle, walks), upper_half)
    assert summary.sightings == 1  # only that of cam2


def test_the_bundle_s_threshold_is_taken_where_the_site_gives_none(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    summary, _ = run(write_site(tmp_path, tiny_bundle, walks), "identity.min_similarity=null")
    assert summary.identities >= 2


def test_a_stop_before_the_first_frame_is_no_failure(tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]) -> None:
    site = load_site(write_site(tmp_path, tiny_bundle, walks))
    orders = Orders()
    orders.stop.set()
    assert run_site(site, orders=orders, progress=False).frames == 0


def test_a_site_whose_cameras_give_nothing_fails_and_says_where_the_reasons_are(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    path = write_site(tmp_path, tiny_bundle, walks)
    overrides = [f"cameras.{camera}.since=60" for camera in (0, 1)]  # longer than the recordings
    with pytest.raises(ReidgeError, match=r"no camera gave a single frame.*camera\.down"):
        run(path, *overrides)
    assert [event["event"] for event in read_events(tmp_path)] == ["camera.down"] * 2


def test_sigterm_ends_tracks_flushes_and_exits_with_status_0(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    path = write_site(tmp_path, tiny_bundle, walks)
    command = [sys.executable, "-m", "reidge.cli.main", "run", str(path), "--json"]
    for camera in (0, 1):
        command += ["--set", f"cameras.{camera}.pace=realtime", "--set", f"cameras.{camera}.since=2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    events = tmp_path / "events.jsonl"
    for _ in range(300):
        if events.exists() and "sighting.started" in events.read_text():
            break
        if process.poll() is not None:
            break
        threading.Event().wait(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    summary = json.loads(out)
    kinds = [event["event"] for event in read_events(tmp_path)]
    assert kinds.count("sighting.started") == kinds.count("sighting.ended") == summary["sightings"] > 0
    assert (tmp_path / "tracks" / "identities.csv").exists()


def test_a_gallery_of_another_bundle_stops_the_run(tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]) -> None:
    from reidge.edge.gallery import Gallery, GalleryConfig

    config = GalleryConfig(min_similarity=0.5)
    Gallery(tmp_path / "gallery.sqlite", encoder_hash="f" * 64, embedding_dim=24, config=config).close()
    with pytest.raises(InputError, match="another encoder"):
        run(write_site(tmp_path, tiny_bundle, walks))
    assert not (tmp_path / "events.jsonl").exists()


def test_the_command_prints_its_figures(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(write_site(tmp_path, tiny_bundle, walks)), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["frames"] == 240
    assert figures["latency_ms_p50"] <= figures["latency_ms_p95"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("trackin: {}\n", "unknown key 'trackin'"),
        ("detector: {kind: yolox, path: none.onnx}\n", "none.onnx does not exist"),
    ],
)
def test_a_wrong_site_is_one_line_and_status_2(
    tmp_path: Path,
    tiny_bundle: Path,
    walks: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    extra: str,
    message: str,
) -> None:
    assert main(["run", str(write_site(tmp_path, tiny_bundle, walks, extra)), "--json"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("reidge run: ")
    assert message in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_site(tmp_path, tiny_bundle, walks)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert main(["run", str(path), "--set", f"outputs.events={locked}/e.jsonl", "--json"]) == 1
    assert "Permission denied" in capsys.readouterr().err


def test_events_and_figures_do_not_share_stdout(tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]) -> None:
    path = write_site(tmp_path, tiny_bundle, walks)
    assert main(["run", str(path), "--set", "outputs.events='-'", "--json"]) == 2


class Flawed:
    """A real detector that fails at some frames of one camera."""

    def __init__(self, detector: Detector, fails_at: Callable[[Frame], bool]) -> None:
        self._detector, self._fails_at = detector, fails_at
        self.forgotten: list[str] = []

    def detect_many(self, frames: Sequence[Frame]) -> list[Detections]:
        if any(self._fails_at(frame) for frame in frames):
            raise RuntimeError("the device lost its way")
        return self._detector.detect_many(frames)

    def forget(self, camid: str) -> None:
        self.forgotten.append(camid)
        self._detector.forget(camid)


@contextmanager
def open_pipeline(
    path: Path, bundle_path: Path, *, fails_at: Callable[[Frame], bool] = lambda frame: False, metrics: Metrics
) -> Iterator[Pipeline]:
    """A pipeline that has handled the whole of a site's recordings."""
    site, bundle = load_site(path), Bundle.load(bundle_path)
    with (
        open_detector(site.detector) as detector,
        open_encoder(bundle, "onnxruntime", threads=1) as encoder,
        open_gallery(site, bundle, encoder) as gallery,
        Outputs(OutputConfig(events=None)) as outputs,
        TrackLog(None, []) as tracks,
        Cameras(site.cameras) as cameras,
    ):
        pipeline = Pipeline(
            site,
            detector=cast("Detector", Flawed(detector, fails_at)),
            encoder=encoder,
            gallery=gallery,
            sink=outputs,
            tracks=tracks,
            metrics=metrics,
        )
        for frames in cameras.moments(threading.Event()):
            pipeline.handle(frames)
        pipeline.finish()
        yield pipeline


def test_the_detector_begins_anew_where_a_camera_was_away_for_long_or_shows_something_else(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    with open_pipeline(write_site(tmp_path, tiny_bundle, walks), tiny_bundle, metrics=Metrics()) as pipeline:
        forgotten, site = cast("Flawed", pipeline.detector).forgotten, pipeline.site
        for seconds in (AWAY, AWAY + 1):
            assert forgotten == []
            # A camera may say again that it is down, for another reason.
            for at, up in ((2000.0, False), (2000.0 + seconds / 2, False), (2000.0 + seconds, True)):
                pipeline.camera_changed(CameraState(camid="cam1", up=up, at=at))
        assert forgotten == ["cam1"]
        first, second = site.cameras
        updates: tuple[tuple[dict[str, Any], list[str]], ...] = (
            ({"max_fps": 5.0}, []),
            ({"masks": (((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)),)}, ["cam2"]),
            ({"source": first.source}, ["cam2"]),
        )
        for update, expected in updates:
            forgotten.clear()
            second = second.model_copy(update=update)
            pipeline.reconfigure(site.model_copy(update={"cameras": (first, second)}))
            assert forgotten == expected
        pipeline.reconfigure(site.model_copy(update={"cameras": (first,)}))
        assert forgotten == ["cam2", "cam2"]


def test_frames_in_hand_at_a_reload_are_not_handled_where_the_camera_s_masks_changed(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # They were painted by the old masks and show what the new ones hide: here everything.
    path = write_site(tmp_path, tiny_bundle, walks)
    paced = [f"cameras.{camera}.pace=realtime" for camera in (0, 1)]
    masked = load_site(path, [*paced, "cameras.0.masks=[[[0, 0], [1, 0], [1, 1], [0, 1]]]"])
    orders = Orders()
    moments, handle = Cameras.moments, Pipeline.handle
    handled: list[Frame] = []

    def with_a_frame_in_hand(self: Cameras, stop: threading.Event) -> Iterator[list[Frame]]:
        asked = False
        for frames in moments(self, stop):
            if not asked and any(frame.camid == "cam1" for frame in frames):
                asked = True
                orders.reload.set()
            yield frames

    def noted(self: Pipeline, frames: Sequence[Frame]) -> None:
        handled.extend(frame for frame in frames if frame.camid == "cam1")
        if handled:
            orders.stop.set()
        handle(self, frames)

    monkeypatch.setattr(Cameras, "moments", with_a_frame_in_hand)
    monkeypatch.setattr(Pipeline, "handle", noted)
    run_site(load_site(path, paced), orders=orders, reread=lambda: masked, progress=False)
    assert [np.ptp(frame.image) for frame in handled] == [0]


def test_identities_at_the_end_are_those_that_its_sightings_still_have(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    path = write_site(tmp_path, tiny_bundle, walks)
    run(path)
    with open_pipeline(path, tiny_bundle, metrics=Metrics()) as pipeline:
        gallery = pipeline.book.gallery
        again = [row for row in gallery.sightings() if row.sighting_id > 3]
        assert len(again) == 3  # the first run has as many, of the same two people
        assert standing_identities(pipeline) == pipeline.identities == 2
        for row in again:
            gallery.assign(row.sighting_id, 1)
        assert gallery.flush(10.0)
        assert standing_identities(pipeline) == 1
        for row in again:
            gallery.assign(row.sighting_id, None)
        assert gallery.flush(10.0)
        assert standing_identities(pipeline) == 0
        gallery.store._reader.close()
        assert standing_identities(pipeline) == 2  # as it was told
        gallery.store.reopen()


def test_without_a_track_log_ended_tracks_leave_nothing_but_the_count_of_identities(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    with open_pipeline(write_site(tmp_path, tiny_bundle, walks), tiny_bundle, metrics=Metrics()) as pipeline:
        assert (pipeline.reporter.sightings, pipeline.identities) == (3, 2)
        assert pipeline._logged == {}


def test_a_frame_at_which_the_detector_fails_is_left_out_and_costs_no_other_camera_anything(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    metrics = Metrics()
    path = write_site(tmp_path, tiny_bundle, walks)
    with open_pipeline(
        path, tiny_bundle, metrics=metrics, fails_at=lambda frame: frame.camid == "cam1" and 40 <= frame.index < 44
    ) as pipeline:
        assert (pipeline.reporter.sightings, pipeline.identities) == (3, 2)
    counters = metrics.summary()["counters"]
    assert counters["frames_failed"] == {"cam1": 4}
    assert counters["frames_handled"] == {"cam1": 116, "cam2": 120}


def test_an_answer_that_cannot_be_tracked_costs_that_camera_its_tracks_and_no_other_one(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = MotionDetector.detect_many

    def forgets(self: MotionDetector, frames: Sequence[Frame]) -> list[Detections]:
        at_fault = [frame.camid == "cam1" and frame.index == 40 for frame in frames]
        return [
            cast("Detections", None) if fault else one for fault, one in zip(at_fault, found(self, frames), strict=True)
        ]

    monkeypatch.setattr(MotionDetector, "detect_many", forgets)
    _, events = run(write_site(tmp_path, tiny_bundle, walks))
    ended = [event["camid"] for event in events if event["event"] == "sighting.ended"]
    assert sorted(ended) == ["cam1", "cam1", "cam1", "cam2"]  # red of cam1 is two tracks now


@pytest.mark.parametrize("when", ["a track began", "tracks ended"])
def test_a_tracker_that_fails_half_way_leaves_no_sighting_live_and_the_run_goes_on(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    take = View.take
    failed: list[str] = []

    def fails_once(self: View, frame: Frame, detections: Detections) -> Glance:
        if when == "tracks ended" and frame.index == 40 and not failed:
            failed.append(frame.camid)
            assert self.finish()
            raise RuntimeError("out of memory")
        glance = take(self, frame, detections)
        if when == "a track began" and glance.boxes and not failed:
            failed.append(frame.camid)
            raise RuntimeError("out of memory")
        return glance

    monkeypatch.setattr(View, "take", fails_once)
    metrics = Metrics()
    with open_pipeline(write_site(tmp_path, tiny_bundle, walks), tiny_bundle, metrics=metrics) as pipeline:
        assert pipeline.book.live == {}
        assert pipeline.identities == 2
    assert metrics.summary()["counters"]["frames_failed"] == dict.fromkeys(failed, 1)


def test_a_detector_that_fails_at_everything_ends_the_run_so_that_a_new_start_can_mend_it(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(self: MotionDetector, frames: Sequence[Frame]) -> list[Detections]:
        raise RuntimeError("the device lost its way")

    monkeypatch.setattr(MotionDetector, "detect_many", lost)
    path = write_site(tmp_path, tiny_bundle, walks, "watchdog: {seconds: 0.2}\n")
    with pytest.raises(ReidgeError, match=r"the detector has failed at everything for 0 s"):
        run(path, "cameras.0.pace=realtime", "cameras.1.pace=realtime")


def test_one_failure_before_a_silence_is_not_taken_for_failing_at_everything(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    path = write_site(tmp_path, tiny_bundle, walks)
    last = {"cam1": 119, "cam2": 119}
    with open_pipeline(
        path, tiny_bundle, metrics=Metrics(), fails_at=lambda frame: frame.index == last[frame.camid]
    ) as pipeline:
        time.sleep(0.5)  # nobody comes by, and no frame
        assert list(pipeline.failing()) == ["detector"]
        assert pipeline.failing()["detector"] < 0.5


def test_pictures_that_are_no_use_are_not_embedded_and_the_reason_is_counted(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]
) -> None:
    metrics = Metrics()
    path = write_site(tmp_path, tiny_bundle, walks)
    with open_pipeline(path, tiny_bundle, metrics=metrics) as pipeline:
        embedded = pipeline.embeddings
    counters = metrics.summary()["counters"]
    assert sum(counters["embeddings"].values()) == embedded > 0
    assert counters["pictures_cut"]["cam1"] > 0  # on the way in and out
    assert embedded < 2 * 3 * 4 * 5  # three people, 4 to 5 s each, 4 pictures a second at most


def test_making_pictures_ready_for_the_encoder_counts_as_overhead(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.02)
        return cut_out(*args, **kwargs)

    monkeypatch.setattr("reidge.edge.pipeline.cut_out", slowly)
    summary, _ = run(write_site(tmp_path, tiny_bundle, walks))
    assert summary.overhead is not None
    assert summary.embeddings > 0
    assert 0.02 * summary.embeddings <= summary.overhead * summary.seconds <= summary.seconds


def test_folders_of_outputs_are_made(tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]) -> None:
    path = write_site(tmp_path, tiny_bundle, walks)
    new = ("storage.gallery=new/g/gallery.sqlite", "outputs.events=new/e/events.jsonl", "outputs.tracks=new/t")
    run_site(load_site(path, new), progress=False)
    assert sorted(found.name for found in (tmp_path / "new").iterdir()) == ["e", "g", "t"]
    assert (tmp_path / "new" / "g" / "gallery.sqlite").is_file()
