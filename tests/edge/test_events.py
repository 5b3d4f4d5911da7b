from __future__ import annotations

import json
from typing import TYPE_CHECKING

from reidge.edge.events import Event, EventWriter, iso_time

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def sighting(track_id: int = 1) -> Event:
    return Event(
        event="sighting.started", captured_at=iso_time(0.25), camid="cam1", track_id=track_id, box=(1, 2, 3, 4)
    )


def test_time_is_iso_8601_in_utc() -> None:
    assert iso_time(1_750_000_000.25) == "2025-06-15T15:06:40.250Z"


def test_each_line_is_one_object_with_every_field(tmp_path: Path) -> None:
    path = tmp_path / "out" / "events.jsonl"
    with EventWriter(path) as writer:
        writer.write(sighting())
    (line,) = path.read_text().splitlines()
    event = json.loads(line)
    assert event.pop("event_id")
    assert event == {
        "schema_version": 1,
        "event": "sighting.started",
        "captured_at": "1970-01-01T00:00:00.250Z",
        "camid": "cam1",
        "track_id": 1,
        "global_id": None,
        "similarity": None,
        "box": [1, 2, 3, 4],
        "merged_from": None,
        "reason": None,
    }


def test_an_event_can_be_read_as_soon_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as writer:
        writer.write(sighting())
        assert len(path.read_text().splitlines()) == 1


def test_event_ids_are_unique() -> None:
    assert len({sighting().event_id for _ in range(1000)}) == 1000


def test_a_restart_appends(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for track_id in (1, 2):
        with EventWriter(path) as writer:
            writer.write(sighting(track_id))
    assert [json.loads(line)["track_id"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_dash_is_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with EventWriter("-") as writer:
        writer.write(sighting())
    assert json.loads(capsys.readouterr().out)["camid"] == "cam1"


def test_nowhere_counts_but_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with EventWriter(None) as writer:
        writer.write(sighting())
    assert writer.written == 1
    assert capsys.readouterr().out == ""
