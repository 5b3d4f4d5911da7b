from __future__ import annotations

import threading

import pytest

from reidge.edge.metrics import MAX_LABELS, OTHER, Metrics
from reidge.edge.redact import remember_secret


def test_counters_and_gauges_are_kept_by_camera_or_output() -> None:
    metrics = Metrics()
    metrics.count("frames_dropped", "cam1")
    metrics.count("frames_dropped", "cam1", 2)
    metrics.count("frames_dropped", "cam2", 5)
    metrics.count("events", n=4)
    metrics.count("output_lost", n=3, output="mqtt")
    metrics.gauge("frame_age_seconds", 0.25, "cam1")
    metrics.gauge("frame_age_seconds", 0.5, "cam1")
    summary = metrics.summary()
    assert summary["counters"] == {
        "events": 4,
        "frames_dropped": {"cam1": 3, "cam2": 5},
        "output_lost": {"mqtt": 3},
    }
    assert summary["gauges"] == {"frame_age_seconds": {"cam1": 0.5}}


def test_latencies_are_told_by_stage_and_camera() -> None:
    metrics = Metrics()
    for milliseconds in range(1, 101):
        metrics.observe("detect", "cam1", milliseconds / 1e3)
    metrics.observe("detect", "cam2", 0.004)
    found = metrics.summary()["stages"]["detect"]
    assert found["cam1"]["count"] == 100
    assert found["cam1"]["mean_ms"] == pytest.approx(50.5)
    assert found["cam1"]["p95_ms"] == pytest.approx(95, rel=0.03)
    assert found["cam2"]["p50_ms"] == pytest.approx(4, rel=0.03)


def test_what_was_counted_elsewhere_never_goes_back() -> None:
    metrics = Metrics()
    for value in (5, 9, 7):
        metrics.total("frames_decoded", value, "cam1")
    assert metrics.summary()["counters"] == {"frames_decoded": {"cam1": 9}}


def test_numbers_that_age_are_asked_for_at_each_reading() -> None:
    metrics, ages = Metrics(), iter((0.1, 0.2))
    metrics.on_read(lambda read: read.gauge("frame_age_seconds", next(ages), "cam1"))
    assert [metrics.summary()["gauges"]["frame_age_seconds"]["cam1"] for _ in range(2)] == [0.1, 0.2]


def _fail(_: Metrics) -> None:
    raise OSError("no such thing")


def test_a_source_that_fails_takes_no_other_number_away() -> None:
    metrics = Metrics()
    metrics.on_read(_fail)
    metrics.on_read(lambda read: read.gauge("frame_age_seconds", 1, "cam1"))
    summary = metrics.summary()
    assert summary["counters"] == {"metrics_failures": 1}
    assert summary["gauges"] == {"frame_age_seconds": {"cam1": 1}}


def test_a_camera_that_left_the_site_leaves_no_series() -> None:
    metrics = Metrics()
    for camid in ("cam1", "cam2"):
        metrics.count("frames_dropped", camid)
        metrics.gauge("frame_age_seconds", 1, camid)
        metrics.observe("detect", camid, 0.1)
    metrics.forget("cam1")
    metrics.forget("never there")
    summary = metrics.summary()
    assert summary["counters"] == {"frames_dropped": {"cam2": 1}}
    assert summary["gauges"] == {"frame_age_seconds": {"cam2": 1}}
    assert list(summary["stages"]["detect"]) == ["cam2"]


def test_the_number_of_labels_is_bounded() -> None:
    metrics = Metrics()
    for number in range(MAX_LABELS + 50):
        metrics.count("frames_dropped", f"cam{number}")
    found = metrics.summary()["counters"]["frames_dropped"]
    assert len(found) == MAX_LABELS + 1
    assert found[OTHER] == 50


def test_no_label_holds_a_password() -> None:
    metrics = Metrics()
    metrics.count("camera_failures", "rtsp://user:secret@10.0.0.9/stream")
    metrics.describe(source="rtsp://user:secret@10.0.0.9/stream")
    assert "secret" not in str(metrics.summary())


def test_cameras_whose_names_stand_in_a_secret_keep_series_of_their_own() -> None:
    remember_secret("hall@door")
    metrics = Metrics()
    metrics.count("frames_dropped", "hall", 1)
    metrics.count("frames_dropped", "door", 2)
    assert metrics.summary()["counters"] == {"frames_dropped": {"hall": 1, "door": 2}}


def test_threads_lose_no_count() -> None:
    metrics = Metrics()

    def work() -> None:
        for _ in range(5000):
            metrics.count("events")
            metrics.observe("emit", "cam1", 0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    summary = metrics.summary()
    assert summary["counters"]["events"] == summary["stages"]["emit"]["cam1"]["count"] == 20_000
