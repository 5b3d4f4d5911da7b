from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from reidge.edge.events import Event, iso_time
from reidge.edge.metrics import Metrics
from reidge.edge.outputs import OutputConfig, Outputs
from reidge.edge.outputs.jsonl import RotationConfig

if TYPE_CHECKING:
    from pathlib import Path


def sighting(track_id: int = 1) -> Event:
    return Event(event="sighting.started", captured_at=iso_time(0.25), camid="cam1", track_id=track_id)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def track_ids(path: Path) -> list[int]:
    return [event["track_id"] for event in read(path)]


def to_file(path: Path, **settings: Any) -> OutputConfig:
    return OutputConfig(events=str(path), **settings)


def test_an_event_can_be_read_as_soon_as_it_is_flushed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "events.jsonl"
    with Outputs(to_file(path)) as outputs:
        outputs.write(sighting(7))
        assert outputs.flush(10)
        assert track_ids(path) == [7]


def test_events_come_out_in_the_order_they_went_in(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Outputs(to_file(path)) as outputs:
        for number in range(2000):
            outputs.write(sighting(number))
    assert track_ids(path) == list(range(2000))


def test_a_restart_appends(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for track_id in (1, 2):
        with Outputs(to_file(path)) as outputs:
            outputs.write(sighting(track_id))
    assert track_ids(path) == [1, 2]


@pytest.mark.parametrize("torn", [b'{"event":"sight', b"x" * 200_000])
def test_a_line_torn_by_a_kill_is_cut_off_and_whole_ones_stay(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "events.jsonl"
    with Outputs(to_file(path)) as outputs:
        outputs.write(sighting(1))
    with path.open("ab") as file:
        file.write(torn)
    with Outputs(to_file(path)) as outputs:
        outputs.write(sighting(2))
    assert track_ids(path) == [1, 2]


def test_files_are_put_aside_by_size_and_the_oldest_are_deleted(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    line = len(sighting(1000).model_dump_json()) + 1
    rotation = RotationConfig(max_mib=2.5 * line / 2**20, keep=2)  # two lines a file
    with Outputs(to_file(path, rotation=rotation)) as outputs:
        for number in range(1000, 1009):
            outputs.write(sighting(number))
            assert outputs.flush(10)  # lines that are written at once stay together
    names = sorted(found.name for found in tmp_path.iterdir())
    assert names == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]
    assert [track_ids(tmp_path / name) for name in names] == [[1008], [1006, 1007], [1004, 1005]]


def test_a_file_that_another_hand_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Outputs(to_file(path)) as outputs:
        outputs.write(sighting(1))
        assert outputs.flush(10)
        path.rename(tmp_path / "moved")
        outputs.write(sighting(2))
    assert (track_ids(tmp_path / "moved"), track_ids(path)) == ([1], [2])


def test_a_dash_is_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    with Outputs(OutputConfig(events="-")) as outputs:
        outputs.write(sighting())
    assert json.loads(capfd.readouterr().out)["camid"] == "cam1"


def test_text_that_stands_in_for_stdout_will_do(capsys: pytest.CaptureFixture[str]) -> None:
    with Outputs(OutputConfig(events="-")) as outputs:
        outputs.write(sighting())
    assert json.loads(capsys.readouterr().out)["camid"] == "cam1"


def test_nowhere_counts_but_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Metrics()
    with Outputs(OutputConfig(events=None), metrics=metrics) as outputs:
        outputs.write(sighting())
        assert outputs.flush(0)
    assert outputs.written == metrics.summary()["counters"]["events"] == 1
    assert capsys.readouterr().out == ""


def test_a_password_in_a_reason_does_not_come_out(tmp_path: Path) -> None:
    event = Event(event="camera.down", captured_at=iso_time(0), camid="cam1", reason="rtsp://u:p@ss@10.0.0.9/s is gone")
    with Outputs(to_file(tmp_path / "e.jsonl")) as outputs:
        outputs.write(event)
    (written,) = read(tmp_path / "e.jsonl")
    assert (written["reason"], written["event_id"]) == ("rtsp://10.0.0.9/s is gone", event.event_id)
