from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reidge.edge.events import Event, iso_time
from reidge.edge.metrics import Metrics
from reidge.edge.outputs import OutputConfig, Outputs, worker
from reidge.edge.outputs.jsonl import RotationConfig
from tests.servers.disk import largest_file

if TYPE_CHECKING:
    from collections.abc import Callable


def sighting(track_id: int = 1) -> Event:
    return Event(event="sighting.started", captured_at=iso_time(0.25), camid="cam1", track_id=track_id)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def track_ids(path: Path) -> list[int]:
    return [event["track_id"] for event in read(path)]


def wait_until(what: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.02)


def to_file(path: Path, **settings: Any) -> OutputConfig:
    return OutputConfig(events=str(path), **settings)


def test_an_event_can_be_read_as_soon_as_it_is_flushed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "events.jsonl"
    with Outputs(to_file(path)) as outputs:
        outputs.write(sighting(7))
        assert outputs.flush(10)
        assert track_ids(path) == [7]


def test_only_its_owner_may_read_a_file_of_events_unless_it_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "shared.jsonl").touch()
    (tmp_path / "shared.jsonl").chmod(0o644)
    for name, mode in (("new/events.jsonl", 0o600), ("shared.jsonl", 0o644)):
        with Outputs(to_file(tmp_path / name)) as outputs:
            outputs.write(sighting())
            assert outputs.flush(10)
        assert (tmp_path / name).stat().st_mode & 0o777 == mode
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


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


def test_a_full_disk_delays_events_and_loses_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "reidge")
    path, metrics = tmp_path / "events.jsonl", Metrics()
    with Outputs(to_file(path), metrics=metrics) as outputs:
        with largest_file(1000):  # in the middle of a line
            for number in range(20):
                outputs.write(sighting(number))
            wait_until(lambda: outputs.trouble)
            assert not outputs.flush(0)
            up, waiting = (metrics.summary()["gauges"][name]["events"] for name in ("output_up", "output_waiting"))
            assert (up, waiting) == (0, 20 - path.read_text().count("\n"))
        assert outputs.flush(10)
        assert outputs.trouble == {}
    assert track_ids(path) == list(range(20))
    assert outputs.lost == 0
    assert metrics.summary()["counters"]["output_delivered"] == {"events": 20}
    assert "output events: File too large. Events wait, at most 20000" in caplog.messages
    assert caplog.messages[-1] == "output events: works again"


def test_what_waits_is_bounded_and_the_oldest_are_lost_and_counted(tmp_path: Path) -> None:
    path, metrics = tmp_path / "events.jsonl", Metrics()
    with Outputs(to_file(path, max_waiting=10), metrics=metrics) as outputs:
        with largest_file(0):
            outputs.write(sighting(0))
            wait_until(lambda: outputs.trouble)  # it holds on to the first event, beside those that wait
            for number in range(1, 31):
                outputs.write(sighting(number))
        assert outputs.flush(10)
    assert track_ids(path) == [0, *range(21, 31)]
    assert metrics.summary()["counters"]["output_lost"] == {"events": outputs.lost} == {"events": 20}


def test_a_disk_that_stays_full_costs_the_end_of_a_run_little_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with largest_file(0):
        began = time.monotonic()
        with Outputs(to_file(tmp_path / "events.jsonl")) as outputs:
            outputs.write(sighting(1))
        assert time.monotonic() - began < 4
    assert outputs.lost == 1
    assert "output events: ends with 1 events not delivered: File too large" in caplog.text


def test_a_reader_that_stands_still_holds_up_neither_the_loop_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "HANGS_SECONDS", 0.05)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with Outputs(to_file(pipe, max_waiting=100)) as outputs:

        def is_full() -> bool:
            for number in range(50):
                outputs.write(sighting(number))
            return "hangs in a system call" in outputs.trouble.get("events", "") and outputs.lost > 0

        wait_until(is_full)
        assert not outputs.flush(0.1)
    assert "output events: events are lost, 1 so far" in caplog.text
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def ended() -> bool:
        with suppress(BlockingIOError):
            os.read(reader, 2**16)  # lets the thread end that hangs in write
        return all(thread.name != "output-events" for thread in threading.enumerate())

    wait_until(ended)
    os.close(reader)


def test_a_place_that_cannot_be_written_is_an_error_at_the_start() -> None:
    with (
        pytest.raises(OSError, match=r"Permission denied|Operation not permitted|No such file|Read-only"),
        Outputs(to_file(Path("/sys/reidge/events.jsonl"))),
    ):
        pass


CLOSED_READER = """
from reidge.edge.events import Event, iso_time
from reidge.edge.outputs import OutputConfig, Outputs
import sys
with Outputs(OutputConfig()) as outputs:
    for number in range(3):
        outputs.write(Event(event="sighting.started", captured_at=iso_time(0), track_id=number))
    outputs.flush(0.5)
    print(outputs.lost, outputs.trouble, file=sys.stderr)
"""


def test_a_reader_of_stdout_that_went_away_is_no_failure() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CLOSED_READER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0
    assert "output stdout: Broken pipe" in said
    assert "ends with 3 events not delivered" in said
    assert "Traceback" not in said


def test_writing_never_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    event = sighting(1).model_copy(update={"track_id": object()})  # cannot be written as JSON
    with Outputs(to_file(tmp_path / "e.jsonl")) as outputs:
        outputs.write(event)
        outputs.write(sighting(2))
    assert track_ids(tmp_path / "e.jsonl") == [2]
    assert "an event could not be handed on" in caplog.text
